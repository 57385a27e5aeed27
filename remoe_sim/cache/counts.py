"""What one pass over a trace counts at many limits: hits of every layer, and misses of every step for times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.cache.caches import Caches, replay_stream
from remoe_sim.cache.curve import layer_curve
from remoe_sim.cache.holdings import of_replay
from remoe_sim.cache.parts import hits_of_layers, in_parts
from remoe_sim.devices.step_counts import StepCounts
from remoe_sim.kernels import tallies
from remoe_sim.policy.base import Policy
from remoe_sim.policy.slot import CompiledSlotPolicy
from remoe_sim.policy.stack import StackPolicy, depths, needed_bytes
from remoe_sim.trace.holdings import of_shared
from remoe_sim.util.threads import fewer, map_layers, most_threads

if TYPE_CHECKING:
    from remoe_sim.policy.outcome import Rules
    from remoe_sim.trace.accesses import Stream
    from remoe_sim.util.arrays import Longs

MOST_MISSED_BYTES = 2**29  # of counts per step and layer that are held at once
LOOKUPS, HITS, COLD = range(3)  # columns of tables of counts


@dataclass(frozen=True)
class Accesses:
    """The lookups of one cache, and at which limits they hit under one policy.

    layer: the MoE layer of the cache, None for the cache of all layers
    needs: [lookups], the smallest limit at which each hits; None where only a replay tells
    """

    policy: Policy
    stream: Stream
    rules: Rules
    layer: int | None
    needs: npt.NDArray[Any] | None

    @classmethod
    def of_layer(cls, caches: Caches, policy: Policy, index: int) -> Accesses:
        """Take those of the cache of MoE layer `index`, whose limit counts experts."""
        stream, rules = caches.layer_views(index).get(policy.by_last), caches.layer_rules(index)
        needs = None
        if isinstance(policy, StackPolicy):
            before = depths(policy, stream, rules).before
            needs = before.astype(np.uint16 if stream.n_entries < 2**16 - 1 else np.int64) + 1
        return cls(policy, stream, rules, index, needs)

    @classmethod
    def of_all_layers(cls, caches: Caches, policy: Policy, in_bytes: bool) -> Accesses:
        """Take those of the one cache of all layers, whose limit counts bytes or experts."""
        stream, rules = caches.global_views(in_bytes).get(policy.by_last), caches.global_rules()
        needs = needed_bytes(policy, stream, rules) if isinstance(policy, StackPolicy) else None
        return cls(policy, stream, rules, None, needs)

    def hits(self, limit: int) -> npt.NDArray[np.bool_]:
        """bool[lookups]: those that hit at a limit."""
        if self.needs is not None:
            return self.needs <= (limit if self.layer is None else min(limit, self.stream.n_entries))
        return replay_stream(self.policy, self.stream, limit, self.rules)[1].hit

    @property
    def each(self) -> int:
        """Bytes that `hits` takes meanwhile."""
        return of_shared(self.stream) if self.needs is None else self.stream.entries.size


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
    if not isinstance(policy, StackPolicy) and not (_several(policy, caches) and not timed):
        # nothing is shared, so rows come as soon as processors have been busy
        together = min(together, 1 if caches.settings.per_layer else most_threads())
    blocks = (limits[first : first + together] for first in range(0, len(limits), together))
    if caches.settings.per_layer:
        some = layers or range(caches.trace.moe_layers)
        yield from (_per_layer(caches, policy, block, timed, some) for block in blocks)
        return
    whole = Accesses.of_all_layers(caches, policy, in_bytes)
    yield from (_all_layers(caches, whole, [limit[0] for limit in block], timed) for block in blocks)


def _per_layer(
    caches: Caches, policy: Policy, limits: Sequence[tuple[int, ...]], timed: bool, layers: range
) -> Counted:
    counts = StepCounts(caches.trace, caches.tokens, len(limits)) if timed else None

    def one_layer(at: int) -> Longs:
        wanted = np.array([limit[layers[at]] for limit in limits], np.int64)
        if counts is None and (isinstance(policy, StackPolicy) or _several(policy, caches)):
            return _from_curve(caches, policy, layers[at], wanted)
        return _limit_by_limit(caches, policy, layers[at], wanted, counts)

    return Counted(np.stack(list(map_layers(one_layer, len(layers), of_replay(caches))), axis=1), counts)


def _several(policy: Policy, caches: Caches) -> bool:
    """Whether several limits of a layer's cache are quicker together."""
    return isinstance(policy, CompiledSlotPolicy) and caches.settings.per_layer and not caches.settings.capped


