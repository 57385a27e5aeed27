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
USED, FIRM, LEFT = range(3)  # of counts

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
    counts: int64[3], what the residents take (USED), and the pinned entries (FIRM), and how many left (LEFT)
    """

    resident: Flags
    pinned: Bytes
    protected: Bytes
    nobody: Bytes
    everyone: Bytes
    seen: Longs
    leaving: Longs
    last_leave: Longs
    counts: Longs

    @classmethod
    def empty(cls, n: int) -> TierHeld:
        """Nothing. Made outside the kernel, where each array would take 0.1 s to compile."""
        return cls(
            np.zeros(n, np.bool_), np.zeros(n, np.uint8), np.zeros(n, np.uint8), np.zeros(n, np.uint8),
            np.ones(n, np.uint8), np.full(n, -1, np.int64), np.empty(3 * n + 1, np.int64), np.empty(n, np.int64),
            np.zeros(3, np.int64),
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
_HELD = tuple_type(TierHeld, FLAGS, BYTES, BYTES, BYTES, BYTES, LONGS, LONGS, LONGS, LONGS)
_PASSAGE = tuple_type(Passage, FLAGS, FLAGS, LONGS, INTS, FLAGS, LONGS)
_ENTRY, _VICTIM = types.FunctionType(ENTRY), types.FunctionType(VICTIM)
_VERBS = (types.FunctionType(SETUP), _ENTRY, _ENTRY, _VICTIM, _ENTRY, _VICTIM)


@kernel(unfold=True)
def _look_up(accesses, arrivals, held, group, hit):
    """Look up the group, and note what was there before it."""
    for i in range(accesses.offsets[group], accesses.offsets[group + 1]):
        entry = np.int64(accesses.entries[i])
        hit[i] = held.resident[entry]
        held.seen[entry] = 2 * group + held.resident[entry]
    for j in range(arrivals.offsets[group], arrivals.offsets[group + 1]):
        entry = np.int64(arrivals.entries[j])
        held.seen[entry] = 2 * group + held.resident[entry]


@kernel(unfold=True)
def _climb(accesses, arrivals, tier, held, group, hit, state, touch, victim):
    """Let what was hit leave upwards; False when the policy did not name it."""
    for i in range(accesses.offsets[group], accesses.offsets[group + 1]):
        if hit[i]:
            entry = np.int64(accesses.entries[i])
            if arrivals.keys.size > 0:
                state[KEY, entry] = WORST
                touch(state, entry)
                climbing = victim(state, held.nobody)
            else:  # the policy's own way to forget one, asked so that it has no choice
                held.everyone[entry] = 0
                climbing = victim(state, held.everyone)
                held.everyone[entry] = 1
            if climbing != entry:
                return False
            held.resident[entry] = False
            held.counts[USED] -= tier.sizes[entry]
    return True


@kernel(unfold=True)
def _pin(arrivals, tier, held, group):
    """Pin what the tier above holds after the group, and nothing else."""
    for j in range(arrivals.left_offsets[group], arrivals.left_offsets[group + 1]):
        entry = np.int64(arrivals.left[j])
        held.counts[FIRM] -= held.pinned[entry] * tier.sizes[entry]
        held.pinned[entry] = 0
        held.protected[entry] = 0
    for j in range(arrivals.offsets[group], arrivals.offsets[group + 1]):
        entry = np.int64(arrivals.entries[j])
        if arrivals.above[j] and not held.pinned[entry]:
            held.counts[FIRM] += tier.sizes[entry]
            held.pinned[entry] = 1
            held.protected[entry] = 1


@kernel(unfold=True)
def _note_leaving(leaving, last_leave, counts, entry):
    place = counts[LEFT]
    last_leave[entry] = place
    leaving[place] = entry
    counts[LEFT] = place + 1


@kernel(unfold=True)
def _enter(arrivals, tier, held, j, last, state, touch, admit, victim, insert, surplus):
    """Touch an arrival, or bring it in and evict; `last` is the last of its group. False for a wrong victim."""
    resident, counts, sizes = held.resident, held.counts, tier.sizes
    entry = np.int64(arrivals.entries[j])
    keyed = arrivals.keys.size > 0
    missing = not resident[entry]
    at_once = missing and (keyed or not tier.mandatory)  # it may be a victim itself
    if keyed:
        state[KEY, entry] = arrivals.keys[j]
    elif missing and not held.pinned[entry] and sizes[entry] > tier.limit - counts[FIRM]:
        _note_leaving(held.leaving, held.last_leave, counts, entry)
        return True
    if missing:
        admit(state, entry)
    else:
        touch(state, entry)
    if at_once:
        insert(state, entry)
        resident[entry] = True
        counts[USED] += sizes[entry]
    if keyed and j < last:
        return True  # what stays is chosen once for the whole group
    room = tier.limit - sizes[entry] if missing and not at_once else tier.limit
    trimming = tier.trims and not missing  # what leaves because of a hit goes first
    while trimming or counts[USED] > room:
        loser = surplus(state, held.protected) if trimming else victim(state, held.protected)
        if loser < 0 and trimming:
            trimming = False
            continue
        if loser < 0:
            loser = victim(state, held.pinned)
        if loser < 0 or loser >= resident.size or not resident[loser]:
            return False
        resident[loser] = False
        counts[USED] -= sizes[loser]
        _note_leaving(held.leaving, held.last_leave, counts, loser)
    if missing and not at_once:
        insert(state, entry)
        resident[entry] = True
        counts[USED] += sizes[entry]
    return True


@kernel(unfold=True)
def _close(arrivals, held, group, written):
    """Write down what the tier has after the group, and what left; what left and came back did not leave."""
    for j in range(arrivals.offsets[group], arrivals.offsets[group + 1]):
        entry = np.int64(arrivals.entries[j])
        written.kept[j] = held.resident[entry]
        held.protected[entry] = held.pinned[entry]
    out = written.gone_offsets[group]
    for place in range(held.counts[LEFT]):
        entry = held.leaving[place]
        if held.last_leave[entry] == place and not held.resident[entry]:
            written.gone[out] = entry
            written.had[out] = held.seen[entry] != 2 * group
            out += 1
    written.gone_offsets[group + 1] = out
    written.resting[group] = held.counts[USED]


@kernel(signature=types.int64(ACCESSES, _ARRIVALS, _TIER, _HELD, STATE, *_VERBS, _PASSAGE))
def tier_replay(accesses, arrivals, tier, held, state, setup, touch, admit, victim, insert, surplus, written):
    """Replay a tier; returns 0, or NO_VICTIM when the policy named no resident entry as a victim."""
    # The caller has all of it until the end, and counting references in the loops would take longer than they do.
    accesses, arrivals, tier, held, written = (
        borrowed(accesses), borrowed(arrivals), borrowed(tier), borrowed(held), borrowed(written)
    )  # fmt: skip
    written.gone_offsets[0] = 0
    for epoch in range(accesses.epochs.size - 1):
        held.resident[:] = False
        held.pinned[:] = 0
        held.protected[:] = 0
        held.counts[:] = 0
        setup(state, tier.limit)
        for group in range(accesses.epochs[epoch], accesses.epochs[epoch + 1]):
            state[0, state.shape[1] - 1] = accesses.steps[group]
            held.counts[LEFT] = 0
            _look_up(accesses, arrivals, held, group, written.hit)
            if tier.moving and not _climb(accesses, arrivals, tier, held, group, written.hit, state, touch, victim):
                return np.int64(NO_VICTIM)
            if arrivals.left_offsets.size > 0:
                _pin(arrivals, tier, held, group)
            first, past = arrivals.offsets[group], arrivals.offsets[group + 1]
            if tier.mandatory:
                for j in range(first, past):
                    held.protected[np.int64(arrivals.entries[j])] = 1
            for j in range(first, past):
                if not _enter(arrivals, tier, held, j, past - 1, state, touch, admit, victim, insert, surplus):
                    return np.int64(NO_VICTIM)
            _close(arrivals, held, group, written)
    return np.int64(0)
