"""The units of a sweep: what one task computes, and the rows that come of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.cache.caches import Caches
from remoe_sim.cache.counts import COLD, HITS, LOOKUPS, Counted, counted
from remoe_sim.devices.timeline import PARTS
from remoe_sim.policy.stack import StackPolicy
from remoe_sim.trace.accesses import DECODE_LOOKUP, PREFILL_LOOKUP, Tokens, select_tokens
from remoe_sim.trace.holdings import of_decisions, of_timeline
from remoe_sim.trace.metrics import decode_order, layer_reuse
from remoe_sim.util.threads import map_layers
from remoe_sim.util.units import rate

if TYPE_CHECKING:
    from remoe_sim.cache.settings import Settings
    from remoe_sim.devices.run import Timed
    from remoe_sim.studies.sweep.cells import Cell, Pass, Subject
    from remoe_sim.trace.trace import Trace
    from remoe_sim.util.arrays import Longs

Row = dict[str, Any]
Limits = tuple[int, ...]  # of the cache of every MoE layer, or of the one cache of all


def by_limit(cells: Sequence[Cell]) -> dict[Limits, list[Cell]]:
    """Cells of equal limits, which are counted once."""
    found: dict[Limits, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.at, []).append(cell)
    return found


def row_of(one: Pass, cell: Cell, table: np.ndarray) -> Row:
    """A row but for its times and `reuse_rate`; table: int64[layers, 3, 3] of its limit."""
    subject, settings = one.subject, one.settings
    sizes = None if cell.variant.sizes is None else np.array(cell.variant.sizes, np.int64)
    experts = np.array(subject.experts)
    read = None if sizes is None else _bytes_missed(table, sizes)
    held = None if sizes is None else _bytes_held(cell, experts, sizes)
    counts = table.sum(axis=0)
    lookups, hits, cold = (
        int(counts[[PREFILL_LOOKUP, DECODE_LOOKUP], column].sum()) for column in (LOOKUPS, HITS, COLD)
    )
    equal = settings.per_layer or not one.in_bytes or len(set(cell.variant.sizes or ())) == 1
    return {
        "key": cell.key, **cell.names, "trace_hash": subject.digest, **subject.facts, "capacity_bytes": held,
        "capacity_share": None if held is None or sizes is None else held / int((experts * sizes).sum()),
        "lookups": lookups, "hits": hits, "misses": lookups - hits, "hit_rate": rate(hits, lookups),
        "cold_misses": cold, "capacity_misses": lookups - hits - cold,
        "optimal": one.policy.policy.optimal and equal and not settings.warmup,
        "decode_tokens": one.decode_tokens, "decode_lookups": int(counts[DECODE_LOOKUP, LOOKUPS]),
        "decode_hits": int(counts[DECODE_LOOKUP, HITS]),
        "decode_hit_rate": rate(int(counts[DECODE_LOOKUP, HITS]), int(counts[DECODE_LOOKUP, LOOKUPS])),
        "prefill_lookups": int(counts[PREFILL_LOOKUP, LOOKUPS]), "prefill_hits": int(counts[PREFILL_LOOKUP, HITS]),
        "bytes_read": None if read is None else int(read[[PREFILL_LOOKUP, DECODE_LOOKUP]].sum()),
        "bytes_read_per_token": None if read is None else rate(int(read[DECODE_LOOKUP]), one.decode_tokens),
    }  # fmt: skip


def timed_rows(one: Pass, trace: Trace, tokens: Tokens, block: Counted, groups: Sequence[list[Cell]]) -> Iterator[Row]:
    """The rows of the cells of each limit of a block, side by side."""
    timed: dict[int, list[Timed]] = {}
    jobs = [(number, cell) for number, group in enumerate(groups) for cell in group]
    for _, cell in jobs:
        run, model = cell.variant.run, cell.variant.model
        if run is not None and model is not None and block.counts is not None and id(run) not in timed:
            timed[id(run)] = run.timed(trace, model, tokens, block.counts)

    def one_row(at: int) -> Row:
        number, cell = jobs[at]
        copy = replace(timed[id(cell.variant.run)][number])  # whose times nobody keeps
        fit = copy.fit({cell.names["capacity_unit"]: cell.names["capacity"]})
        return row_of(one, cell, block.tables[number]) | _time_columns(copy) | fit.to_dict()

    return map_layers(one_row, len(jobs), of_timeline(tokens.n_steps, trace.moe_layers))


def _bytes_missed(table: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """int64[3]: bytes of the misses of each kind."""
    missed = table[:, :, LOOKUPS] - table[:, :, HITS]
    bytes_missed: np.ndarray = (missed * sizes[:, None]).sum(axis=0)
    return bytes_missed


def _bytes_held(cell: Cell, experts: np.ndarray, sizes: np.ndarray) -> int | None:
    """Bytes that the limit stands for; None for a number of experts of unequal sizes in one cache."""
    if cell.limit.budget is not None:
        return cell.limit.budget
    if len(cell.at) == experts.size and cell.names["scope"] == "layer":
        return int((np.minimum(cell.at, experts) * sizes).sum())
    return min(cell.at[0], int(experts.sum())) * int(sizes[0]) if (sizes == sizes[0]).all() else None


def _time_columns(timed: Timed) -> Row:
    times, band = timed.times, timed.band
    tpot, first, parts = times.tpot_ms, times.ttft_ms, times.parts_ms
    row: Row = {f"tpot_ms_{name}": None if tpot is None else tpot[name] for name in ("mean", "p50", "p95", "p99")}
    row |= {"tpot_ms_low": None if band is None else band.low, "tpot_ms_high": None if band is None else band.high}
    row["tokens_per_second"] = times.tokens_per_second
    row["ttft_ms_mean"] = None if first is None else first["mean"]
    return row | {f"{name}_ms": None if parts is None else parts[name] for name in PARTS}


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


@dataclass
class _Reuse:
    """What is known of a trace so far. layers: how many; waiting: rows that are whole but for it."""

    layers: int = 0
    shared: int = 0
    wanted: int = 0
    waiting: list[Row] = field(default_factory=list)


@dataclass
class _Sums:
    """Tables of a pass, layer by layer, until all layers of a limit are there."""

    tables: dict[Limits, Longs] = field(default_factory=dict)
    layers: dict[Limits, int] = field(default_factory=dict)


def rows_of(found: Iterable[tuple[Unit, Any]]) -> Iterator[Row]:
    """Rows from what units yield, in any order, each row as soon as all of it is there."""
    reuse: dict[int, _Reuse] = {}
    sums: dict[int, _Sums] = {}
    for unit, result in found:
        known = reuse.setdefault(id(unit.subject), _Reuse())
        if isinstance(unit, ReuseUnit):
            known.layers += len(unit.layers)
            known.shared, known.wanted = known.shared + result[0], known.wanted + result[1]
        elif isinstance(unit, TimeUnit):
            known.waiting.append(result)
        else:
            limits, tables = result
            known.waiting += _whole(unit, limits, tables, sums.setdefault(id(unit.one), _Sums()))
        if known.layers == len(unit.subject.slots):
            ready, known.waiting = known.waiting, []
            yield from (row | {"reuse_rate": rate(known.shared, known.wanted)} for row in ready)


def _whole(unit: CountUnit, limits: Sequence[Limits], tables: Longs, sums: _Sums) -> Iterator[Row]:
    """The rows of those limits of which this unit was the last."""
    layers, groups = len(unit.subject.slots), by_limit(unit.one.cells)
    for limit, table in zip(limits, tables, strict=True):
        whole = sums.tables.setdefault(limit, np.zeros((layers, 3, 3), np.int64))
        whole[unit.layers.start : unit.layers.stop] = table
        sums.layers[limit] = sums.layers.get(limit, 0) + len(unit.layers)
        if sums.layers[limit] == layers:
            del sums.tables[limit]
            yield from (row_of(unit.one, cell, whole) for cell in groups[limit])
