"""The one loop of prefetching: demand as in `limits` and `slots`, and after each group the guesses issued with it."""

from __future__ import annotations

import numpy as np
from numba import types

from remoe_sim.kernels.compile import ENTRY, SETUP, VICTIM, kernel
from remoe_sim.kernels.keyed import KEY

NO_VICTIM = -1
COLUMNS = 12  # of a table of counts
LOOKUPS, HITS, BY_PREFETCH, NAMED, RIGHT, THERE, LOADED, USEFUL, WRONG, CAP_REFUSED, ROOM_REFUSED, WASTED = range(12)
_WAITING, _RUNNING = 1, 2  # why an entry may not leave for a guess: its own target is to come, or it is being used

_INTS, _LONGS = types.Array(types.int32, 1, "C"), types.Array(types.int64, 1, "C")
_BYTES, _TABLE = types.Array(types.uint8, 1, "C"), types.Array(types.int64, 3, "C")
_ENTRY, _VICTIM = types.FunctionType(ENTRY), types.FunctionType(VICTIM)
_VERBS = (types.FunctionType(SETUP), _ENTRY, _ENTRY, _VICTIM, _ENTRY, _VICTIM, types.boolean)
_GROUPS = (_INTS, _INTS, _INTS, _LONGS, _LONGS, _INTS, _BYTES)
_GUESSES = (_LONGS, _LONGS, _BYTES, _LONGS, _INTS)
_KEYS = (_LONGS, _TABLE, types.int64)
_SIZES = (types.Array(types.int64, 2, "C"), types.Array(types.int32, 2, "C"), _LONGS, _LONGS, types.int64)
_REST = (types.boolean, _TABLE, *_VERBS, _TABLE, _LONGS, _LONGS, _LONGS, _LONGS)


