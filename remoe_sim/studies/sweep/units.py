"""A sweep cut into units of work: each reads a trace for itself, and what it finds is put together by the one that
asked. Whether they run here or on other machines makes no difference to the rows.

Counts of a layer's cache are sums, so layers may be counted apart; so is reuse between tokens. One cache of all layers
is a whole, and so is the time of a step, which takes what all layers miss in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from remoe_sim.caches import Caches
from remoe_sim.holdings import of_decisions
from remoe_sim.metrics import decode_order, layer_reuse
from remoe_sim.policy import StackPolicy
from remoe_sim.settings import Settings
from remoe_sim.streams import Longs, Tokens, select_tokens
from remoe_sim.sweep_cells import Pass, Subject
from remoe_sim.sweep_counts import counted
from remoe_sim.sweep_rows import Limits, Row, by_limit, timed_rows
from remoe_sim.threads import map_layers


@dataclass(frozen=True)
class Cut:
    """How finely a sweep is cut: slots (tokens × k) of the layers of a unit at most, but at least one layer; limits of
    a unit at most where each takes a replay of its own, and where each takes times. None: not at all."""

    slots: int | None = None
    limits: int | None = None
    timed: int | None = None

    def layers(self, subject: Subject) -> list[range]:
        """Consecutive layers."""
        count = len(subject.slots)
        if self.slots is None:
            return [range(count)]
        found, first, held = [], 0, 0
        for index, slots in enumerate(subject.slots):
            if index > first and held + slots > self.slots:
                found.append(range(first, index))
                first, held = index, 0
            held += slots
        return [*found, range(first, count)]


class OpenTrace:
    """A trace of a sweep, in the order of a batch, and the tokens that took part in the last pass."""

    def __init__(self, subject: Subject, batch: int | None) -> None:
        self.trace = subject.load(batch)
        self._tokens: tuple[Settings, Tokens] | None = None

    def tokens(self, settings: Settings) -> Tokens:
        known = self._tokens
        if known is None or known[0] != settings:
            chosen = select_tokens(self.trace, settings.phase, settings.reset, settings.warmup)
            self._tokens = known = settings, chosen
        return known[1]

    @cached_property
    def decode_order(self) -> Longs:
        return decode_order(self.trace)


@dataclass(frozen=True)
class ReuseUnit:
    """Experts that adjacent decode tokens share at some layers; yields (shared, wanted)."""

    subject: Subject
    batch: int | None
    layers: range

    def results(self, given: OpenTrace) -> Iterator[tuple[int, int]]:
        trace, order = given.trace, given.decode_order

        def one_layer(at: int) -> tuple[int, int]:
            index = self.layers[at]
            reuse = layer_reuse(trace, index, trace.decisions(index), order)
            return reuse.shared[0], reuse.wanted

        found = list(map_layers(one_layer, len(self.layers), of_decisions(trace)))
        yield sum(shared for shared, _ in found), sum(wanted for _, wanted in found)


@dataclass(frozen=True)
class CountUnit:
    """The counts of a pass at some limits and layers; yields (the limits of a block, int64[limits, layers, 3, 3])."""

    one: Pass
    limits: tuple[Limits, ...]
    layers: range

    @property
    def subject(self) -> Subject:
        return self.one.subject

    @property
    def batch(self) -> int | None:
        return self.one.batch

    def results(self, given: OpenTrace) -> Iterator[tuple[tuple[Limits, ...], Longs]]:
        caches, policy = _caches(self.one, given), self.one.policy.policy
        left = self.limits
        for block in counted(caches, policy, left, self.one.in_bytes, False, self.layers):
            yield left[: len(block.tables)], block.tables
            left = left[len(block.tables) :]


@dataclass(frozen=True)
class TimeUnit:
    """The rows of a pass at some limits, with times; yields each."""

    one: Pass
    limits: tuple[Limits, ...]

    @property
    def subject(self) -> Subject:
        return self.one.subject

    @property
    def batch(self) -> int | None:
        return self.one.batch

    @property
    def layers(self) -> range:
        return range(len(self.subject.slots))

    def results(self, given: OpenTrace) -> Iterator[Row]:
        caches, groups = _caches(self.one, given), by_limit(self.one.cells)
        left = iter(self.limits)
        for block in counted(caches, self.one.policy.policy, self.limits, self.one.in_bytes, True):
            cells = [groups[next(left)] for _ in block.tables]
            yield from timed_rows(self.one, caches.trace, caches.tokens, block, cells)


Unit = ReuseUnit | CountUnit | TimeUnit


def _caches(one: Pass, given: OpenTrace) -> Caches:
    trace = given.trace if one.sizes is None else given.trace.with_sizes(one.sizes)
    return Caches(trace, one.settings, given.tokens(one.settings), training=one.training)


def units_of(passes: Iterable[Pass], cut: Cut) -> Iterator[Unit]:
    """The units of passes in order; of each trace its reuse comes first, as every row needs it."""
    begun: set[int] = set()
    for one in passes:
        if id(one.subject) not in begun:
            begun.add(id(one.subject))
            yield from (ReuseUnit(one.subject, one.batch, layers) for layers in cut.layers(one.subject))
        limits = tuple(by_limit(one.cells))
        own = not isinstance(one.policy.policy, StackPolicy)  # a replay for each limit
        together = (cut.limits if own else cut.timed if one.timed else None) or len(limits)
        for first in range(0, len(limits), together):
            some = limits[first : first + together]
            if one.timed:
                yield TimeUnit(one, some)
            elif one.settings.per_layer:
                yield from (CountUnit(one, some, layers) for layers in cut.layers(one.subject))
            else:
                yield CountUnit(one, some, range(len(one.subject.slots)))


def here(units: Iterable[Unit]) -> Iterator[tuple[Unit, Any]]:
    """Runs units one after another, each with all processors; one trace is in memory at a time."""
    held: tuple[Any, OpenTrace] | None = None
    for unit in units:
        about = id(unit.subject), unit.batch
        if held is None or held[0] != about:
            held = None
            held = about, OpenTrace(unit.subject, unit.batch)
        yield from ((unit, result) for result in unit.results(held[1]))
