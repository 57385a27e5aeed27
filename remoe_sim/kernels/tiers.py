"""One tier of a memory hierarchy: what is looked up there, what comes in, and what leaves, group by group.

A tier is replayed alone and in full before the tier below it, whose lookups are its misses. Groups are numbered in
execution order; offsets int64[groups + 1] bound what belongs to each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from remoe_sim.kernels.arguments import ACCESSES, BYTES, FLAGS, INTS, LONGS, tuple_type
from remoe_sim.kernels.compile import ENTRY, SETUP, STATE, VICTIM, borrowed, kernel
from remoe_sim.kernels.keyed import KEY, WORST

NO_VICTIM = -1

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]


class Arrivals(NamedTuple):
    """What comes in, and what the tier above holds.

    offsets: int64[groups + 1], of entries
    entries: int32[M], what enters after the lookups of its group, or is touched if it is there: the lookups
      themselves, or, where entries move between tiers, the victims of the tier above
    keys: int64[M], those of a stack policy, or int64[0] for a slot policy
    left_offsets: int64[groups + 1], of left; int64[0] where the tier need not hold what the tier above holds
    left: int32[…], what left the tier above with each group
    above: bool[M], whether the tier above has `entries` after the group
    """

    offsets: Longs
    entries: Ints
    keys: Longs
    left_offsets: Longs
    left: Ints
    above: Flags


class TierRule(NamedTuple):
    """What the tier is.

    sizes: int64[n_entries], what each entry takes of the limit
    limit: what the tier holds
    mandatory: whether members of a group stay until its end
    moving: whether what is hit leaves upwards
    trims: whether hits may evict (`slots`)
    """

    sizes: Longs
    limit: int
    mandatory: bool
    moving: bool
    trims: bool


class TierHeld(NamedTuple):
    """What the tier holds while it is replayed.

    resident: bool[n_entries]
    pinned: uint8[n_entries], held by the tier above
    protected: uint8[n_entries], pinned, or a member of the group under mandatory admission
    nobody, everyone: uint8[n_entries], 0 and 1
    seen: int64[n_entries], 2 * group of the last event, 1 more if resident before that group
    leaving: int64[3 * n_entries + 1], what left in the running group
    last_leave: int64[n_entries], where in `leaving` each entry is last
    """

    resident: Flags
    pinned: Bytes
    protected: Bytes
    nobody: Bytes
    everyone: Bytes
    seen: Longs
    leaving: Longs
    last_leave: Longs

    @classmethod
    def empty(cls, n: int) -> TierHeld:
        """Nothing. Made outside the kernel, where each array would take 0.1 s to compile."""
        return cls(
            np.zeros(n, np.bool_), np.zeros(n, np.uint8), np.zeros(n, np.uint8), np.zeros(n, np.uint8),
            np.ones(n, np.uint8), np.full(n, -1, np.int64), np.empty(3 * n + 1, np.int64), np.empty(n, np.int64),
        )  # fmt: skip


class Passage(NamedTuple):
    """What is written.

    hit: bool[N], of each lookup
    kept: bool[M], whether the tier has each arrival after the group
    gone_offsets: int64[groups + 1], of gone and had
    gone: int32[M], what a group brought in or found, and left without, in the order of leaving
    had: bool[M], whether the tier held it before the group
    resting: int64[groups], what the tier holds after the group, in the unit of sizes
    """

    hit: Flags
    kept: Flags
    gone_offsets: Longs
    gone: Ints
    had: Flags
    resting: Longs


_ARRIVALS = tuple_type(Arrivals, LONGS, INTS, LONGS, LONGS, INTS, FLAGS)
_TIER = tuple_type(TierRule, LONGS, types.int64, types.boolean, types.boolean, types.boolean)
_HELD = tuple_type(TierHeld, FLAGS, BYTES, BYTES, BYTES, BYTES, LONGS, LONGS, LONGS)
_PASSAGE = tuple_type(Passage, FLAGS, FLAGS, LONGS, INTS, FLAGS, LONGS)
_ENTRY, _VICTIM = types.FunctionType(ENTRY), types.FunctionType(VICTIM)
_VERBS = (types.FunctionType(SETUP), _ENTRY, _ENTRY, _VICTIM, _ENTRY, _VICTIM)


@kernel(signature=types.int64(ACCESSES, _ARRIVALS, _TIER, _HELD, STATE, *_VERBS, _PASSAGE))
def tier_replay(accesses, arrivals, tier, held, state, setup, touch, admit, victim, insert, surplus, written):
    """Replay a tier; returns 0, or NO_VICTIM when the policy named no resident entry as a victim."""
    # The caller has all of it until the end. The loop has no helpers: those that take the tuples cost 10 to 27 %.
    offsets, entries, steps, epochs = borrowed(accesses)
    coming_offsets, coming, keys, left_offsets, left, above = borrowed(arrivals)
    sizes, limit, mandatory, moving, trims = borrowed(tier)
    resident, pinned, protected, nobody, everyone, seen, leaving, last_leave = borrowed(held)
    hit, kept, gone_offsets, gone, had, resting = borrowed(written)
    n = sizes.size
    keyed = keys.size > 0
    pinning = left_offsets.size > 0
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
