"""One tier replayed: its caches one by one, from what is looked up there to what it keeps and what leaves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.arguments import GroupedAccesses
from remoe_sim.kernels.tiers import NO_VICTIM, Arrivals, Passage, TierHeld, TierRule, tier_replay
from remoe_sim.policy.base import Policy
from remoe_sim.policy.drive import drive, keys_of, sortable, state_of
from remoe_sim.policy.guard import run_told
from remoe_sim.policy.stack import StackPolicy
from remoe_sim.trace.accesses import Stream
from remoe_sim.util.threads import map_layers

if TYPE_CHECKING:
    from remoe_sim.cache.settings import Limit, Settings
    from remoe_sim.trace.trace import Trace
    from remoe_sim.util.arrays import Flags, Int32s, Longs

MOVED, ANSWERED = 60, 20  # bytes of an item of a cache while it is replayed, and of what is answered


@dataclass(frozen=True)
class Course:
    """What all tiers have in common: the step of each group of all layers, in execution order; epochs: group bounds
    between which the tiers live; bytes of each entry; the first entry of each layer."""

    steps: Int32s
    epochs: Longs
    weights: Longs
    layer_starts: Longs

    @classmethod
    def of(cls, stream: Stream) -> Course:
        """From the accesses of all layers."""
        return cls(stream.steps, stream.epochs, stream.weights, stream.layer_starts)


@dataclass(frozen=True)
class Items:
    """Entries that are looked up, come in or leave, in execution order: the group with which it happens, and its kind
    (`tallies`)."""

    groups: Int32s
    entries: Int32s
    kinds: npt.NDArray[np.uint8]

    @classmethod
    def of_stream(cls, stream: Stream) -> Items:
        groups = np.repeat(np.arange(stream.steps.size, dtype=np.int32), np.diff(stream.offsets))
        return cls(groups, stream.entries.astype(np.int32, copy=False), stream.kinds)

    def take(self, which: Longs) -> Items:
        return Items(self.groups[which], self.entries[which], self.kinds[which])

    def within(self, first: int, past: int) -> Longs:
        """Which items are of entries from `first` to before `past`."""
        return np.flatnonzero((self.entries >= first) & (self.entries < past))

    def bounds(self, groups: Longs) -> Longs:
        """int64[groups + 1]: which items belong to each group; `groups` holds all of theirs."""
        return np.append(np.searchsorted(self.groups, groups), self.groups.size)


@dataclass(frozen=True)
class Memory:
    """The caches of a tier: (first entry, past the last, limit) of each; sizes: what each entry takes of a limit."""

    caches: list[tuple[int, int, int]]
    sizes: Longs
    in_bytes: bool
    per_layer: bool

    @classmethod
    def of(cls, trace: Trace, settings: Settings, limit: Limit) -> Memory:
        starts = np.append(0, np.cumsum(trace.model.experts))
        sizes = np.ones(starts[-1], np.int64)
        if settings.per_layer:
            each = [limit.for_layer(trace, index) for index in range(trace.moe_layers)]
            caches = [(int(a), int(b), most) for a, b, most in zip(starts, starts[1:], each, strict=False)]
            return cls(caches, sizes, False, True)
        if limit.budget is not None:
            sizes = np.repeat(np.array(trace.model.expert_bytes, np.int64), trace.model.experts)
        return cls([(0, int(starts[-1]), limit.in_all)], sizes, limit.budget is not None, False)


@dataclass(frozen=True)
class Passed:
    """hit: of each lookup; kept: of each item that came in, whether the tier has it after the group; gone: what left,
    or came in and was not kept, in that order; had: of those, whether the tier had it before the group."""

    hit: Flags
    kept: Flags
    gone: Items
    had: Flags


def pass_tier(
    policy: Policy,
    memory: Memory,
    course: Course,
    lookups: Items,
    mandatory: bool,
    coming: Items | None = None,
    above: tuple[Items, Flags] | None = None,
) -> Passed:
    """Replay a tier. coming: what enters instead of the lookups, which then leave when they hit (exclusive); above:
    what left the tier above, and of each lookup whether that has it now, which this tier must hold (inclusive)."""
    entering = lookups if coming is None else coming
    kind_of_group = np.zeros(course.steps.size, np.uint8)
    np.maximum.at(kind_of_group, lookups.groups, lookups.kinds)
    hit, kept = np.zeros(lookups.groups.size, np.bool_), np.zeros(entering.groups.size, np.bool_)

    def one_cache(index: int) -> tuple[Longs, Longs, Passed]:
        bounds = memory.caches[index][:2]
        which, enters = lookups.within(*bounds), entering.within(*bounds)
        firm = None if above is None else (above[0].take(above[0].within(*bounds)), above[1][enters])
        done = _pass_cache(
            policy, memory, index, course, lookups.take(which), None if coming is None else coming.take(enters), firm,
            mandatory,
        )  # fmt: skip
        return which, enters, done

    moved = (lookups.groups.size + entering.groups.size) // len(memory.caches) + course.steps.size
    parts = []
    for which, enters, done in map_layers(one_cache, len(memory.caches), moved * MOVED, moved * ANSWERED):
        hit[which], kept[enters] = done.hit, done.kept
        parts.append((done.gone.groups, done.gone.entries, done.had))
    groups, entries, had = (np.concatenate(one) for one in zip(*parts, strict=True))
    order = np.argsort(groups, kind="stable")
    gone = Items(groups, entries, kind_of_group[groups]).take(order)
    return Passed(hit, kept, gone, had[order])


def _pass_cache(
    policy: Policy,
    memory: Memory,
    index: int,
    course: Course,
    lookups: Items,
    coming: Items | None,
    above: tuple[Items, Flags] | None,
    mandatory: bool,
) -> Passed:
    first, past, limit = memory.caches[index]
    entering = lookups if coming is None else coming
    taking_part = np.zeros(course.steps.size, np.bool_)
    for items in (lookups, entering) if above is None else (lookups, entering, above[0]):
        taking_part[items.groups] = True
    groups = np.flatnonzero(taking_part)
    none = np.zeros(0, np.int64)
    stream = stream_of_cache(lookups, memory, index, course)
    if coming is None:
        keys = sortable(keys_of(policy, stream))
    else:
        keys = _keys_of_arrivals(policy, lookups, coming, memory, index, course)
    hit, kept = np.empty(lookups.groups.size, np.bool_), np.empty(entering.groups.size, np.bool_)
    gone_offsets, gone = np.empty(groups.size + 1, np.int64), np.empty(kept.size, np.int32)
    had, resting = np.empty(kept.size, np.bool_), np.empty(groups.size, np.int64)
    accesses = GroupedAccesses(
        lookups.bounds(groups), _local(lookups, first), course.steps[groups], np.searchsorted(groups, course.epochs)
    )
    arrivals = Arrivals(
        entering.bounds(groups), _local(entering, first), keys,
        none if above is None else above[0].bounds(groups),
        np.zeros(0, np.int32) if above is None else _local(above[0], first),
        np.zeros(0, np.bool_) if above is None else above[1],
    )  # fmt: skip
    written = Passage(hit, kept, gone_offsets, gone, had, resting)

    def run(plain: bool) -> Any:
        loop, (*verbs, trims) = drive(tier_replay, policy, [stream], plain)
        sizes = memory.sizes[first:past]
        tier = TierRule(sizes, int(limit), bool(mandatory), coming is not None, trims)
        return loop(accesses, arrivals, tier, TierHeld.empty(sizes.size), state_of(policy, stream), *verbs, written)

    fault = run_told(policy, run)
    if fault == NO_VICTIM:
        raise ValueError(f"policy '{policy.label}' chose a victim that it may not; correct its victim()")
    if resting.size and int(resting.max()) > limit:
        raise RuntimeError(f"residents take {resting.max()} where {limit} are allowed; please report this")
    count = int(gone_offsets[-1])
    left = Items(
        np.repeat(groups.astype(np.int32), np.diff(gone_offsets)),
        (gone[:count] + first).astype(np.int32),
        np.zeros(count, np.uint8),
    )
    return Passed(hit, kept, left, had[:count])


def _local(items: Items, first: int) -> Int32s:
    return items.entries - np.int32(first)


def stream_of_cache(items: Items, memory: Memory, index: int, course: Course, halves: int = 1) -> Stream:
    """The items as the accesses of a cache; with halves = 2 their groups are numbered twice as fine as the course's."""
    first, past, _ = memory.caches[index]
    starts = np.flatnonzero(np.diff(items.groups, prepend=-1))
    groups = items.groups[starts]
    inside = course.layer_starts[(course.layer_starts >= first) & (course.layer_starts < past)] - first
    return Stream(
        np.append(starts, items.groups.size), _local(items, first), items.kinds, course.steps[groups // halves],
        np.searchsorted(groups, halves * course.epochs).astype(np.int64), course.weights[first:past],
        memory.in_bytes, memory.per_layer, inside,
    )  # fmt: skip


def _keys_of_arrivals(
    policy: Policy, lookups: Items, coming: Items, memory: Memory, index: int, course: Course
) -> Longs:
    """Keys of what comes down, where lookups and arrivals both are uses: those of a group first, then these."""
    if not isinstance(policy, StackPolicy):
        return np.zeros(0, np.int64)
    groups = np.concatenate((2 * lookups.groups, 2 * coming.groups + 1))
    order = np.argsort(groups, kind="stable")
    both = Items(
        groups,
        np.concatenate((lookups.entries, coming.entries)),
        np.concatenate((lookups.kinds, coming.kinds)),
    ).take(order)
    keys = np.empty(order.size, np.int64)
    keys[order] = sortable(keys_of(policy, stream_of_cache(both, memory, index, course, halves=2)))
    return keys[lookups.groups.size :]
