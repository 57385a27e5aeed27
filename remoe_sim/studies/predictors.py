"""Which experts a prefetch names for each group: previous, frequent, transition, lookahead, noisy and oracle.

A guess for layer l is issued `depth` layers earlier, counted over steps, so that the first layers of a step are guessed
during the last layers of the step before it. It is made of what is known then: groups up to that place. Only `oracle`
and `noisy` look at the group itself. Nothing is guessed for a layer that a step does not reach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from remoe_sim.cache.caches import Preload
from remoe_sim.kernels import predictors
from remoe_sim.util.arrays import Flags, Int32s, Longs
from remoe_sim.util.threads import map_layers

if TYPE_CHECKING:
    from remoe_sim.trace.accesses import Stream, Tokens
    from remoe_sim.trace.trace import Trace

GUESSED = 60  # bytes of a lookup of a layer while experts are named for it


@dataclass(frozen=True)
class Guesses:
    """targets: int64[T], groups for which something is guessed, ascending; issued: int64[T], the group that is running
    when it is; offsets: int64[T + 1]; entries: int32[…], of all layers, the surest first."""

    targets: Longs
    issued: Longs
    offsets: Longs
    entries: Int32s

    @classmethod
    def none(cls) -> Guesses:
        empty = np.zeros(0, np.int64)
        return cls(empty, empty, np.zeros(1, np.int64), np.zeros(0, np.int32))


@dataclass(frozen=True)
class LayerGroups:
    """The groups of one layer: which of all groups they are, and their experts in order of last appearance."""

    index: Longs
    offsets: Longs
    experts: Int32s
    fresh: Flags


@dataclass(frozen=True)
class Known:
    """What predictors know. stream: all layers, members in order of last appearance; learnt: how many of the first
    steps are only learned from; most: how many experts are named for a group, None for the layer's top_k; training:
    trace, tokens to learn from; popularity: uses in a training trace, if there is one."""

    trace: Trace
    tokens: Tokens
    stream: Stream
    depth: int
    learnt: int = 0
    most: int | None = None
    training: Trace | None = None
    popularity: Preload = field(default_factory=Preload)
    recall: float = 1.0
    precision: float = 1.0
    seed: int = 0

    @cached_property
    def layers(self) -> Int32s:
        """int32[groups]: the MoE layer of each group."""
        first = self.stream.entries[self.stream.offsets[:-1]]
        return (np.searchsorted(self.stream.layer_starts, first, side="right") - 1).astype(np.int32)

    @cached_property
    def places(self) -> Longs:
        """int64[groups]: the place of each group in time, counted in layers over all steps; strictly ascending."""
        return self.stream.steps.astype(np.int64) * self.trace.moe_layers + self.layers

    @cached_property
    def issued(self) -> Longs:
        """int64[groups]: the last group at or before the place `depth` layers earlier, -1 if the caches were emptied in
        between or the group is only learned from."""
        groups = np.arange(self.places.size)
        issued = np.searchsorted(self.places, self.places - self.depth, side="right") - 1
        epochs = self.stream.epochs
        since = epochs[np.searchsorted(epochs, groups, side="right") - 1]
        return np.where((issued >= since) & (self.stream.steps >= self.learnt), issued, -1)

    def groups(self, layer: int) -> LayerGroups:
        index = np.flatnonzero(self.layers == layer)
        sizes = np.diff(self.stream.offsets)[index]
        offsets = np.append(0, np.cumsum(sizes))
        at = np.repeat(self.stream.offsets[index] - offsets[:-1], sizes) + np.arange(offsets[-1])
        epoch = np.searchsorted(self.stream.epochs, index, side="right")
        fresh = np.diff(epoch, prepend=-1) != 0
        experts = self.stream.entries[at].astype(np.int32) - np.int32(self.stream.layer_starts[layer])
        return LayerGroups(index, offsets, experts, fresh)

    def width(self, layer: int) -> int:
        return min(self.trace.model.experts[layer], self.trace.model.top_k[layer] if self.most is None else self.most)

    @property
    def learns(self) -> bool:
        """Whether there is something to learn from beforehand."""
        return self.training is not None or self.learnt > 0


Named = tuple[Longs, Int32s]  # offsets over the groups of a layer, and the experts named for each


def _previous(known: Known, layer: int) -> Named:
    groups, most = known.groups(layer), known.width(layer)
    offsets, out = np.empty(groups.index.size + 1, np.int64), np.empty(groups.index.size * most, np.int32)
    end = predictors.guess_previous(groups.offsets, groups.experts, groups.fresh, most, offsets, out)
    return offsets, out[:end]


def _frequent(known: Known, layer: int) -> Named:
    groups, most = known.groups(layer), known.width(layer)
    experts = known.trace.model.experts[layer]
    if known.learns:
        ranked = known.popularity.of_layer(layer)[:most]
        return np.arange(groups.index.size + 1) * ranked.size, np.tile(ranked, groups.index.size)
    offsets, out = np.empty(groups.index.size + 1, np.int64), np.empty(groups.index.size * most, np.int32)
    scratch = (np.empty(experts, np.int64) for _ in range(3))
    end = predictors.guess_frequent(groups.offsets, groups.experts, groups.fresh, most, *scratch, offsets, out)
    return offsets, out[:end]


def _transition(known: Known, layer: int) -> Named:
    trace, groups, most = known.trace, known.groups(layer), known.width(layer)
    source_layer = (layer - known.depth) % trace.moe_layers
    sources = known.groups(source_layer)
    table, uses = _learn(known, source_layer, layer)
    wanted = known.places[groups.index] - known.depth
    at = np.searchsorted(known.places[sources.index], wanted)
    there = at < sources.index.size
    there[there] = known.places[sources.index[at[there]]] == wanted[there]
    there &= known.issued[groups.index] >= 0
    offsets = np.empty(groups.index.size + 1, np.int64)
    out, score = np.empty(groups.index.size * most, np.int32), np.empty(table.shape[1])
    source = np.where(there, at, -1)
    end = predictors.guess_likely(sources.offsets, sources.experts, source, table, uses, most, score, offsets, out)
    return offsets, out[:end]


def _lookahead(known: Known, layer: int) -> Named:
    """What the router of this layer says, for all tokens of the step, on the input of the layer `depth` earlier."""
    groups, tokens, experts = known.groups(layer), known.tokens, known.trace.model.experts[layer]
    named = known.trace.ahead(layer - known.depth, known.depth) if layer >= known.depth else None
    if named is None:
        return np.zeros(groups.index.size + 1, np.int64), np.zeros(0, np.int32)
    steps = known.stream.steps[groups.index].astype(np.int64)
    starts = np.ascontiguousarray(np.stack((tokens.starts[steps], tokens.starts[steps + 1]), axis=1))
    rows = np.arange(known.trace.tokens) if tokens.rows is None else tokens.rows
    most = -1 if known.most is None else known.most
    room = np.minimum((starts[:, 1] - starts[:, 0]) * named.experts.shape[1], experts).sum()
    offsets, out = np.empty(groups.index.size + 1, np.int64), np.empty(int(room), np.int32)
    scratch = (np.zeros(experts, np.int64) for _ in range(3))
    end = predictors.guess_ahead(named.experts, named.mask, rows, starts, most, *scratch, offsets, out)
    return offsets, out[:end]


def _learn(known: Known, source_layer: int, layer: int) -> tuple[Longs, Longs]:
    """Transitions of the training trace or of the first steps, between the experts of one token; where the layer is one
    of the first `depth`, from those of the token before it in its request."""
    if known.training is not None:
        trace, rows = known.training, np.arange(known.training.tokens)
    else:
        trace, end = known.trace, known.tokens.starts[known.learnt]
        rows = np.arange(trace.tokens) if known.tokens.rows is None else known.tokens.rows
        rows = rows[:end]
    before = rows
    if layer < known.depth:
        request, position = trace.request[rows], trace.position[rows].astype(np.int64)
        order = np.lexsort((position, request))
        follows = (np.diff(request[order]) == 0) & (np.diff(position[order]) == 1)
        before, rows = rows[order[:-1][follows]], rows[order[1:][follows]]
    experts = known.trace.model.experts
    table, uses = np.zeros((experts[source_layer], experts[layer]), np.int64), np.zeros(experts[source_layer], np.int64)
    source, target = trace.decisions(source_layer), trace.decisions(layer)
    predictors.count_transitions(source.experts, source.mask, target.experts, target.mask, before, rows, table, uses)
    return table, uses


def _oracle(known: Known, layer: int) -> Named:
    groups = known.groups(layer)
    return groups.offsets, groups.experts


def _noisy(known: Known, layer: int) -> Named:
    """Each member with probability `recall`; so many others that `precision` of what is named is right."""
    groups, n_experts = known.groups(layer), known.trace.model.experts[layer]
    chance = np.random.default_rng([known.seed, layer])
    named = chance.random(groups.experts.size) < known.recall
    sizes = np.diff(groups.offsets)
    right = np.diff(np.append(0, np.cumsum(named))[groups.offsets])
    wrong = np.floor(right * (1 - known.precision) / known.precision + chance.random(sizes.size)).astype(np.int64)
    wrong = np.minimum(wrong, n_experts - sizes)
    offsets, out = np.empty(sizes.size + 1, np.int64), np.empty(int(right.sum() + wrong.sum()), np.int32)
    predictors.guess_noisy(
        groups.offsets, groups.experts, named, wrong, chance.random(int(wrong.sum())), np.full(n_experts, -1, np.int64),
        np.empty(n_experts, np.int64), offsets, out,
    )  # fmt: skip
    shuffled = np.lexsort((chance.random(out.size), np.repeat(np.arange(sizes.size), np.diff(offsets))))
    return offsets, out[shuffled]


PREDICTORS: dict[str, Callable[[Known, int], Named]] = {
    "previous": _previous,
    "frequent": _frequent,
    "transition": _transition,
    "lookahead": _lookahead,
    "oracle": _oracle,
    "noisy": _noisy,
}


def guess(predictor: str, known: Known) -> Guesses:
    """What a predictor names for all groups that anything can be issued for."""
    each = known.stream.entries.size // known.trace.moe_layers * GUESSED + known.stream.steps.size * 8
    named = list(map_layers(lambda layer: PREDICTORS[predictor](known, layer), known.trace.moe_layers, each))
    indices = [np.flatnonzero(known.layers == layer) for layer in range(known.trace.moe_layers)]
    sizes = np.zeros(known.layers.size, np.int64)
    for index, (offsets, _) in zip(indices, named, strict=True):
        sizes[index] = np.diff(offsets)
    sizes[known.issued < 0] = 0
    begins = np.append(0, np.cumsum(sizes))
    entries = np.empty(begins[-1], np.int32)
    for layer, (index, (offsets, experts)) in enumerate(zip(indices, named, strict=True)):
        counts = np.diff(offsets)
        to = np.repeat(begins[index] - offsets[:-1], counts) + np.arange(experts.size)
        possible = np.repeat(sizes[index] == counts, counts)  # all of a group, or nothing
        entries[to[possible]] = experts[possible] + np.int32(known.stream.layer_starts[layer])
    targets = np.flatnonzero(sizes)
    return Guesses(targets, known.issued[targets], np.append(begins[targets], begins[-1:]), entries)
