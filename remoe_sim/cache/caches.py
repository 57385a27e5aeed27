"""One cache of a call: what it starts with, what is pinned, the accesses it sees, and their replay by a policy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from remoe_sim.kernels import tallies
from remoe_sim.policy.outcome import NO_PRELOAD, Outcome, Rules
from remoe_sim.trace.accesses import Stream, StreamViews, Tokens, global_stream, layer_stream
from remoe_sim.trace.reader import as_trace
from remoe_sim.trace.trace import Trace, TraceLike
from remoe_sim.util.arrays import Int32s, Longs
from remoe_sim.util.units import parse_count, plural

if TYPE_CHECKING:
    from remoe_sim.cache.settings import Settings
    from remoe_sim.policy.base import Policy
    from remoe_sim.util.arrays import Longs

Entries = Int32s


@dataclass(frozen=True)
class Preload:
    """counts: int64[E] of each MoE layer, how often each expert was chosen there; empty when nothing is preloaded."""

    counts: tuple[Longs, ...] = ()

    @classmethod
    def of(cls, trace: Trace, other: TraceLike | None) -> Preload:
        """Counts of `other`, which must have trace's layers and experts (TraceError otherwise)."""
        if other is None:
            return cls()
        other = as_trace(other)
        check_alike(trace, other)
        return cls(tuple(usage(other, index) for index in range(other.moe_layers)))

    def of_layer(self, index: int) -> Entries:
        """Experts of a layer that were used, most used first, ties by lower id."""
        return _ranked(self.counts[index]) if self.counts else NO_PRELOAD

    @cached_property
    def everywhere(self) -> Entries:
        """Entries of all layers that were used, most used first, ties by (layer, lower id)."""
        return _ranked(np.concatenate(self.counts)) if self.counts else NO_PRELOAD


def check_alike(trace: Trace, other: Trace) -> None:
    """TraceError unless `other` has trace's layers and experts."""
    for what, mine, theirs in (
        ("MoE layers", trace.layer_numbers, other.layer_numbers),
        ("experts per layer", trace.model.experts, other.model.experts),
    ):
        if mine != theirs:
            raise other.error(
                f"its {what} differ from those of {trace.path or 'the trace'}; take a trace of the same model"
            )


def usage(trace: Trace, index: int) -> Longs:
    """int64[E]: how many slots chose each expert of MoE layer `index`."""
    decisions = trace.decisions(index)
    chosen = decisions.experts.reshape(-1) if decisions.valid is None else decisions.experts[decisions.valid]
    return np.bincount(chosen, minlength=trace.model.experts[index])


def _ranked(counts: Longs) -> Entries:
    ranked = np.argsort(-counts, kind="stable")
    return ranked[: np.count_nonzero(counts)].astype(np.int32)


NONE = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Pins:
    """experts: the pinned experts of each MoE layer, ascending; empty when nothing is pinned."""

    experts: tuple[Entries, ...] = ()
    bases: Longs | None = None

    @classmethod
    def of(cls, trace: Trace, pin: str | Mapping[int, Sequence[int]] | None, training: Preload | None = None) -> Pins:
        """From `3:17,3:all,layers:0-7,hot:16,hot:25%` (layer:expert, the model's own layer numbers) or {3: [17, 20]}.

        hot: the most used experts of each layer in the training trace, by number or by share of the layer's experts.

        Raises ValueError for a layer or an expert that the trace does not have, and for `hot` without training.
        """
        if not pin:
            return cls()
        if isinstance(pin, str):
            pairs = [pair for one in pin.split(",") for pair in _pairs(trace, one, pin, training)]
        else:
            pairs = [(layer, expert) for layer, experts in pin.items() for expert in experts]
        chosen: list[set[int]] = [set() for _ in trace.layer_numbers]
        for layer, expert in pairs:
            if layer not in trace.layer_numbers:
                first, last = trace.layer_numbers[0], trace.layer_numbers[-1]
                raise ValueError(
                    f"pin {layer}:{expert}: no MoE layer {layer}; there are MoE layers from {first} to {last}"
                )
            index = trace.layer_numbers.index(layer)
            if not 0 <= expert < trace.model.experts[index]:
                most = trace.model.experts[index] - 1
                raise ValueError(f"pin {layer}:{expert}: no expert {expert}; layer {layer} has experts 0 to {most}")
            chosen[index].add(expert)
        bases = np.append(0, np.cumsum(trace.model.experts))
        return cls(tuple(np.array(sorted(experts), np.int32) for experts in chosen), bases)

    def of_layer(self, index: int) -> Entries:
        """Pinned experts of MoE layer `index`."""
        return self.experts[index] if self.experts else NONE

    @property
    def everywhere(self) -> Entries:
        """Pinned entries of all layers."""
        if self.bases is None:
            return NONE
        shifted = [experts + base for experts, base in zip(self.experts, self.bases, strict=False)]
        return np.concatenate(shifted).astype(np.int32)


