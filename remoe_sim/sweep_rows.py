"""From the counts of a pass to rows: rates, bytes and times of every cell, with their columns and units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from remoe_sim.caches import Caches
from remoe_sim.kernels.tallies import DECODE, PREFILL
from remoe_sim.metrics import adjacent_reuse
from remoe_sim.preload import Preload
from remoe_sim.results import rate
from remoe_sim.streams import Tokens, select_tokens
from remoe_sim.sweep_cells import Cell, Pass
from remoe_sim.sweep_counts import COLD, HITS, LOOKUPS, Counted, counted
from remoe_sim.threads import map_layers
from remoe_sim.timelines import PARTS, Times
from remoe_sim.timing import Timed
from remoe_sim.trace import Trace

Row = dict[str, Any]


def rows_of(one: Pass, cells: list[Cell], trace: Trace, train: Trace | None) -> Iterator[Row]:
    """The rows of some cells of a pass, each as soon as it is known; cells of equal limits are counted once."""
    if one.sizes is not None:
        trace = trace.with_sizes(one.sizes)
    settings = one.settings
    tokens = select_tokens(trace, settings.phase, settings.reset, settings.warmup)
    caches = Caches(trace, settings, tokens, training=Preload.of(trace, train))
    by_limit: dict[tuple[int, ...], list[Cell]] = {}
    for cell in cells:
        by_limit.setdefault(cell.at, []).append(cell)
    timed = any(cell.variant.run is not None for cell in cells)
    facts = _Facts(one, trace, tokens, adjacent_reuse(trace))
    groups = iter(by_limit.values())
    for block in counted(caches, one.policy, list(by_limit), one.in_bytes, timed):
        yield from facts.rows(block, [next(groups) for _ in block.tables])


@dataclass(frozen=True)
class _Facts:
    """What all rows of a pass have in common."""

    one: Pass
    trace: Trace
    tokens: Tokens
    reuse_rate: float | None

    def rows(self, block: Counted, groups: list[list[Cell]]) -> Iterator[Row]:
        """The rows of the cells of each limit of a block, on all processors."""
        timed: dict[int, list[Timed]] = {}
        jobs = [(number, cell) for number, group in enumerate(groups) for cell in group]
        for _, cell in jobs:
            run, model = cell.variant.run, cell.variant.model
            if run is not None and model is not None and block.counts is not None and id(run) not in timed:
                timed[id(run)] = run.timed(self.trace, model, self.tokens, block.counts)

        def one_row(at: int) -> Row:
            number, cell = jobs[at]
            row = self._row(cell, block.tables[number])
            run = cell.variant.run
            return row if run is None else row | _time_columns(timed[id(run)][number].times)

        yield from map_layers(one_row, len(jobs))

    def _row(self, cell: Cell, table: np.ndarray) -> Row:
        sizes = None if cell.variant.sizes is None else np.array(cell.variant.sizes, np.int64)
        experts = np.array(self.trace.model.experts)
        read = None if sizes is None else _bytes_missed(table, sizes)
        held = None if sizes is None else _bytes_held(cell, experts, sizes)
        counts = table.sum(axis=0)
        lookups, hits, cold = (int(counts[[PREFILL, DECODE], column].sum()) for column in (LOOKUPS, HITS, COLD))
        equal = self.one.settings.per_layer or not self.one.in_bytes or len(set(cell.variant.sizes or ())) == 1
        decode_tokens = self.tokens.count(DECODE)
        return {
            "key": cell.key, **cell.names, "trace_hash": self.one.subject.digest, "model": self.trace.model.name,
            "tokens": self.trace.tokens, "requests": self.trace.requests, "moe_layers": self.trace.moe_layers,
            "experts": int(experts.max()), "capacity_bytes": held,
            "capacity_share": None if held is None or sizes is None else held / int((experts * sizes).sum()),
            "lookups": lookups, "hits": hits, "misses": lookups - hits, "hit_rate": rate(hits, lookups),
            "cold_misses": cold, "capacity_misses": lookups - hits - cold,
            "optimal": self.one.policy.optimal and equal and not self.one.settings.warmup,
            "decode_tokens": decode_tokens, "decode_lookups": int(counts[DECODE, LOOKUPS]),
            "decode_hits": int(counts[DECODE, HITS]),
            "decode_hit_rate": rate(int(counts[DECODE, HITS]), int(counts[DECODE, LOOKUPS])),
            "prefill_lookups": int(counts[PREFILL, LOOKUPS]), "prefill_hits": int(counts[PREFILL, HITS]),
            "bytes_read": None if read is None else int(read[[PREFILL, DECODE]].sum()),
            "bytes_read_per_token": None if read is None else rate(int(read[DECODE]), decode_tokens),
            "reuse_rate": self.reuse_rate,
        }  # fmt: skip


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
        return int((np.array(cell.at, np.int64) * sizes).sum())
    return min(cell.at[0], int(experts.sum())) * int(sizes[0]) if (sizes == sizes[0]).all() else None


def _time_columns(times: Times) -> Row:
    tpot, first, parts = times.tpot_ms, times.ttft_ms, times.parts_ms
    row: Row = {f"tpot_ms_{name}": None if tpot is None else tpot[name] for name in ("mean", "p50", "p95", "p99")}
    row["tokens_per_second"] = times.tokens_per_second
    row["ttft_ms_mean"] = None if first is None else first["mean"]
    return row | {f"{name}_ms": None if parts is None else parts[name] for name in PARTS}
