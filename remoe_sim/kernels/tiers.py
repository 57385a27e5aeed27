"""One tier of a memory hierarchy: what is looked up there, what comes in, and what leaves, group by group.

A tier is replayed alone and in full before the tier below it, whose lookups are its misses. Groups are numbered in
execution order; offsets int64[groups + 1] bound what belongs to each.
"""

from __future__ import annotations

import numpy as np
from numba import types

from remoe_sim.kernels.compile import ENTRY, SETUP, STATE, VICTIM, kernel
from remoe_sim.kernels.keyed import KEY, WORST

NO_VICTIM = -1

_LONGS = types.Array(types.int64, 1, "C")
_INTS = types.Array(types.int32, 1, "C")
_FLAGS = types.Array(types.boolean, 1, "C")
_ENTRY, _VICTIM = types.FunctionType(ENTRY), types.FunctionType(VICTIM)
_VERBS = (types.FunctionType(SETUP), _ENTRY, _ENTRY, _VICTIM, _ENTRY, _VICTIM, types.boolean)
_INPUT = (_INTS, _LONGS, _LONGS, _INTS, _LONGS, _INTS, _LONGS, _LONGS, _INTS, _FLAGS, _LONGS, types.int64)
_OUTPUT = (_FLAGS, _FLAGS, _LONGS, _INTS, _FLAGS, _LONGS)


@kernel(signature=types.int64(*_INPUT, types.boolean, types.boolean, STATE, *_VERBS, *_OUTPUT))
def tier_replay(
    steps, epochs, offsets, entries, coming_offsets, coming, keys, left_offsets, left, above, sizes, limit, mandatory,
    moving, state, setup, touch, admit, victim, insert, surplus, trims,
    hit, kept, gone_offsets, gone, had, resting,
):  # fmt: skip
    """Returns 0, or NO_VICTIM when the policy named no resident entry as a victim.

    steps int32[groups]; epochs int64[n + 1], group bounds between which the tier lives; entries int32[N], looked up;
    coming int32[M], what enters after the lookups of its group, or is touched if it is there (the lookups themselves,
    or, where entries move between tiers, the victims of the tier above); keys int64[M], those of a stack policy, or
    int64[0] for a slot policy; sizes int64[n_entries], what each takes of `limit`; moving: what is hit leaves upwards;
    trims: whether hits may evict (`slots`). Where the tier must hold what the tier above holds: left int32[…], what
    left the tier above with each group, and above bool[M], whether it has `coming` after the group (left_offsets
    int64[0] where it need not).
    Written: hit bool[N]; kept bool[M], whether the tier has it after the group; gone int32[M], what a group brought in
    or found, and left without, in the order of leaving, per gone_offsets int64[groups + 1]; had bool[M], whether the
    tier held it before the group; resting int64[groups], what the tier holds after the group, in the unit of sizes.
    """
    n = sizes.size
    keyed = keys.size > 0
    pinning = left_offsets.size > 0
    resident = np.zeros(n, np.bool_)
    pinned = np.zeros(n, np.uint8)  # held by the tier above
    protected = np.zeros(n, np.uint8)  # pinned, or a member of the group under mandatory admission
    nobody = np.zeros(n, np.uint8)
    everyone = np.ones(n, np.uint8)
    seen = np.full(n, -1, np.int64)  # 2 * group of the last event, 1 more if resident before that group
    leaving = np.empty(3 * n + 1, np.int64)
    last_leave = np.empty(n, np.int64)
    out = 0
    gone_offsets[0] = 0
    for epoch in range(epochs.size - 1):
        resident[:] = False
        pinned[:] = 0
        protected[:] = 0
        used = np.int64(0)
        firm = np.int64(0)  # what the pinned entries take
        setup(state, limit)
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            first, past = coming_offsets[group], coming_offsets[group + 1]
            state[0, state.shape[1] - 1] = steps[group]
            left_count = 0
            for i in range(begin, end):
                entry = np.int64(entries[i])
                hit[i] = resident[entry]
                seen[entry] = 2 * group + resident[entry]
            for j in range(first, past):
                entry = np.int64(coming[j])
                seen[entry] = 2 * group + resident[entry]
            if moving:
                for i in range(begin, end):
                    if hit[i]:
                        entry = np.int64(entries[i])
                        if keyed:
                            state[KEY, entry] = WORST
                            touch(state, entry)
                            climbing = victim(state, nobody)
                        else:  # the policy's own way to forget one, asked so that it has no choice
                            everyone[entry] = 0
                            climbing = victim(state, everyone)
                            everyone[entry] = 1
                        if climbing != entry:
                            return np.int64(NO_VICTIM)
                        resident[entry] = False
                        used -= sizes[entry]
            if pinning:
                for j in range(left_offsets[group], left_offsets[group + 1]):
                    entry = np.int64(left[j])
                    firm -= pinned[entry] * sizes[entry]
                    pinned[entry] = 0
                    protected[entry] = 0
                for j in range(first, past):
                    entry = np.int64(coming[j])
                    if above[j] and not pinned[entry]:
                        firm += sizes[entry]
                        pinned[entry] = 1
                        protected[entry] = 1
            if mandatory:
                for j in range(first, past):
                    protected[np.int64(coming[j])] = 1
            for j in range(first, past):
                entry = np.int64(coming[j])
                missing = not resident[entry]
                room = limit
                if keyed:
                    state[KEY, entry] = keys[j]
                elif missing and not pinned[entry] and sizes[entry] > limit - firm:
                    last_leave[entry] = left_count
                    leaving[left_count] = entry
                    left_count += 1
                    continue
                if not missing:
                    touch(state, entry)
                    loser = surplus(state, protected) if trims else np.int64(NO_VICTIM)
                    while loser >= 0:
                        if loser >= n or not resident[loser]:
                            return np.int64(NO_VICTIM)
                        resident[loser] = False
                        used -= sizes[loser]
                        last_leave[loser] = left_count
                        leaving[left_count] = loser
                        left_count += 1
                        loser = surplus(state, protected)
                else:
                    admit(state, entry)
                    if keyed or not mandatory:
                        insert(state, entry)
                        resident[entry] = True
                        used += sizes[entry]
                    else:
                        room = limit - sizes[entry]
                if keyed and j < past - 1:
                    continue  # what stays is chosen once for the whole group
                while used > room:
                    loser = victim(state, protected)
                    if loser < 0:
                        loser = victim(state, pinned)
                    if loser < 0 or loser >= n or not resident[loser]:
                        return np.int64(NO_VICTIM)
                    resident[loser] = False
                    used -= sizes[loser]
                    last_leave[loser] = left_count
                    leaving[left_count] = loser
                    left_count += 1
                if missing and mandatory and not keyed:
                    insert(state, entry)
                    resident[entry] = True
                    used += sizes[entry]
            for j in range(first, past):
                entry = np.int64(coming[j])
                kept[j] = resident[entry]
                protected[entry] = pinned[entry]
            for place in range(left_count):
                entry = leaving[place]
                if last_leave[entry] == place and not resident[entry]:
                    gone[out] = entry
                    had[out] = seen[entry] != 2 * group
                    out += 1
            gone_offsets[group + 1] = out
            resting[group] = used
    return np.int64(0)
