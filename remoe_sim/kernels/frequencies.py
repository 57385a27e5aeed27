"""Residents by how often they were used, ties by recency, in constant time per use (Shah, Mitra, Matani: An O(1)
algorithm for implementing the LFU cache eviction scheme, 2010).

All residents lie in one list (`lists`), the most often used first, of equals the most recently used first. Those of
equal count are neighbours and form a bucket, which knows its count and its first entry. ROWS rows from `row`: two of
the list with its head in column n_entries, the bucket of each entry, the count and the first entry of each bucket, and
the buckets that are not in use, of which column n_entries says how many there are.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.compile import kernel
from remoe_sim.kernels.lists import clear, push_front, remove

ROWS = 6
_BUCKET, _COUNT, _TOP, _UNUSED = 2, 3, 4, 5


@kernel
def clear_counts(state, row):
    n = state.shape[1] - 2
    clear(state, row, n)
    state[row + _UNUSED, :n] = np.arange(n)
    state[row + _UNUSED, n] = n


@kernel
def count_of(state, row, entry):
    """How often a resident was used."""
    return state[row + _COUNT, state[row + _BUCKET, entry]]


@kernel
def add_counted(state, row, entry, count):
    """A new resident, used `count` times so far, the last time just now."""
    n = state.shape[1] - 2
    above = state[row + 1, n]  # the last entry of the bucket above, at the end
    while above != n and count_of(state, row, above) < count:
        above = _above(state, row, state[row + _BUCKET, above])
    if above != n and count_of(state, row, above) == count:
        _join(state, row, entry, state[row + _BUCKET, above])
    else:
        push_front(state, row, above, entry)
        _found(state, row, entry, count)


@kernel
def count_use(state, row, entry):
    """A resident is used once more."""
    n = state.shape[1] - 2
    bucket = state[row + _BUCKET, entry]
    count = state[row + _COUNT, bucket] + 1
    above = _above(state, row, bucket)
    joins = above != n and count_of(state, row, above) == count
    if not joins and _alone(state, row, entry, bucket):
        state[row + _COUNT, bucket] = count
        return
    drop_counted(state, row, entry)
    if joins:
        _join(state, row, entry, state[row + _BUCKET, above])
    else:
        push_front(state, row, above, entry)
        _found(state, row, entry, count)


@kernel
def drop_counted(state, row, entry):
    """A resident is none any more."""
    n = state.shape[1] - 2
    bucket = state[row + _BUCKET, entry]
    if _alone(state, row, entry, bucket):
        unused = state[row + _UNUSED, n]
        state[row + _UNUSED, unused] = bucket
        state[row + _UNUSED, n] = unused + 1
    elif state[row + _TOP, bucket] == entry:
        state[row + _TOP, bucket] = state[row, entry]
    remove(state, row, entry)


@kernel
def _above(state, row, bucket):
    """The last entry of the bucket above, or the head of the list."""
    return state[row + 1, state[row + _TOP, bucket]]


@kernel
def _alone(state, row, entry, bucket):
    after = state[row, entry]
    last = after == state.shape[1] - 2 or state[row + _BUCKET, after] != bucket
    return last and state[row + _TOP, bucket] == entry


@kernel
def _join(state, row, entry, bucket):
    """Into a bucket, as its first."""
    push_front(state, row, _above(state, row, bucket), entry)
    state[row + _BUCKET, entry] = bucket
    state[row + _TOP, bucket] = entry


@kernel
def _found(state, row, entry, count):
    """A bucket of one that is in the list already."""
    n = state.shape[1] - 2
    unused = state[row + _UNUSED, n] - 1
    bucket = state[row + _UNUSED, unused]
    state[row + _UNUSED, n] = unused
    state[row + _BUCKET, entry] = bucket
    state[row + _COUNT, bucket] = count
    state[row + _TOP, bucket] = entry
