"""A segmented LRU inside a policy's state, in the variant of libCacheSim, with any number of segments up to four. With
two, of which the lower has more than any share, it is that of Karedla, Love and Wherry (see `policies/slru.py`).

One list holds all segments, the highest in front, so that an entry that moves from the end of one to the front of the
next stays where it is. ROWS rows from `row`: two of the list (`lists`) with its head in column n_entries; the segment
of each entry; and one per segment, of which three columns are used. A segment of one entry is never over its share, so
shares may be smaller than an entry.
"""

from __future__ import annotations

from remoe_sim.kernels.compile import kernel
from remoe_sim.kernels.lists import at, clear, oldest, oldest_outside, push_front, remove

ROWS = 7
_LEVEL, _SEGMENT = 2, 3
_TAKEN, _SHARE, _FIRST = 0, 1, 2  # columns of a segment's row: what its entries take, its share, its first entry


@kernel
def clear_segments(state, row, top):
    """Empty segments 0 to `top`, without shares."""
    n = state.shape[1] - 2
    clear(state, row, n)
    state[row + _LEVEL, n] = 0
    for level in range(top + 1):
        state[row + _SEGMENT + level, _TAKEN] = 0


@kernel
def set_share(state, row, level, share):
    state[row + _SEGMENT + level, _SHARE] = share


@kernel
def enter_segments(state, row, top, entry):
    """Into the lowest segment with room, else into the lowest."""
    chosen = 0
    for level in range(top, -1, -1):
        taken = state[row + _SEGMENT + level, _TAKEN]
        if taken == 0 or taken + state[0, entry] <= state[row + _SEGMENT + level, _SHARE]:
            chosen = level
    _put(state, row, entry, chosen)


@kernel(inline=True)
def raise_entry(state, row, top, entry):
    """A hit: one segment up; what is too much there goes down. If the lowest `overflowed`, some must leave."""
    levels = row + _LEVEL
    n = state.shape[1] - 2
    level = state[levels, at(entry)]
    if level == top:
        remove(state, row, entry)
        push_front(state, row, n, entry)
        state[at(row + _SEGMENT + level), _FIRST] = entry
        return
    own, above = at(row + _SEGMENT + level), at(row + _SEGMENT + level + 1)
    falling = state[row + 1, at(state[own, _FIRST])]
    taken, size = state[above, _TAKEN], state[0, at(entry)]
    if taken > 0 and taken + size > state[above, _SHARE] and state[0, at(falling)] == size:
        # Usually the segment above is full, and its last entry falls to where this one came from.
        place = state[row + 1, at(state[above, _FIRST])]
        remove(state, row, entry)
        push_front(state, row, place, entry)
        state[levels, at(entry)] = level + 1
        state[above, _FIRST] = entry
        state[levels, at(falling)] = level
        state[own, _FIRST] = falling
        state[levels, n] = (level == 0) & (state[own, _TAKEN] > state[own, _SHARE])
    else:
        _raise_slowly(state, row, level + 1, entry)


@kernel
def _raise_slowly(state, row, level, entry):
    """To `level`, for any sizes and fillings."""
    leave_segments(state, row, entry)
    _put(state, row, entry, level)
    while level > 0:
        segment, below = row + _SEGMENT + level, row + _SEGMENT + level - 1
        last = _end_above(state, row, level - 1)
        if state[segment, _TAKEN] <= state[segment, _SHARE] or last == state[segment, _FIRST]:
            return
        state[row + _LEVEL, state.shape[1] - 2] = level == 1
        while state[segment, _TAKEN] > state[segment, _SHARE] and last != state[segment, _FIRST]:
            state[row + _LEVEL, last] = level - 1
            state[segment, _TAKEN] -= state[0, last]
            state[below, _TAKEN] += state[0, last]
            state[below, _FIRST] = last
            last = state[row + 1, last]
        level -= 1


@kernel
def overflowed(state, row):
    """Whether a hit pushed entries into the lowest segment, of which some may have to leave."""
    return state[row + _LEVEL, state.shape[1] - 2] != 0


@kernel
def overflow(state, row, protected):
    """Who must leave the lowest segment after it `overflowed`, removed; or -1, and then it is settled."""
    n = state.shape[1] - 2
    lowest = row + _SEGMENT
    entry = -1
    if state[lowest, _TAKEN] > state[lowest, _SHARE] and state[lowest, _FIRST] != oldest(state, row, n):
        entry = oldest_outside(state, row, n, protected)
    if entry >= 0 and state[row + _LEVEL, entry] == 0:
        leave_segments(state, row, entry)
        return entry
    state[row + _LEVEL, n] = 0
    return -1


@kernel
def lowest_outside(state, row, protected):
    """The next to leave that is not protected, or -1."""
    return oldest_outside(state, row, state.shape[1] - 2, protected)


@kernel
def leave_segments(state, row, entry):
    segment = row + _SEGMENT + state[row + _LEVEL, entry]
    state[segment, _TAKEN] -= state[0, entry]
    if state[segment, _FIRST] == entry:
        state[segment, _FIRST] = state[row, entry]
    remove(state, row, entry)


@kernel
def _put(state, row, entry, level):
    """To the front of a segment."""
    push_front(state, row, _end_above(state, row, level), entry)
    state[row + _LEVEL, entry] = level
    state[row + _SEGMENT + level, _TAKEN] += state[0, entry]
    state[row + _SEGMENT + level, _FIRST] = entry


@kernel
def _end_above(state, row, level):
    """The last entry of the segments above `level`, or the head."""
    while level >= 0:
        if state[row + _SEGMENT + level, _TAKEN] > 0:
            return state[row + 1, state[row + _SEGMENT + level, _FIRST]]
        level -= 1
    return state[row + 1, state.shape[1] - 2]
