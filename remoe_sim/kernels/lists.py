"""Doubly linked lists inside a policy's state array: two rows, next and previous, with a column as the head.

`state[row]` holds the next entry towards the tail, `state[row + 1]` the one before; the head column points to the
first (newest) and last (oldest) entry, and an empty list to itself. Two lists may share the rows, with a head in each
of the two extra columns, as long as no entry is in both.

Links are used as unsigned indices: a signed one that is not known to be positive costs a few instructions each time,
for it might count from the end, and here every load waits for the one before.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import kernel

at = np.uintp


@kernel
def clear(state, row, head):
    state[row, head] = head
    state[row + 1, head] = head


@kernel
def push_front(state, row, head, entry):
    """Put `entry` first, or, where `head` is an entry, behind that one on the side of the tail."""
    first = state[row, at(head)]
    state[row, at(head)] = entry
    state[row, at(entry)] = first
    state[row + 1, at(entry)] = head
    state[row + 1, at(first)] = entry


@kernel
def remove(state, row, entry):
    after, before = state[row, at(entry)], state[row + 1, at(entry)]
    state[row, at(before)] = after
    state[row + 1, at(after)] = before


@kernel
def oldest(state, row, head):
    """The last entry, or the head of an empty list."""
    return state[row + 1, head]


@kernel
def has_several(state, row, head):
    """Whether the list has more than one entry."""
    return state[row, head] != state[row + 1, head]


@kernel
def oldest_outside(state, row, head, protected):
    """The entry nearest the tail that is not protected, or -1."""
    entry = state[row + 1, head]
    while entry != head and protected[at(entry)]:
        entry = state[row + 1, at(entry)]
    return -1 if entry == head else entry