def _pairs(trace: Trace, one: str, pin: str, training: Preload | None) -> list[tuple[int, int]]:
    """(layer, expert) of one part of a pin, layers and experts that the trace does not have included."""
    experts = dict(zip(trace.layer_numbers, trace.model.experts, strict=True))
    kind, _, what = one.partition(":")
    if kind == "hot" and re.fullmatch(r"\d+%?", what):
        if training is None or not training.counts:
            raise ValueError(f"pin '{one}' learns from another trace; name it with --train other.parquet")
        number, share = parse_count(what.removesuffix("%"), "pin"), what.endswith("%")
        ranked = zip(experts.items(), map(_ranked, training.counts), strict=True)
        return [
            (layer, int(expert))
            for (layer, size), hot in ranked
            for expert in hot[: number * size // 100 if share else number]
        ]
    if kind == "layers" and re.fullmatch(r"\d+-\d+", what):
        first, last = (parse_count(number, "pin") for number in what.split("-"))
        found = [(layer, expert) for layer in experts if first <= layer <= last for expert in range(experts[layer])]
        return found or [(first, 0)]
    if re.fullmatch(r"\d+", kind) and re.fullmatch(r"\d+|all", what):
        layer = parse_count(kind, "pin")
        chosen = range(experts.get(layer, 1)) if what == "all" else [parse_count(what, "pin")]
        return [(layer, expert) for expert in chosen]
    raise ValueError(
        f"pin '{pin}' is not possible; give LAYER:EXPERT,… such as 3:17,3:20, or 3:all, layers:0-7, hot:16 or hot:25%"
    )


def without(stream: Stream, pinned: Entries) -> tuple[Stream, Longs]:
    """The stream without lookups of pinned entries, and how many of those there were of each kind, int64[3]."""
    is_pinned = np.zeros(stream.n_entries, np.bool_)
    is_pinned[pinned] = True
    here = is_pinned[stream.entries]
    kept = np.append(0, np.cumsum(~here))[stream.offsets]
    there = np.flatnonzero(np.diff(kept))  # groups that still want something
    reduced = replace(
        stream,
        offsets=np.append(kept[there], kept[-1:]),
        entries=stream.entries[~here],
        kinds=stream.kinds[~here],
        steps=stream.steps[there],
        epochs=np.searchsorted(there, stream.epochs).astype(np.int64),
    )
    return reduced, np.bincount(stream.kinds[here], minlength=3)


def room_beside(stream: Stream, pinned: Entries, limit: int) -> int:
    """What the pinned entries leave of a limit; ValueError if they do not fit."""
    taken = int(stream.sizes[pinned].sum())
    if taken > limit:
        takes = plural(taken, "byte" if stream.in_bytes else "expert")
        raise ValueError(f"the pinned experts take {takes} of a cache of {limit}; pin fewer or raise the limit")
    return limit - taken


def with_pinned(stream: Stream, pinned: Entries, outcome: Outcome) -> Outcome:
    """The outcome with the bytes of the pinned entries added to what is held."""
    held = int(stream.weights[pinned].sum())
    return replace(outcome, resting=outcome.resting + held, running=outcome.running + held)


def starting_bytes(stream: Stream, preload: Entries, limit: int) -> int:
    """Bytes that an emptied cache starts with: of what is preloaded, as much as fits."""
    fits = np.cumsum(stream.sizes[preload]) <= limit
    return int(stream.weights[preload[fits]].sum())


def most_held(full: Stream, stream: Stream, pinned: Entries, outcome: Outcome, start: int) -> int:
    """The most bytes held at once, pinned entries included; 0 where nothing is looked up.

    full: the stream with lookups of pinned entries, among whose groups are those that want nothing else and find what
    the group before left, or at first `start`; outcome: of the stream without them, and without pinned bytes.
    """
    if not full.entries.size:
        return 0
    is_pinned = np.zeros(full.n_entries, np.bool_)
    is_pinned[pinned] = True
    others = np.append(0, np.cumsum(~is_pinned[full.entries]))[full.offsets]
    wants = np.diff(others) > 0
    before = np.cumsum(wants)[~wants]  # groups that want others, before each that does not
    opened = np.repeat(stream.epochs[:-1], np.diff(full.epochs))[
        ~wants
    ]  # the first of them since the cache was emptied
    found = np.append(0, outcome.resting)[before]
    idle = int(np.where(before > opened, found, start).max(initial=0))
    return max(idle, int(outcome.running.max(initial=0))) + int(full.weights[pinned].sum())


@dataclass(frozen=True)
class Caches:
    """tokens: those that take part; training: uses of experts in the trace that policies learn from."""

    trace: Trace
    settings: Settings
    tokens: Tokens
    preload: Preload = field(default_factory=Preload)
    pins: Pins = field(default_factory=Pins)
    training: Preload = field(default_factory=Preload)

    def layer_views(self, index: int) -> StreamViews:
        """The accesses of the cache of MoE layer `index`."""
        decisions = self.trace.decisions(index)
        order = self.settings.order
        return StreamViews(
            lambda by_last: layer_stream(self.trace, index, decisions, self.tokens, order, by_last), self.tokens
        )

    def global_views(self, in_bytes: bool) -> StreamViews:
        """The accesses of the one cache of all layers; its limit counts bytes or experts."""
        order = self.settings.order
        return StreamViews(
            lambda by_last: global_stream(self.trace, self.tokens, order, in_bytes, by_last), self.tokens
        )

    def layer_rules(self, index: int) -> Rules:
        """What holds for the cache of MoE layer `index`."""
        uses = self.training.counts[index] if self.training.counts else None
        return self._rules(self.preload.of_layer(index), uses, self.pins.of_layer(index))

    def global_rules(self) -> Rules:
        """What holds for the one cache of all layers."""
        uses = np.concatenate(self.training.counts) if self.training.counts else None
        return self._rules(self.preload.everywhere, uses, self.pins.everywhere)

    def _rules(self, preload: Entries, uses: Longs | None, pinned: Entries) -> Rules:
        """Pinned entries are there anyway, so no policy starts with them or learns that they are used."""
        if uses is not None and pinned.size:
            uses = uses.copy()
            uses[pinned] = 0
        settings = self.settings
        free = preload[~np.isin(preload, pinned)]
        return Rules(settings.mandatory, free, uses, settings.admit_after, settings.inserts)


LOOKUPS, HITS, COLD, BYTES = range(4)  # columns of a table of counts, one row per kind of lookup


@dataclass
class Tally:
    """Counts of one policy: int64[3, 4] per kind of lookup, evictions, and the most that was held at once."""

    table: Longs
    evictions: int = 0
    peak: int = 0


def check_outcome(stream: Stream, outcome: Outcome, limit: int) -> None:
    """Recompute on every run what must hold: at rest a cache is never above its limit.

    Raises RuntimeError, which is a defect of a policy or of this package, not of the input.
    """
    most = limit if stream.in_bytes else int(np.sort(stream.weights)[::-1][:limit].sum())  # `limit` of the largest
    if outcome.resting.size and int(outcome.resting.max()) > most:
        raise RuntimeError(f"residents take {outcome.resting.max()} where {most} are allowed; please report this")
    if outcome.evictions < 0:
        raise RuntimeError(f"{outcome.evictions} evictions; please report this")


def replay_stream(
    policy: Policy, stream: Stream, limit: int, rules: Rules, pinned: Entries = NONE
) -> tuple[Stream, Outcome, Tally]:
    """Replay one cache, check the outcome and count it; the stream comes back without lookups of pinned entries."""
    table = np.zeros((3, 4), np.int64)
    free, full = limit, stream
    if pinned.size:
        free = room_beside(stream, pinned, limit)
        stream, hits = without(stream, pinned)
        table[:, LOOKUPS] = table[:, HITS] = hits
    if rules.capped:
        from remoe_sim.policy.capped import replay_capped

        outcome = replay_capped(policy, stream, free, rules)
    else:
        outcome = policy.replay(stream, free, rules)
    check_outcome(stream, outcome, free)
    tallies.tally(stream.entries, stream.kinds, outcome.hit, stream.first, stream.weights, table)
    peak = int(outcome.running.max(initial=0))
    if pinned.size:
        peak = most_held(full, stream, pinned, outcome, starting_bytes(stream, rules.preload, free))
        outcome = with_pinned(stream, pinned, outcome)
    return stream, outcome, Tally(table, int(outcome.evictions), peak)
