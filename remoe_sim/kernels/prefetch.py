"""The one loop of prefetching: demand as in `limits` and `slots`, and after each group the guesses issued with it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from remoe_sim.kernels.arguments import BYTES, FLAGS, INTS, LONGS, tuple_type
from remoe_sim.kernels.compile import ENTRY, SETUP, VICTIM, borrowed, kernel
from remoe_sim.kernels.keyed import KEY

NO_VICTIM = -1
COLUMNS = 12  # of a table of counts
LOOKUPS, HITS, BY_PREFETCH, NAMED, RIGHT, THERE, LOADED, USEFUL, WRONG, CAP_REFUSED, ROOM_REFUSED, WASTED = range(12)
_WAITING, _RUNNING = 1, 2  # why an entry may not leave for a guess: its own target is to come, or it is being used
ALL, FOR_GUESSES = 0, 1  # of evictions
CLOCK, SPENT = 0, 1  # of counts

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]


class Demand(NamedTuple):
    """What is looked up: the groups of all layers in execution order.

    steps, layers, caches: int32[groups], the step, the layer and the cache of each
    epochs: int64[epochs + 1], group bounds between which caches live
    offsets: int64[groups + 1], of entries
    entries: int32[N], numbered within their cache
    kinds: uint8[N], what each lookup counts as (`tallies`)
    keys: int64[N], those of a stack policy, or int64[0] for a slot policy
    """

    steps: Ints
    layers: Ints
    caches: Ints
    epochs: Longs
    offsets: Longs
    entries: Ints
    kinds: Bytes
    keys: Longs


class Ahead(NamedTuple):
    """What is guessed.

    targets: int64[T], ascending, the groups that guesses are for
    issued: int64[T], ascending, the group with which they are issued, before the target and not before the last group
      of its layer
    kinds: uint8[T], of the targets
    offsets: int64[T + 1], of entries
    entries: int32[…], of the target's cache, the surest first
    """

    targets: Longs
    issued: Longs
    kinds: Bytes
    offsets: Longs
    entries: Ints


class Setting(NamedTuple):
    """The caches, and what may be done.

    sizes: int64[caches, n], what each entry takes of its cache's limit
    layer_of: int32[caches, n]
    limits: int64[caches]
    weights: int64[layers], bytes of an entry
    first_keys: int64[1 or epochs, caches, n], keys before the first use
    recency: 1 or -1 if instead the key is a clock that uses and loads advance, the later kept or the earlier, else 0
    cap: bytes that may be issued in a step, -1 for any
    mandatory: whether members of a group stay until its end
    trims: whether hits may evict (`slots`)
    """

    sizes: Longs
    layer_of: Ints
    limits: Longs
    weights: Longs
    first_keys: Longs
    recency: int
    cap: int
    mandatory: bool
    trims: bool


class PrefetchHeld(NamedTuple):
    """What the caches hold while they are replayed; C: caches, n: entries of the largest.

    resident: bool[C, n]
    members: uint8[C, n], of the running group, under mandatory admission
    busy: uint8[C, n], why an entry may not leave for a guess
    unused: uint8[C, n], loaded by a guess and not used yet: 1 + kind of that guess's target
    wanted: int64[C, n], the last group that wanted the entry
    nobody: uint8[n], 0
    used, firm: int64[C], what residents take of each cache, and those of them that are busy
    hit: bool[N], of each lookup
    loaded: bool[…], of each guess
    counts: int64[2], uses and loads so far (CLOCK), and bytes issued in the step (SPENT)
    """

    resident: Flags
    members: Bytes
    busy: Bytes
    unused: Bytes
    wanted: Longs
    nobody: Bytes
    used: Longs
    firm: Longs
    hit: Flags
    loaded: Flags
    counts: Longs

    @classmethod
    def empty(cls, setting: Setting, demand: Demand, ahead: Ahead) -> PrefetchHeld:
        """Nothing. Made outside the kernel, where each array would take 0.1 s to compile."""
        shape = setting.sizes.shape
        members, busy, unused = (np.zeros(shape, np.uint8) for _ in range(3))
        used, firm = (np.zeros(shape[0], np.int64) for _ in range(2))
        return cls(
            np.zeros(shape, np.bool_), members, busy, unused, np.full(shape, -1, np.int64),
            np.zeros(shape[1], np.uint8), used, firm, np.zeros(demand.entries.size, np.bool_),
            np.zeros(ahead.entries.size, np.bool_), np.zeros(2, np.int64),
        )  # fmt: skip


class Tallied(NamedTuple):
    """What is written.

    table: int64[3, layers, COLUMNS], added to, per kind
    evictions: int64[2], added to: all of them, and those that made room for guesses
    missed: int64[groups], misses of each group
    came, taken: int64[T], loads for each target, and those of them that it finds there and wants
    """

    table: Longs
    evictions: Longs
    missed: Longs
    came: Longs
    taken: Longs


_CUBE = types.Array(types.int64, 3, "C")
_LONG_ROWS, _INT_ROWS = types.Array(types.int64, 2, "C"), types.Array(types.int32, 2, "C")
_FLAG_ROWS, _BYTE_ROWS = types.Array(types.boolean, 2, "C"), types.Array(types.uint8, 2, "C")
_DEMAND = tuple_type(Demand, INTS, INTS, INTS, LONGS, LONGS, INTS, BYTES, LONGS)
_AHEAD = tuple_type(Ahead, LONGS, LONGS, BYTES, LONGS, INTS)
_SETTING = tuple_type(
    Setting, _LONG_ROWS, _INT_ROWS, LONGS, LONGS, _CUBE, types.int64, types.int64, types.boolean, types.boolean
)
_HELD = tuple_type(
    PrefetchHeld, _FLAG_ROWS, _BYTE_ROWS, _BYTE_ROWS, _BYTE_ROWS, _LONG_ROWS, BYTES, LONGS, LONGS, FLAGS, FLAGS, LONGS
)
_COUNTED = tuple_type(Tallied, _CUBE, LONGS, LONGS, LONGS, LONGS)
_ENTRY, _VICTIM = types.FunctionType(ENTRY), types.FunctionType(VICTIM)
_VERBS = (types.FunctionType(SETUP), _ENTRY, _ENTRY, _VICTIM, _ENTRY, _VICTIM)


@kernel(unfold=True)
def _look_up(demand, setting, held, group, counted):
    """Count what is there before the group, and what prefetching brought."""
    unused, table = held.unused, counted.table
    cache, layer = demand.caches[group], demand.layers[group]
    for i in range(demand.offsets[group], demand.offsets[group + 1]):
        entry = np.int64(demand.entries[i])
        kind = demand.kinds[i]
        found = held.resident[cache, entry]
        held.wanted[cache, entry] = group
        held.members[cache, entry] = setting.mandatory
        held.hit[i] = found
        table[kind, layer, LOOKUPS] += 1
        table[kind, layer, HITS] += found
        counted.missed[group] += not found
        if unused[cache, entry]:
            table[kind, layer, BY_PREFETCH] += 1
            table[unused[cache, entry] - 1, layer, USEFUL] += 1
            unused[cache, entry] = 0


@kernel(unfold=True)
def _judge(demand, ahead, setting, held, due, counted):
    """Count which guesses for the running group are right, and let all of them leave again."""
    group = ahead.targets[due]
    cache, layer, kind = demand.caches[group], demand.layers[group], ahead.kinds[due]
    for g in range(ahead.offsets[due], ahead.offsets[due + 1]):
        entry = np.int64(ahead.entries[g])
        right = held.wanted[cache, entry] == group
        counted.table[kind, layer, RIGHT] += right
        counted.table[kind, layer, WRONG] += held.loaded[g] and not right
        counted.taken[due] += held.loaded[g] and right and held.resident[cache, entry]
        if held.busy[cache, entry] and held.resident[cache, entry]:
            held.firm[cache] -= setting.sizes[cache, entry]
        held.busy[cache, entry] = 0


@kernel(unfold=True)
def _waste(unused, layer_of, table, cache, entry):
    """Count an entry that a guess loaded and nothing used."""
    if unused[cache, entry]:
        table[unused[cache, entry] - 1, layer_of[cache, entry], WASTED] += 1
        unused[cache, entry] = 0


@kernel(unfold=True)
def _use(demand, setting, held, group, i, state, touch, admit, victim, insert, surplus, counted):
    """Touch a member, or bring it in and evict; False for a wrong victim."""
    resident, used, sizes = held.resident, held.used, setting.sizes
    cache, entry = demand.caches[group], np.int64(demand.entries[i])
    size, limit = sizes[cache, entry], setting.limits[cache]
    keyed = demand.keys.size > 0
    missing = not resident[cache, entry]
    at_once = missing and (keyed or not setting.mandatory)  # it may be a victim itself
    if keyed:
        held.counts[CLOCK] += 1
        state[KEY, entry] = demand.keys[i] if setting.recency == 0 else -setting.recency * held.counts[CLOCK]
    elif missing and size > limit:
        return True
    if missing:
        admit(state, entry)
    else:
        touch(state, entry)
    if at_once:
        insert(state, entry)
        resident[cache, entry] = True
        used[cache] += size
    if keyed and i < demand.offsets[group + 1] - 1:
        return True  # what stays is chosen once for the whole group
    room = limit - size if missing and not at_once else limit
    trimming = setting.trims and not missing  # what leaves because of a hit goes first
    while trimming or used[cache] > room:
        loser = surplus(state, held.members[cache]) if trimming else victim(state, held.members[cache])
        if loser < 0 and trimming:
            trimming = False
            continue
        if loser < 0:
            loser = victim(state, held.nobody)
        if loser < 0 or loser >= sizes.shape[1] or not resident[cache, loser]:
            return False
        resident[cache, loser] = False
        used[cache] -= sizes[cache, loser]
        counted.evictions[ALL] += held.wanted[cache, loser] != group
        if held.busy[cache, loser]:
            held.firm[cache] -= sizes[cache, loser]
        _waste(held.unused, setting.layer_of, counted.table, cache, loser)
    if missing and not at_once:
        insert(state, entry)
        resident[cache, entry] = True
        used[cache] += size
    return True


@kernel(unfold=True)
def _keep(demand, ahead, setting, held, group, issuing, table):
    """Keep entries from leaving for guesses: members of the running group, which are being used, and what is guessed
    and there, until its target."""
    resident, busy, firm = held.resident, held.busy, held.firm
    target, kind = ahead.targets[issuing], ahead.kinds[issuing]
    cache, layer = demand.caches[target], demand.layers[target]
    if demand.caches[group] == cache:
        for i in range(demand.offsets[group], demand.offsets[group + 1]):
            entry = np.int64(demand.entries[i])
            if resident[cache, entry] and not busy[cache, entry]:
                firm[cache] += setting.sizes[cache, entry]
            busy[cache, entry] |= _RUNNING
    for g in range(ahead.offsets[issuing], ahead.offsets[issuing + 1]):
        entry = np.int64(ahead.entries[g])
        table[kind, layer, NAMED] += 1
        if resident[cache, entry]:
            table[kind, layer, THERE] += 1
            if not busy[cache, entry]:
                firm[cache] += setting.sizes[cache, entry]
            busy[cache, entry] |= _WAITING


@kernel(unfold=True)
def _load(demand, ahead, setting, held, issuing, state, admit, victim, insert, counted):
    """Load what is guessed and not there, as far as the cap and the entries that must stay allow; False for a wrong
    victim."""
    resident, used, sizes = held.resident, held.used, setting.sizes
    evictions, table = counted.evictions, counted.table
    target, kind = ahead.targets[issuing], ahead.kinds[issuing]
    cache, layer = demand.caches[target], demand.layers[target]
    limit = setting.limits[cache]
    for g in range(ahead.offsets[issuing], ahead.offsets[issuing + 1]):
        entry = np.int64(ahead.entries[g])
        size = sizes[cache, entry]
        if resident[cache, entry]:
            continue
        if setting.cap >= 0 and held.counts[SPENT] + setting.weights[layer] > setting.cap:
            table[kind, layer, CAP_REFUSED] += 1
            continue
        if held.firm[cache] + size > limit:
            table[kind, layer, ROOM_REFUSED] += 1
            continue
        admit(state, entry)
        while used[cache] + size > limit:
            loser = victim(state, held.busy[cache])
            if loser < 0 or loser >= sizes.shape[1] or not resident[cache, loser]:
                return False
            resident[cache, loser] = False
            used[cache] -= sizes[cache, loser]
            evictions[ALL] += 1
            evictions[FOR_GUESSES] += 1
            _waste(held.unused, setting.layer_of, table, cache, loser)
        if setting.recency != 0:
            held.counts[CLOCK] += 1
            state[KEY, entry] = -setting.recency * held.counts[CLOCK]
        insert(state, entry)
        resident[cache, entry] = True
        used[cache] += size
        held.firm[cache] += size
        held.busy[cache, entry] |= _WAITING
        held.unused[cache, entry] = kind + 1
        held.loaded[g] = True
        held.counts[SPENT] += setting.weights[layer]
        table[kind, layer, LOADED] += 1
        counted.came[issuing] += 1
    return True


@kernel(unfold=True)
def _release(demand, sizes, held, group):
    """Let members of the running group leave again that are not guessed."""
    resident, busy = held.resident, held.busy
    cache = demand.caches[group]
    for i in range(demand.offsets[group], demand.offsets[group + 1]):
        entry = np.int64(demand.entries[i])
        busy[cache, entry] &= _WAITING
        if resident[cache, entry] and not busy[cache, entry]:
            held.firm[cache] -= sizes[cache, entry]


@kernel(signature=types.int64(_DEMAND, _AHEAD, _SETTING, _HELD, _CUBE, *_VERBS, _COUNTED))
def prefetch_replay(demand, ahead, setting, held, states, setup, touch, admit, victim, insert, surplus, counted):
    """Replay all caches; returns 0, or NO_VICTIM when the policy named no resident entry as a victim.

    states: int64[caches, rows, columns], one per cache.
    """
    # The caller has all of it until the end, and counting references in the loops would take longer than they do.
    demand, ahead, setting, held, counted, states = (
        borrowed(demand), borrowed(ahead), borrowed(setting), borrowed(held), borrowed(counted), borrowed(states)
    )  # fmt: skip
    count, n = setting.sizes.shape
    issuing, due = 0, 0
    for epoch in range(demand.epochs.size - 1):
        for cache in range(count):
            setup(states[cache], setting.limits[cache])
            if demand.keys.size > 0:
                states[cache, KEY, :n] = setting.first_keys[epoch % setting.first_keys.shape[0], cache]
        held.resident[:] = False
        held.busy[:] = 0
        held.used[:] = 0
        held.firm[:] = 0
        held.counts[SPENT] = 0
        for group in range(demand.epochs[epoch], demand.epochs[epoch + 1]):
            begin, end = demand.offsets[group], demand.offsets[group + 1]
            cache = demand.caches[group]
            state = states[cache]
            state[0, state.shape[1] - 1] = demand.steps[group]
            if group > demand.epochs[epoch] and demand.steps[group] != demand.steps[group - 1]:
                held.counts[SPENT] = 0
            _look_up(demand, setting, held, group, counted)
            if due < ahead.targets.size and ahead.targets[due] == group:
                _judge(demand, ahead, setting, held, due, counted)
                due += 1
            for i in range(begin, end):
                if not _use(demand, setting, held, group, i, state, touch, admit, victim, insert, surplus, counted):
                    return np.int64(NO_VICTIM)
            for i in range(begin, end):
                entry = np.int64(demand.entries[i])
                held.members[cache, entry] = 0
                counted.evictions[ALL] += held.hit[i] and not held.resident[cache, entry]
            while issuing < ahead.targets.size and ahead.issued[issuing] == group:
                to = demand.caches[ahead.targets[issuing]]
                states[to, 0, states.shape[2] - 1] = demand.steps[group]
                _keep(demand, ahead, setting, held, group, issuing, counted.table)
                if not _load(demand, ahead, setting, held, issuing, states[to], admit, victim, insert, counted):
                    return np.int64(NO_VICTIM)
                if to == cache:
                    _release(demand, setting.sizes, held, group)
                issuing += 1
        for cache in range(count):  # what was loaded for nothing
            for entry in range(n):
                _waste(held.unused, setting.layer_of, counted.table, cache, entry)
    return np.int64(0)
