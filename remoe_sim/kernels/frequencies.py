"""Residents by how often they were used, ties by recency, in constant time per use (Shah, Mitra, Matani: An O(1)
algorithm for implementing the LFU cache eviction scheme, 2010).

All residents lie in one list (`lists`), the most often used first, of equals the most recently used first. Those of
equal count are neighbours and form a bucket, which knows its count and its first entry. ROWS rows from `row`: two of
the list with its head in column n_entries; the bucket of each entry; the count and the first entry of each bucket; the
buckets that are not in use, of which column n_entries says how many there are; and by count, as far as there are
columns, one more than the bucket that has it.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import kernel
from remoe_sim.kernels.lists import at, clear, push_front, remove

ROWS = 7
_BUCKET, _COUNT, _TOP, _UNUSED, _WITH = 2, 3, 4, 5, 6


@kernel
def clear_counts(state, row):
    n = state.shape[1] - 2
    clear(state, row, n)
    state[row + _UNUSED, :n] = np.arange(n)
    state[row + _UNUSED, n] = n
    state[row + _WITH] = 0


@kernel
def count_of(state, row, entry):
    """How often a resident was used."""
    return state[row + _COUNT, at(state[row + _BUCKET, at(entry)])]


@kernel
def add_counted(state, row, entry, count):
    """A new resident, used `count` times so far, the last time just now."""
    n = state.shape[1] - 2
    fewer = min(count, n + 1)
    while fewer > 0 and state[row + _WITH, at(fewer)] == 0:
        fewer -= 1
    if fewer == count:
        _join(state, row, entry, state[row + _WITH, at(count)] - 1)
        return
    above = state[row + 1, n] if fewer == 0 else _above(state, row, state[row + _WITH, at(fewer)] - 1)
    while above != n and count_of(state, row, above) < count:  # counts without a column
        above = _above(state, row, state[row + _BUCKET, at(above)])
    if above != n and count_of(state, row, above) == count:
        _join(state, row, entry, state[row + _BUCKET, at(above)])
    else:
        _found(state, row, entry, count, above)


@kernel
def count_use(state, row, entry):
    """A resident is used once more."""
    n = state.shape[1] - 2
    bucket = state[row + _BUCKET, at(entry)]
    count = state[row + _COUNT, at(bucket)] + 1
    above = _above(state, row, bucket)
    joins = above != n and count_of(state, row, above) == count
    if not joins and _alone(state, row, entry, bucket):
        _set_count(state, row, bucket, count)
        return
    drop_counted(state, row, entry)
    if joins:
        _join(state, row, entry, state[row + _BUCKET, at(above)])
    else:
        _found(state, row, entry, count, above)


@kernel
def drop_counted(state, row, entry):
    """A resident is none any more."""
    n = state.shape[1] - 2
    bucket = state[row + _BUCKET, at(entry)]
    if _alone(state, row, entry, bucket):
        if state[row + _COUNT, at(bucket)] <= n + 1:
            state[row + _WITH, at(state[row + _COUNT, at(bucket)])] = 0
        state[row + _UNUSED, at(state[row + _UNUSED, n])] = bucket
        state[row + _UNUSED, n] += 1
    elif state[row + _TOP, at(bucket)] == entry:
        state[row + _TOP, at(bucket)] = state[row, at(entry)]
    remove(state, row, entry)


@kernel
def _set_count(state, row, bucket, count):
    """A bucket in use gets another count."""
    last = state.shape[1] - 1
    if state[row + _COUNT, at(bucket)] <= last:
        state[row + _WITH, at(state[row + _COUNT, at(bucket)])] = 0
    if count <= last:
        state[row + _WITH, at(count)] = bucket + 1
    state[row + _COUNT, at(bucket)] = count


@kernel
def _above(state, row, bucket):
    """The last entry of the bucket above, or the head of the list."""
    return state[row + 1, at(state[row + _TOP, at(bucket)])]


@kernel
def _alone(state, row, entry, bucket):
    after = state[row, at(entry)]
    last = after == state.shape[1] - 2 or state[row + _BUCKET, at(after)] != bucket
    return last and state[row + _TOP, at(bucket)] == entry


@kernel
def _join(state, row, entry, bucket):
    """Into a bucket, as its first."""
    push_front(state, row, _above(state, row, bucket), entry)
    state[row + _BUCKET, at(entry)] = bucket
    state[row + _TOP, at(bucket)] = entry


@kernel
def _found(state, row, entry, count, above):
    """A bucket of its own, behind `above`."""
    n = state.shape[1] - 2
    state[row + _UNUSED, n] -= 1
    bucket = state[row + _UNUSED, at(state[row + _UNUSED, n])]
    push_front(state, row, above, entry)
    state[row + _BUCKET, at(entry)] = bucket
    state[row + _TOP, at(bucket)] = entry
    state[row + _COUNT, at(bucket)] = count
    if count <= n + 1:
        state[row + _WITH, at(count)] = bucket + 1
