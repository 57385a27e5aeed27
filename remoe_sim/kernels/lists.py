"""Doubly linked lists inside a policy's state array: two rows per list, next and previous, with a column as the head.

`state[row]` holds the next entry towards the tail, `state[row + 1]` the one before; the head column points to the
first (newest) and last (oldest) entry, and an empty list to itself.
"""

from __future__ import annotations

from remoe_sim.compile import kernel


@kernel
def clear(state, row, head):
    state[row, head] = head
    state[row + 1, head] = head


@kernel
def push_front(state, row, head, entry):
    first = state[row, head]
    state[row, head] = entry
    state[row, entry] = first
    state[row + 1, entry] = head
    state[row + 1, first] = entry


@kernel
def remove(state, row, entry):
    after, before = state[row, entry], state[row + 1, entry]
    state[row, before] = after
    state[row + 1, after] = before


@kernel
def oldest_outside(state, row, head, protected):
    """The entry nearest the tail that is not protected, or -1."""
    entry = state[row + 1, head]
    while entry != head and protected[entry]:
        entry = state[row + 1, entry]
    return -1 if entry == head else entry
