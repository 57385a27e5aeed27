"""Large traces, whose layers are replayed in parts: what a policy knows goes on from one part to the next.

Done for traces that are read from a file part by part, in scope `layer`, where every token is a step of its own, by
policies that can go on (`FastPath.stack`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels import grouping, tallies
from remoe_sim.kernels.stacks import stack_replay
from remoe_sim.policy.base import Policy
from remoe_sim.policy.outcome import Outcome, Part, Rules, Stack, hits_below
from remoe_sim.policy.stack import NEVER, StackPolicy, count_parts
from remoe_sim.trace.accesses import Stream, layer_stream
from remoe_sim.trace.holdings import of_part
from remoe_sim.trace.sources import PART_ROWS, PartSource, parts_of
from remoe_sim.util.threads import map_layers

if TYPE_CHECKING:
    from remoe_sim.cache.caches import Caches
    from remoe_sim.util.arrays import Longs


def in_parts(caches: Caches, policies: Sequence[Policy]) -> bool:
    """Whether layers are replayed in parts."""
    source = caches.trace.source
    return (
        isinstance(source, PartSource)
        and not source.resident
        and caches.tokens.rows is None
        and caches.tokens.one_per_step
        and not caches.pins.everywhere.size
        and not caches.settings.capped
        and all(
            isinstance(policy, StackPolicy) and policy.fast_path().stack(1, Rules(), True) is not None
            for policy in policies
        )
    )


def parts_of_layer(caches: Caches, index: int) -> Iterator[Part]:
    """The accesses of a layer, part by part."""
    tokens, emptied, base = caches.tokens, True, 0
    for here, decisions in parts_of(caches.trace, index):
        begins = tokens.fresh[here]
        stream = layer_stream(caches.trace, index, decisions, tokens.part(here), caches.settings.order)
        if not stream.steps.size:
            emptied |= bool(begins.any())
            yield Part(here, stream, False, base)
            continue
        emptied |= bool(begins[: stream.steps[0] + 1].any())
        yield Part(here, _from_the_first(stream), emptied, base)
        emptied = bool(begins[stream.steps[-1] + 1 :].any())
        base += stream.entries.size


def _from_the_first(stream: Stream) -> Stream:
    """The accesses with the first group as the begin of an epoch, as it is unless a part goes on with one."""
    return stream if stream.epochs[0] == 0 else replace(stream, epochs=np.append(0, stream.epochs))


def later_uses(parts: Iterable[Part], n_entries: int) -> list[Longs]:
    """`Part.later` of each part: they are looked through once, which needs no more memory than what is returned."""
    never = NEVER + np.arange(n_entries)
    seen = []
    for part in parts:
        places, stream, alone = never.copy(), part.stream, True
        if stream.steps.size:
            grouping.first_places(stream.offsets, stream.entries, stream.epochs[1], part.base, NEVER, places)
            alone = stream.epochs.size == 2
        seen.append((places, part.fresh, alone))
    later, behind = never, []
    for places, fresh, alone in reversed(seen):
        behind.append(later)
        first = np.where(places < NEVER, places, later if alone else never)
        later = never if fresh else first
    return behind[::-1]


def parts_for(caches: Caches, policies: Sequence[Policy], index: int) -> Iterator[Part]:
    """The accesses of a layer with what these policies ask for."""
    if all(policy.online for policy in policies):
        yield from parts_of_layer(caches, index)
        return
    later = later_uses(parts_of_layer(caches, index), caches.trace.model.experts[index])
    for part, behind in zip(parts_of_layer(caches, index), later, strict=True):
        yield replace(part, later=behind)


class PartReplay:
    """One policy on one layer, part after part."""

    def __init__(self, policy: StackPolicy, n_entries: int, rules: Rules) -> None:
        self._stack = _stack(policy, n_entries, rules)
        self._rules = rules
        self._seen = np.full(n_entries, -1, np.int64)
        self._known = rules.preload.size  # entries in the stack

    def outcome(self, part: Part, limit: int) -> tuple[Stream, Outcome]:
        """The next part at one limit; its stream comes back knowing which lookups are first ones."""
        depths, stream, fresh = self._stack.depths(part), part.stream, part.fresh
        hit = np.empty(stream.entries.size, np.bool_)
        resting, running = np.empty(stream.steps.size, np.int64), np.empty(stream.steps.size, np.int64)
        after, capacity, evictions = depths.after_group(stream), min(limit, stream.n_entries), 0
        bounds = [stream.epochs[:2], stream.epochs[1:]]
        for number, epochs in enumerate(bounds):
            if epochs.size < 2:
                continue
            goes_on = number == 0 and not fresh
            evictions += stack_replay(
                stream.offsets, depths.before, after, epochs, capacity, depths.absent,
                self._known if goes_on else self._rules.preload.size, self._rules.mandatory, hit, resting, running,
            )  # fmt: skip
        weight = stream.weights[0]
        stream = self._with_first(stream, fresh)
        self._known = self._stack.known()
        return stream, Outcome(hit, evictions, resting * weight, running * weight)

    def _with_first(self, stream: Stream, fresh: bool) -> Stream:
        first: npt.NDArray[np.bool_] = np.empty(stream.entries.size, np.bool_)
        self._seen[:] = np.where((self._seen >= 0) & (not fresh), 0, -1)  # the first epoch of this part is number 0
        grouping.first_uses(stream.offsets, stream.entries, stream.epochs, self._seen, first)
        self._seen[self._seen < stream.epochs.size - 2] = -1
        stream.__dict__["first"] = first
        return stream


def hits_of_layers(
    caches: Caches, policies: Sequence[Policy], layers: Sequence[int]
) -> list[list[tuple[Longs, Longs]]]:
    """Of each of these layers, per policy: int64[3], lookups of each kind, and int64[3, E + 1], hits at capacities 0 to
    E."""
    sizes = [caches.trace.model.experts[index] for index in layers]
    rules = [caches.layer_rules(index) for index in layers]
    runs = [[_stack(policy, *one) for one in zip(sizes, rules, strict=True)] for policy in _stacks(policies)]
    counts = [[np.zeros((3, n + 1), np.int64) for _ in runs] for n in sizes]
    for parts in zip(*(parts_for(caches, policies, index) for index in layers), strict=True):
        some = [at for at, part in enumerate(parts) if part.stream.steps.size]
        for number, run in enumerate(runs):
            tables = [counts[at][number] for at in some]
            count_parts([run[at] for at in some], [parts[at] for at in some], tables)
    return [[(table.sum(axis=1), hits_below(table)) for table in tables] for tables in counts]


def _stack(policy: StackPolicy, n_entries: int, rules: Rules) -> Stack:
    stack = policy.fast_path().stack(n_entries, rules, in_parts=True)
    assert stack is not None
    return stack


def _stacks(policies: Sequence[Policy]) -> list[StackPolicy]:
    return [policy for policy in policies if isinstance(policy, StackPolicy)]


class Held:
    """The most bytes that all layers together held in any step, found part by part. starts: what each starts with."""

    def __init__(self, starts: Sequence[int]) -> None:
        self.most = 0
        self._starts, self._held, self._in_all = starts, [0] * len(starts), 0

    def add(self, layers: Sequence[PartCounts], fresh: npt.NDArray[np.bool_]) -> None:
        """The next part, layer by layer; fresh: bool[steps], the cache is emptied before the step."""
        delta, peak, after = np.zeros((3, fresh.size), np.int64)
        for index, one in enumerate(layers):
            groups = one.steps, one.resting, one.running
            start, held = self._starts[index], self._held[index]
            self._held[index] = tallies.peak_by_step(*groups, fresh, start, held, delta, peak, after)
        before = np.append(self._in_all, after)[:-1]
        before[fresh] = sum(self._starts)
        self.most = max(self.most, int((before + peak).max(initial=0)))
        self._in_all = int(after[-1]) if after.size else self._in_all


@dataclass(frozen=True)
class PartCounts:
    """A part of a layer by one policy. table: int64[3, 4], as `remoe_sim.kernels.tallies.tally` has it; the rest as in
    Stream and Outcome."""

    table: Longs
    evictions: int
    steps: npt.NDArray[np.int32]
    resting: Longs
    running: Longs


def replay_parts(caches: Caches, limits: Sequence[int], policies: Sequence[Policy]) -> list[tuple[Longs, int, int]]:
    """Replay all layers side by side, part by part, at `limits`, experts of each layer.

    Per policy: int64[3, 4] as `remoe_sim.kernels.tallies.tally` has it, evictions, and the most bytes that all layers
    held at once.
    """
    trace, tokens = caches.trace, caches.tokens
    rules = [caches.layer_rules(index) for index in range(trace.moe_layers)]
    sizes = trace.model.expert_bytes or (1,) * trace.moe_layers
    runs = [
        [PartReplay(policy, experts, rules[index]) for policy in _stacks(policies)]
        for index, experts in enumerate(trace.model.experts)
    ]
    starts = [min(most, rule.preload.size) * size for most, rule, size in zip(limits, rules, sizes, strict=True)]
    held = [Held(starts) for _ in policies]
    tables, evictions = [np.zeros((3, 4), np.int64) for _ in policies], [0 for _ in policies]
    streams = [parts_for(caches, policies, index) for index in range(trace.moe_layers)]

    each = of_part(trace, PART_ROWS, len(policies))

    def one_layer(index: int) -> tuple[slice, list[PartCounts]] | None:
        part = next(streams[index], None)
        return None if part is None else (part.here, [_count(run, part, limits[index]) for run in runs[index]])

    while done := [one for one in map_layers(one_layer, trace.moe_layers, each) if one is not None]:
        if len({(here.start, here.stop) for here, _ in done}) > 1 or len(done) < trace.moe_layers:
            raise trace.error("its layers have different numbers of rows; the file is damaged, write it again")
        for number in range(len(policies)):
            layers = [counted[number] for _, counted in done]
            held[number].add(layers, tokens.fresh[done[0][0]])
            tables[number] += sum((one.table for one in layers), np.zeros((3, 4), np.int64))
            evictions[number] += sum(one.evictions for one in layers)
    most = [one.most if table.any() else 0 for one, table in zip(held, tables, strict=True)]
    return list(zip(tables, evictions, most, strict=True))


def _count(run: PartReplay, part: Part, limit: int) -> PartCounts:
    table, none = np.zeros((3, 4), np.int64), np.zeros(0, np.int64)
    if not part.stream.steps.size:
        return PartCounts(table, 0, part.stream.steps, none, none)
    stream, outcome = run.outcome(part, limit)
    tallies.tally(stream.entries, stream.kinds, outcome.hit, stream.first, stream.weights, table)
    return PartCounts(table, outcome.evictions, stream.steps, outcome.resting, outcome.running)


def reads_of(caches: Caches, policies: Sequence[Policy]) -> int:
    """How many times a replay reads each layer from its file: what looks ahead reads large ones twice."""
    return 2 if in_parts(caches, policies) and not all(policy.online for policy in policies) else 1
