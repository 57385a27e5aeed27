"""From counts to rows: rates, bytes and times of every cell, with their columns and units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from remoe_sim.holdings import of_timeline
from remoe_sim.kernels.tallies import DECODE, PREFILL
from remoe_sim.results import rate
from remoe_sim.streams import Tokens
from remoe_sim.sweep_cells import Cell, Pass
from remoe_sim.sweep_counts import COLD, HITS, LOOKUPS, Counted
from remoe_sim.threads import map_layers
from remoe_sim.timelines import PARTS, Times
from remoe_sim.timing import Timed
from remoe_sim.trace import Trace

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
    lookups, hits, cold = (int(counts[[PREFILL, DECODE], column].sum()) for column in (LOOKUPS, HITS, COLD))
    equal = settings.per_layer or not one.in_bytes or len(set(cell.variant.sizes or ())) == 1
    return {
        "key": cell.key, **cell.names, "trace_hash": subject.digest, **subject.facts, "capacity_bytes": held,
        "capacity_share": None if held is None or sizes is None else held / int((experts * sizes).sum()),
        "lookups": lookups, "hits": hits, "misses": lookups - hits, "hit_rate": rate(hits, lookups),
        "cold_misses": cold, "capacity_misses": lookups - hits - cold,
        "optimal": one.policy.policy.optimal and equal and not settings.warmup,
        "decode_tokens": one.decode_tokens, "decode_lookups": int(counts[DECODE, LOOKUPS]),
        "decode_hits": int(counts[DECODE, HITS]),
        "decode_hit_rate": rate(int(counts[DECODE, HITS]), int(counts[DECODE, LOOKUPS])),
        "prefill_lookups": int(counts[PREFILL, LOOKUPS]), "prefill_hits": int(counts[PREFILL, HITS]),
        "bytes_read": None if read is None else int(read[[PREFILL, DECODE]].sum()),
        "bytes_read_per_token": None if read is None else rate(int(read[DECODE]), one.decode_tokens),
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
        times = replace(timed[id(cell.variant.run)][number]).times  # a copy's, which nobody keeps
        return row_of(one, cell, block.tables[number]) | _time_columns(times)

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


def _time_columns(times: Times) -> Row:
    tpot, first, parts = times.tpot_ms, times.ttft_ms, times.parts_ms
    row: Row = {f"tpot_ms_{name}": None if tpot is None else tpot[name] for name in ("mean", "p50", "p95", "p99")}
    row["tokens_per_second"] = times.tokens_per_second
    row["ttft_ms_mean"] = None if first is None else first["mean"]
    return row | {f"{name}_ms": None if parts is None else parts[name] for name in PARTS}
