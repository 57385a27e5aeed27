"""Replay at one limit by keys that are places: unique, from 0 on, the smaller is kept, as Belady's next uses are.

What may leave is a set of places, a bit for each, with a bit above every 64 that says whether any of them is set, and
so on up to a single word: the largest place is found, added and removed in as many steps as there are levels (van Emde
Boas, Kaas and Zijlstra, 1977, of whose tree this is the plain variant with words as nodes).
"""

from __future__ import annotations

import numpy as np

from remoe_sim.compile import kernel
from remoe_sim.kernels.borrowed import borrowed
from remoe_sim.kernels.lists import at

ONE = np.uint64(1)


def place_replay(
    offsets, entries, keys, epochs, preload, preload_keys, sizes, weights, limit, mandatory, hit, resting, running
):
    """Arguments, what is written and what is returned as in `limits.ordered_replay`; keys and preload_keys are below
    N + n_entries, and no two entries have the same at a time."""
    n = sizes.size
    starts = _levels(keys.size + n)
    return _replay(
        offsets, entries, keys, epochs, preload, preload_keys, sizes, weights, limit, mandatory, hit, resting, running,
        starts, np.zeros(starts[-1], np.uint64), np.empty(keys.size + n, np.uint16 if n <= 2**16 else np.int32),
        np.empty(n, np.int64),
        np.zeros(n, np.bool_), np.full(n, -1, np.int64),
    )  # fmt: skip


@kernel
def _replay(
    offsets, entries, keys, epochs, preload, preload_keys, sizes, weights, limit, mandatory, hit, resting, running,
    starts, bits, owner, place, resident, member,
):  # fmt: skip
    """The arrays behind `running` are scratch; made outside, for each would take 0.1 s to compile."""
    entries, keys, hit = borrowed(entries), borrowed(keys), borrowed(hit)
    bits, starts = borrowed(bits), borrowed(starts)
    n = sizes.size
    evictions = 0
    for epoch in range(epochs.size - 1):
        for entry in range(n):
            if resident[entry]:
                _remove(bits, starts, place[entry])
                resident[entry] = False
        used = np.int64(0)
        held = np.int64(0)
        for rank in range(preload.size):
            entry = np.int64(preload[rank])
            if used + sizes[entry] > limit:
                break
            used += sizes[entry]
            held += weights[entry]
            resident[entry] = True
            place[entry] = preload_keys[epoch % preload_keys.shape[0], entry]
            owner[place[entry]] = entry
            _add(bits, starts, place[entry])
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            for i in range(begin, end):
                entry = at(entries[at(i)])
                hit[at(i)] = resident[entry]
                member[entry] = group
                if resident[entry]:
                    _remove(bits, starts, place[entry])
                else:
                    used += sizes[entry]
                    held += weights[entry]
                    resident[entry] = True
                place[entry] = keys[at(i)]
                owner[at(keys[at(i)])] = entry
            together = held  # S ∪ R
            compete = not mandatory  # whether members may leave
            if compete:
                _add_group(bits, starts, keys, begin, end)
            while used > limit:
                if bits[bits.size - 1] == 0:  # only members are left
                    compete = True
                    _add_group(bits, starts, keys, begin, end)
                worst = _largest(bits, starts)
                _remove(bits, starts, worst)
                entry = at(owner[at(worst)])
                resident[entry] = False
                used -= sizes[entry]
                held -= weights[entry]
                evictions += member[entry] != group
            outside = np.int64(0)  # bytes of the members that are not kept
            if compete:
                for i in range(begin, end):
                    entry = at(entries[at(i)])
                    if not resident[entry]:
                        outside += weights[entry]
                        evictions += hit[at(i)]
            else:
                _add_group(bits, starts, keys, begin, end)
            resting[group] = held
            running[group] = held + outside if mandatory else together
    return evictions


def _levels(size):
    """Where each level of words begins, the lowest first, and where the last, a single word, ends."""
    words = [-(-size // 64)]
    while words[-1] > 1:
        words.append(-(-words[-1] // 64))
    return np.cumsum([0, *words])


@kernel(inline=True)
def _add(bits, starts, number):
    for level in range(starts.size - 1):
        word = at(starts[level] + (number >> 6))
        before = bits[word]
        bits[word] = before | (ONE << np.uint64(number & 63))
        if before != 0:
            break
        number >>= 6


@kernel(inline=True)
def _add_group(bits, starts, keys, begin, end):
    for i in range(begin, end):
        _add(bits, starts, np.int64(keys[at(i)]))


@kernel(inline=True)
def _remove(bits, starts, number):
    for level in range(starts.size - 1):
        word = at(starts[level] + (number >> 6))
        bits[word] &= ~(ONE << np.uint64(number & 63))
        if bits[word] != 0:
            break
        number >>= 6


@kernel(inline=True)
def _largest(bits, starts):
    """The largest number in the set, which is not empty."""
    number = np.int64(0)
    for level in range(starts.size - 2, -1, -1):
        number = (number << 6) + _highest(bits[at(starts[level] + number)])
    return number


@kernel(inline=True)
def _highest(word):
    """The number of the highest bit that is set."""
    number = np.int64(0)
    for step in (32, 16, 8, 4, 2, 1):
        above = word >> np.uint64(step)
        if above != 0:
            word = above
            number += step
    return number
