"""A cache into which not every miss may enter: only after some uses, and only so many per layer and step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from remoe_sim.kernels.arguments import ACCESSES, LONGS, STOCK, WRITTEN, tuple_type
from remoe_sim.kernels.compile import ENTRY, SETUP, STATE, VICTIM, borrowed, kernel
from remoe_sim.kernels.keyed import KEY

NO_VICTIM = -1


class Caps(NamedTuple):
    """Which misses may enter, and how much the cache holds.

    limit: in the unit of sizes
    mandatory: whether members of a group stay until its end
    turns: int64[groups], the layer and step of each group, as a number that changes with either
    keys: int64[N], those of a stack policy, or int64[0] for a slot policy
    start_keys: int64[1 or epochs, n_entries], keys of the entries that the cache starts with
    admit_after: the use of an entry, since the cache was emptied, from which on it may enter
    inserts: how many may enter in one turn
    trims: whether hits may evict (`slots`)
    """

    limit: int
    mandatory: bool
    turns: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64]
    start_keys: npt.NDArray[np.int64]
    admit_after: int
    inserts: int
    trims: bool


_CAPS = tuple_type(
    Caps,
    types.int64,
    types.boolean,
    LONGS,
    LONGS,
    types.Array(types.int64, 2, "C"),
    types.int64,
    types.int64,
    types.boolean,
)
_ENTRY, _VICTIM = types.FunctionType(ENTRY), types.FunctionType(VICTIM)
_VERBS = (types.FunctionType(SETUP), _ENTRY, _ENTRY, _VICTIM, _ENTRY, _VICTIM)


@kernel(signature=types.int64(ACCESSES, STOCK, _CAPS, STATE, *_VERBS, WRITTEN))
def capped_replay(accesses, stock, caps, state, setup, touch, admit, victim, insert, surplus, written):
    """Do what `slot_replay` does, under caps; the policy is not told of misses that may not enter.

    Of a stack policy what stays is chosen once for the whole group, as in `ordered_replay`. Returns the evictions, or
    NO_VICTIM when the policy named no resident entry as a victim.
    """
    offsets, entries, steps, epochs = borrowed(accesses)
    sizes, weights, preload = borrowed(stock)
    limit, mandatory, turns, keys, start_keys, admit_after, inserts, trims = borrowed(caps)
    hit, resting, running = borrowed(written)
    n = sizes.size
    keyed = keys.size > 0
    resident = np.zeros(n, np.bool_)
    protected = np.zeros(n, np.uint8)
    nobody = np.zeros(n, np.uint8)
    uses = np.zeros(n, np.int64)
    evictions = 0
    for epoch in range(epochs.size - 1):
        resident[:] = False
        uses[:] = 0
        used = np.int64(0)
        held = np.int64(0)
        count = 0
        left = inserts
        setup(state, limit)
        fitting = 0
        while fitting < preload.size and used + sizes[preload[fitting]] <= limit:
            used += sizes[preload[fitting]]
            fitting += 1
        for rank in range(fitting - 1, -1, -1):
            entry = np.int64(preload[rank])
            if keyed:
                state[KEY, entry] = start_keys[epoch % start_keys.shape[0], entry]
            insert(state, entry)
            resident[entry] = True
            held += weights[entry]
            count += 1
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            before = count
            together = held
            state[0, state.shape[1] - 1] = steps[group]
            if group == epochs[epoch] or turns[group] != turns[group - 1]:
                left = inserts
            for i in range(begin, end):
                entry = np.int64(entries[i])
                hit[i] = resident[entry]
                protected[entry] = mandatory
                uses[entry] += 1
                if not resident[entry]:
                    together += weights[entry]
            for i in range(begin, end):
                entry = np.int64(entries[i])
                size = sizes[entry]
                room = limit
                enters = False
                if keyed:
                    state[KEY, entry] = keys[i]
                if resident[entry]:
                    touch(state, entry)
                    leaving = surplus(state, protected) if trims else np.int64(NO_VICTIM)
                    while leaving >= 0:
                        if leaving >= n or not resident[leaving]:
                            return np.int64(NO_VICTIM)
                        resident[leaving] = False
                        used -= sizes[leaving]
                        held -= weights[leaving]
                        count -= 1
                        leaving = surplus(state, protected)
                elif uses[entry] >= admit_after and left > 0 and (keyed or size <= limit):
                    left -= 1
                    admit(state, entry)
                    enters = not keyed and mandatory
                    if enters:
                        room = limit - size
                    else:
                        insert(state, entry)
                        resident[entry] = True
                        used += size
                        held += weights[entry]
                        count += 1
                if keyed and i < end - 1:
                    continue
                while used > room:
                    leaving = victim(state, protected)
                    if leaving < 0:
                        leaving = victim(state, nobody)
                    elif leaving < n and protected[leaving]:
                        return np.int64(NO_VICTIM)
                    if leaving < 0 or leaving >= n or not resident[leaving]:
                        return np.int64(NO_VICTIM)
                    resident[leaving] = False
                    used -= sizes[leaving]
                    held -= weights[leaving]
                    count -= 1
                if enters:
                    insert(state, entry)
                    resident[entry] = True
                    used += size
                    held += weights[entry]
                    count += 1
            outside = np.int64(0)  # bytes of the members that are not kept
            admitted = 0
            for i in range(begin, end):
                entry = np.int64(entries[i])
                protected[entry] = 0
                if not resident[entry]:
                    outside += weights[entry]
                elif not hit[i]:
                    admitted += 1
            evictions += before + admitted - count
            resting[group] = held
            running[group] = held + outside if mandatory else together
    return np.int64(evictions)
