"""What one pass over a trace counts at many limits: hits of every layer, and misses of every step for times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from remoe_sim.cache.curve import layer_curve
from remoe_sim.cache.holdings import of_replay
from remoe_sim.cache.parts import hits_of_layers, in_parts
from remoe_sim.cache.stream import replay_stream
from remoe_sim.devices.run import StepCounts
from remoe_sim.kernels import tallies
from remoe_sim.policy.base import Policy
from remoe_sim.policy.stack import StackPolicy, depths, needed_bytes
from remoe_sim.trace.holdings import of_shared
from remoe_sim.util.threads import fewer, map_layers, most_threads

if TYPE_CHECKING:
    from remoe_sim.cache.caches import Caches
    from remoe_sim.trace.accesses import Stream
    from remoe_sim.util.arrays import Longs

MOST_MISSED_BYTES = 2**29  # of counts per step and layer that are held at once
LOOKUPS, HITS, COLD = range(3)  # columns of tables of counts


@dataclass(frozen=True)
class Counted:
    """Some limits. tables: int64[limits, layers, 3, 3], per layer and kind: lookups, hits, cold misses; counts: the
    misses of every step and layer at each limit, if they were wanted."""

    tables: Longs
    counts: StepCounts | None


def counted(
    caches: Caches, policy: Policy, limits: Sequence[tuple[int, ...]], in_bytes: bool, timed: bool,
    layers: range | None = None,
) -> Iterator[Counted]:  # fmt: skip
    """The counts at the limits, block by block in their order; a limit is one number per MoE layer under scope `layer`,
    else one number. A stack policy reads the trace once for as many limits as memory holds misses of. layers: those
    that are counted, all without it; in one cache of all layers no other choice is possible, nor for times."""
    of_limit = caches.tokens.n_steps * caches.trace.moe_layers * 2 if timed else 0
    together = fewer(max(1, MOST_MISSED_BYTES // of_limit), of_limit) if of_limit else len(limits)
    if not isinstance(policy, StackPolicy):  # nothing is shared, so rows come as soon as processors have been busy
        together = min(together, 1 if caches.settings.per_layer else most_threads())
    blocks = (limits[first : first + together] for first in range(0, len(limits), together))
    if caches.settings.per_layer:
        some = layers or range(caches.trace.moe_layers)
        yield from (_per_layer(caches, policy, block, timed, some) for block in blocks)
        return
    whole = _AllLayers(caches, policy, in_bytes)
    yield from (whole.counted([limit[0] for limit in block], timed) for block in blocks)


def _per_layer(
    caches: Caches, policy: Policy, limits: Sequence[tuple[int, ...]], timed: bool, layers: range
) -> Counted:
    counts = StepCounts(caches.trace, caches.tokens, len(limits)) if timed else None

    def one_layer(at: int) -> Longs:
        wanted = np.array([limit[layers[at]] for limit in limits], np.int64)
        if counts is None and isinstance(policy, StackPolicy):
            return _from_curve(caches, policy, layers[at], wanted)
        return _limit_by_limit(caches, policy, layers[at], wanted, counts)

    return Counted(np.stack(list(map_layers(one_layer, len(layers), of_replay(caches))), axis=1), counts)


def _from_curve(caches: Caches, policy: StackPolicy, index: int, wanted: Longs) -> Longs:
    """One layer at all limits from the hits at every capacity; first uses are missed at any."""
    if in_parts(caches, [policy]):
        lookups, hits = hits_of_layers(caches, [policy], [index])[0][0]
        first = lookups - hits[:, -1]
    else:
        stream = caches.layer_views(index).get(policy.by_last)
        hits = layer_curve(policy, stream, caches.layer_rules(index))
        lookups, first = (np.bincount(kinds, minlength=3) for kinds in (stream.kinds, stream.kinds[stream.first]))
    tables = np.empty((wanted.size, 3, 3), np.int64)
    tables[:, :, LOOKUPS], tables[:, :, HITS], tables[:, :, COLD] = lookups, hits[:, wanted].T, first
    return tables


def _limit_by_limit(caches: Caches, policy: Policy, index: int, wanted: Longs, counts: StepCounts | None) -> Longs:
    rules = caches.layer_rules(index)
    stream = caches.layer_views(index).get(policy.by_last)
    if counts is not None:
        counts.need(stream, index)
    found = depths(policy, stream, rules) if isinstance(policy, StackPolicy) else None
    tables = np.zeros((wanted.size, 3, 3), np.int64)
    for capacity in np.unique(wanted).tolist():
        if found is None:
            hit = replay_stream(policy, stream, capacity, rules)[1].hit
        else:
            hit = found.before < capacity
        numbers = np.flatnonzero(wanted == capacity).tolist()
        tables[numbers] = _tally(stream, hit)
        if counts is not None:
            for number in numbers:
                counts.miss(number, stream, hit, index)
    return tables


def _tally(stream: Stream, hit: np.ndarray) -> Longs:
    """int64[3, 3]: per kind lookups, hits, cold misses."""
    table = np.zeros((3, 4), np.int64)
    tallies.tally(stream.entries, stream.kinds, hit, stream.first, stream.weights, table)
    return table[:, :3]


class _AllLayers:
    """The one cache of all layers."""

    def __init__(self, caches: Caches, policy: Policy, in_bytes: bool) -> None:
        self.caches, self.policy, self.rules = caches, policy, caches.global_rules()
        self.stream = caches.global_views(in_bytes).get(policy.by_last)
        self.needed = needed_bytes(policy, self.stream, self.rules) if isinstance(policy, StackPolicy) else None
        self.layer_of = np.repeat(np.arange(caches.trace.moe_layers), caches.trace.model.experts)

    def counted(self, limits: Sequence[int], timed: bool) -> Counted:
        counts = StepCounts(self.caches.trace, self.caches.tokens, len(limits)) if timed else None
        if counts is not None:
            counts.need(self.stream)

        def one_limit(number: int) -> Longs:
            if self.needed is None:
                hit = replay_stream(self.policy, self.stream, limits[number], self.rules)[1].hit
            else:
                hit = self.needed <= limits[number]
            if counts is not None:
                counts.miss(number, self.stream, hit)
            table = np.zeros((self.caches.trace.moe_layers, 3, 3), np.int64)
            stream = self.stream
            tallies.tally_layers(stream.entries, stream.kinds, hit, stream.first, self.layer_of, table)
            return table

        each = of_shared(self.stream) if self.needed is None else self.stream.entries.size
        return Counted(np.stack(list(map_layers(one_limit, len(limits), each))), counts)