def _from_curve(caches: Caches, policy: Policy, index: int, wanted: Longs) -> Longs:
    """One layer at all limits from the hits at every capacity; first uses are missed at any."""
    if in_parts(caches, [policy]):
        lookups, hits = hits_of_layers(caches, [policy], [index])[0][0]
        first, hits = lookups - hits[:, -1], hits[:, wanted]
    else:
        stream = caches.layer_views(index).get(policy.by_last)
        hits = layer_curve(policy, stream, caches.layer_rules(index), wanted)
        lookups, first = (np.bincount(kinds, minlength=3) for kinds in (stream.kinds, stream.kinds[stream.first]))
    tables = np.empty((wanted.size, 3, 3), np.int64)
    tables[:, :, LOOKUPS], tables[:, :, HITS], tables[:, :, COLD] = lookups, hits.T, first
    return tables


def _limit_by_limit(caches: Caches, policy: Policy, index: int, wanted: Longs, counts: StepCounts | None) -> Longs:
    one = Accesses.of_layer(caches, policy, index)
    if counts is not None:
        counts.need(one.stream, index)
    tables = np.zeros((wanted.size, 3, 3), np.int64)
    if one.needs is not None:
        if counts is not None:
            counts.miss_at(wanted, one.stream, one.needs, index)
        return _by_needs(one.stream, one.needs)[np.minimum(wanted, one.stream.n_entries)]
    for capacity in np.unique(wanted).tolist():
        hit = one.hits(capacity)
        numbers = np.flatnonzero(wanted == capacity).tolist()
        tables[numbers] = _tally(one.stream, hit)
        if counts is not None:
            for number in numbers:
                counts.miss(number, one.stream, hit, index)
    return tables


def _by_needs(stream: Stream, needs: npt.NDArray[Any]) -> Longs:
    """int64[n_entries + 1, 3, 3]: at each number of experts, per kind lookups, hits, cold misses."""
    most = stream.n_entries + 1  # what is needed of a lookup that hits nowhere
    each = np.minimum(needs, most).astype(np.int64) + stream.kinds.astype(np.int64) * (most + 1)
    every, first = (np.bincount(one, minlength=3 * (most + 1)).reshape(3, -1) for one in (each, each[stream.first]))
    table = np.empty((most, 3, 3), np.int64)
    table[:, :, LOOKUPS] = every.sum(axis=1)
    table[:, :, HITS] = every.cumsum(axis=1)[:, :most].T
    table[:, :, COLD] = (first.sum(axis=1)[:, None] - first.cumsum(axis=1))[:, :most].T
    return table


def _tally(stream: Stream, hit: np.ndarray) -> Longs:
    """int64[3, 3]: per kind lookups, hits, cold misses."""
    table = np.zeros((3, 4), np.int64)
    tallies.tally(stream.entries, stream.kinds, hit, stream.first, stream.weights, table)
    return table[:, :3]


def _all_layers(caches: Caches, whole: Accesses, limits: Sequence[int], timed: bool) -> Counted:
    trace, stream = caches.trace, whole.stream
    layer_of = np.repeat(np.arange(trace.moe_layers), trace.model.experts)
    counts = StepCounts(trace, caches.tokens, len(limits)) if timed else None
    if counts is not None:
        counts.need(stream)

    def one_limit(number: int) -> Longs:
        hit = whole.hits(limits[number])
        if counts is not None:
            counts.miss(number, stream, hit)
        table = np.zeros((trace.moe_layers, 3, 3), np.int64)
        tallies.tally_layers(stream.entries, stream.kinds, hit, stream.first, layer_of, table)
        return table

    return Counted(np.stack(list(map_layers(one_limit, len(limits), whole.each))), counts)