@kernel(signature=types.int64(*_GROUPS, *_GUESSES, *_KEYS, *_SIZES, *_REST))
def prefetch_replay(
    steps, layers, caches, epochs, offsets, entries, kinds, targets, issued, target_kinds, guess_offsets, guesses,
    keys, first_keys, recency, sizes, layer_of, weights, limits, cap, mandatory, states, setup, touch, admit, victim,
    insert, surplus, trims, table, evictions, missed, came, taken,
):  # fmt: skip
    """Returns 0, or NO_VICTIM when the policy named no resident entry as a victim.

    Groups in execution order of all layers: steps, layers, caches int32[groups], the step, the layer and the cache of
    each; epochs int64[n + 1], group bounds between which caches live; offsets int64[groups + 1]; entries int32[N],
    numbered within their cache; kinds uint8[N] (`tallies`). Guesses: targets int64[T], ascending, the groups that
    guesses are for; issued int64[T], ascending, the group with which they are issued, before the target and not before
    the last group of its layer; target_kinds uint8[T]; guess_offsets int64[T + 1]; guesses int32[…], of the target's
    cache, the surest first. keys int64[N] of a stack policy, int64[0] of a slot policy; first_keys int64[1 or epochs,
    caches, n], keys before the first use; recency: 1 or -1 if instead the key is a clock that uses and loads advance,
    the later kept or the earlier, else 0. sizes int64[caches, n], what entries take of limits int64[caches]; layer_of
    int32[caches, n]; weights int64[layers], bytes of an entry; cap: bytes that may be issued in a step, -1 for any.
    states int64[caches, rows, columns], one per cache; trims: whether hits may evict (`slots`). Written: table int64[3,
    layers, COLUMNS], added to, per kind; evictions int64[2], added to: all of them, and those that made room for
    guesses; missed int64[groups], misses of each group; came, taken int64[T], loads for each target, and those of them
    that it finds there and wants.
    """
    count, n = sizes.shape
    keyed = keys.size > 0
    resident = np.zeros((count, n), np.bool_)
    members = np.zeros((count, n), np.uint8)  # of the running group, under mandatory admission
    nobody = np.zeros(n, np.uint8)
    busy = np.zeros((count, n), np.uint8)
    unused = np.zeros((count, n), np.uint8)  # loaded by a guess and not used yet: 1 + kind of that guess's target
    wanted = np.full((count, n), -1, np.int64)  # the last group that wanted the entry
    used = np.zeros(count, np.int64)
    firm = np.zeros(count, np.int64)  # what the busy residents take
    hit = np.zeros(entries.size, np.bool_)
    loaded = np.zeros(guesses.size, np.bool_)
    clock = np.int64(0)
    issuing = 0
    due = 0
    for epoch in range(epochs.size - 1):
        for cache in range(count):
            setup(states[cache], limits[cache])
            if keyed:
                states[cache, KEY, :n] = first_keys[epoch % first_keys.shape[0], cache]
        resident[:] = False
        busy[:] = 0
        used[:] = 0
        firm[:] = 0
        spent = np.int64(0)
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            cache, layer = caches[group], layers[group]
            state, limit = states[cache], limits[cache]
            state[0, state.shape[1] - 1] = steps[group]
            if group > epochs[epoch] and steps[group] != steps[group - 1]:
                spent = np.int64(0)
            for i in range(begin, end):
                entry = np.int64(entries[i])
                kind = kinds[i]
                wanted[cache, entry] = group
                members[cache, entry] = mandatory
                hit[i] = resident[cache, entry]
                table[kind, layer, LOOKUPS] += 1
                table[kind, layer, HITS] += hit[i]
                missed[group] += not hit[i]
                if unused[cache, entry]:
                    table[kind, layer, BY_PREFETCH] += 1
                    table[unused[cache, entry] - 1, layer, USEFUL] += 1
                    unused[cache, entry] = 0
            if due < targets.size and targets[due] == group:
                for g in range(guess_offsets[due], guess_offsets[due + 1]):
                    entry = np.int64(guesses[g])
                    right = wanted[cache, entry] == group
                    table[target_kinds[due], layer, RIGHT] += right
                    table[target_kinds[due], layer, WRONG] += loaded[g] and not right
                    taken[due] += loaded[g] and right and resident[cache, entry]
                    if busy[cache, entry] and resident[cache, entry]:
                        firm[cache] -= sizes[cache, entry]
                    busy[cache, entry] = 0
                due += 1
            for i in range(begin, end):
                entry = np.int64(entries[i])
                missing = not resident[cache, entry]
                room = limit
                if keyed:
                    clock += 1
                    state[KEY, entry] = keys[i] if recency == 0 else -recency * clock
                elif missing and sizes[cache, entry] > limit:
                    continue
                if not missing:
                    touch(state, entry)
                    loser = surplus(state, members[cache]) if trims else np.int64(NO_VICTIM)
                    while loser >= 0:
                        if loser >= n or not resident[cache, loser]:
                            return np.int64(NO_VICTIM)
                        resident[cache, loser] = False
                        used[cache] -= sizes[cache, loser]
                        evictions[0] += wanted[cache, loser] != group
                        if busy[cache, loser]:
                            firm[cache] -= sizes[cache, loser]
                        if unused[cache, loser]:
                            table[unused[cache, loser] - 1, layer_of[cache, loser], WASTED] += 1
                            unused[cache, loser] = 0
                        loser = surplus(state, members[cache])
                else:
                    admit(state, entry)
                    if keyed or not mandatory:
                        insert(state, entry)
                        resident[cache, entry] = True
                        used[cache] += sizes[cache, entry]
                    else:
                        room -= sizes[cache, entry]
                if keyed and i < end - 1:
                    continue  # what stays is chosen once for the whole group
                while used[cache] > room:
                    loser = victim(state, members[cache])
                    if loser < 0:
                        loser = victim(state, nobody)
                    if loser < 0 or loser >= n or not resident[cache, loser]:
                        return np.int64(NO_VICTIM)
                    resident[cache, loser] = False
                    used[cache] -= sizes[cache, loser]
                    evictions[0] += wanted[cache, loser] != group
                    if busy[cache, loser]:
                        firm[cache] -= sizes[cache, loser]
                    if unused[cache, loser]:
                        table[unused[cache, loser] - 1, layer_of[cache, loser], WASTED] += 1
                        unused[cache, loser] = 0
                if missing and mandatory and not keyed:
                    insert(state, entry)
                    resident[cache, entry] = True
                    used[cache] += sizes[cache, entry]
            for i in range(begin, end):
                entry = np.int64(entries[i])
                members[cache, entry] = 0
                evictions[0] += hit[i] and not resident[cache, entry]
            while issuing < targets.size and issued[issuing] == group:
                target = targets[issuing]
                kind = target_kinds[issuing]
                to, layer = caches[target], layers[target]
                there, limit = states[to], limits[to]
                there[0, there.shape[1] - 1] = steps[group]
                if to == cache:
                    for i in range(begin, end):
                        entry = np.int64(entries[i])
                        if resident[to, entry] and not busy[to, entry]:
                            firm[to] += sizes[to, entry]
                        busy[to, entry] |= _RUNNING
                for g in range(guess_offsets[issuing], guess_offsets[issuing + 1]):
                    entry = np.int64(guesses[g])
                    table[kind, layer, NAMED] += 1
                    if resident[to, entry]:
                        table[kind, layer, THERE] += 1
                        if not busy[to, entry]:
                            firm[to] += sizes[to, entry]
                        busy[to, entry] |= _WAITING
                for g in range(guess_offsets[issuing], guess_offsets[issuing + 1]):
                    entry = np.int64(guesses[g])
                    size = sizes[to, entry]
                    if resident[to, entry]:
                        continue
                    if cap >= 0 and spent + weights[layer] > cap:
                        table[kind, layer, CAP_REFUSED] += 1
                        continue
                    if firm[to] + size > limit:
                        table[kind, layer, ROOM_REFUSED] += 1
                        continue
                    admit(there, entry)
                    while used[to] + size > limit:
                        loser = victim(there, busy[to])
                        if loser < 0 or loser >= n or not resident[to, loser]:
                            return np.int64(NO_VICTIM)
                        resident[to, loser] = False
                        used[to] -= sizes[to, loser]
                        evictions[0] += 1
                        evictions[1] += 1
                        if unused[to, loser]:
                            table[unused[to, loser] - 1, layer_of[to, loser], WASTED] += 1
                            unused[to, loser] = 0
                    if recency != 0:
                        clock += 1
                        there[KEY, entry] = -recency * clock
                    insert(there, entry)
                    resident[to, entry] = True
                    used[to] += size
                    firm[to] += size
                    busy[to, entry] |= _WAITING
                    unused[to, entry] = kind + 1
                    loaded[g] = True
                    table[kind, layer, LOADED] += 1
                    came[issuing] += 1
                    spent += weights[layer]
                if to == cache:
                    for i in range(begin, end):
                        entry = np.int64(entries[i])
                        busy[to, entry] &= _WAITING
                        if resident[to, entry] and not busy[to, entry]:
                            firm[to] -= sizes[to, entry]
                issuing += 1
        for cache in range(count):  # what was loaded for nothing
            for entry in range(n):
                if unused[cache, entry]:
                    table[unused[cache, entry] - 1, layer_of[cache, entry], WASTED] += 1
                    unused[cache, entry] = 0
    return np.int64(0)
