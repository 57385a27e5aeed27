"""The times in the report of a trace, modelled for a device: what a token takes, why, and at which cache size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.cache.replay import replay
from remoe_sim.reports.charts import Chart, Series, line_chart, stacked_chart
from remoe_sim.reports.page import Charts, Facts, Section, Table, Text

if TYPE_CHECKING:
    from remoe_sim.cache.results import ReplayReport, ReplayResult
    from remoe_sim.devices.timeline import Times
    from remoe_sim.studies.verdict_result import Verdict
    from remoe_sim.trace.trace import Trace

TIMING = ("device", "model", "quant", "overlap", "lanes", "context", "compute_ms", "misses_from",
          "host", "storage", "engine", "cpu_share", "cpu_moe_layers", "gpu_moe_layers")  # fmt: skip
MIB = 2**20
BEST = 3  # online policies that are shown, where none are named
SHARES = (*range(0, 95, 3), 95, 96, 97, 98, 99, 99.5, 100)  # per cent of tokens, at which the slowest of them is shown
PARTS = {  # from below: what no cache changes comes first
    "fixed": "fixed", "dense": "dense layers", "experts": "experts", "pcie_wait": "waiting for PCIe",
    "storage_wait": "waiting for storage",
}  # fmt: skip
COLOURS = {part: number for number, part in enumerate(PARTS)}  # cold where computed, warm where waited for
SWEPT = ("scope", "admission", "reset", "phase", "warmup", "expert_bytes")  # settings that `sweep` has, too


def times_section(trace: Trace, found: Verdict, given: Mapping[str, Any], timing: Mapping[str, Any]) -> Section:
    """given: the arguments of `verdict`; timing: device and the other arguments of `replay` that make times."""
    report = replay(trace, **{**given, "policy": _policies(found, given.get("policy"))}, **timing)
    timed = next(iter(report)).timed
    assert timed is not None
    place = "computed by the CPU" if timed.costs.misses_from == "cpu" else f"read from {timed.costs.misses_from}"
    what = (
        f"{timed.model.title} {timed.model.quant} on {timed.run.device.title}; misses are {place}, overlap "
        f"{timed.run.overlap}."
    )
    parts: list[Any] = [Text(what, "modelled, not measured"), _table(report)]
    charts = _at_this_limit(report)
    if "preload" not in given:
        charts = [*_against_memory(trace, given, timing), *charts]
    notes = dict.fromkeys((*timed.run.device.unverified, *timed.model.unverified, *timed.model.unknown))
    parts += [Charts(charts)] if charts else []
    parts += [Facts([("not checked, or not known", note, "") for note in notes])] if notes else []
    return Section("Times", parts)


def _policies(found: Verdict, asked: Any) -> list[Any]:
    """The online policies that were named, else the best ones and LRU; and the offline optimum."""
    if asked is None:
        online = [one.policy for one in found.online]
        named: list[Any] = [*online[:BEST], *(name for name in online if name == "lru")]
    else:
        named = [text.strip() for text in asked.split(",")] if isinstance(asked, str) else list(asked)
    return list(dict.fromkeys([*named, "belady"]))


def _label(one: ReplayResult) -> str:
    return f"{one.policy}*" if one.optimal else one.policy


def _parts(all_times: list[Times]) -> list[str]:
    """The causes that take any time at all."""
    return [part for part in PARTS if any((times.parts_ms or {}).get(part, 0) > 0 for times in all_times)]


def _table(report: ReplayReport) -> Table:
    known = [(_label(one), one.timed.times) for one in report if one.timed]
    bands = [one.timed.band for one in report if one.timed]
    there = _parts([times for _, times in known])
    columns = (
        ("policy", ""), ("TPOT ms", ",.2f"), ("80 % from", ",.2f"), ("to", ",.2f"),
        ("p50", ",.2f"), ("p95", ",.2f"), ("p99", ",.2f"), ("tokens/s", ",.2f"),
        ("TTFT ms", ",.1f"), *((PARTS[name], ",.2f") for name in there),
    )  # fmt: skip
    rows = []
    for (name, times), band in zip(known, bands, strict=True):
        tpot, ttft, parts = times.tpot_ms or {}, times.ttft_ms or {}, times.parts_ms or {}
        rows.append([
            name, tpot.get("mean"), *((None, None) if band is None else (band.low, band.high)),
            *(tpot.get(word) for word in ("p50", "p95", "p99")), times.tokens_per_second,
            ttft.get("mean"), *(parts.get(part) for part in there),
        ])  # fmt: skip
    note = (
        "TPOT: time per output token, the mean over decode tokens and what 50, 95 and 99 % of them take at most; "
        "80 %: of comparable measured runs, around their predictions; the "
    )
    note += "columns after TTFT are its causes and add up to the mean. TTFT: mean time to the first token of a turn. "
    note += "* is an offline optimum of misses, not of times."
    return Table(columns, rows, "At this limit", note)


def _at_this_limit(report: ReplayReport) -> list[Chart]:
    """What a token's time is made of, and how the times of single tokens are distributed."""
    known = [(_label(one), one.timed.times) for one in report if one.timed and one.timed.times.tpot_ms]
    if not known:
        return []
    causes = [(name, times.parts_ms or {}) for name, times in known]
    there = _parts([times for _, times in known])
    stacked = stacked_chart(
        "What a token's time is made of (modelled)", [name for name, _ in causes],
        [(PARTS[part], COLOURS[part], [parts[part] for _, parts in causes]) for part in there], "policy",
        "ms per token", _ms,
    )  # fmt: skip
    series = []
    for name, times in known:
        each = np.repeat(times.seconds, times.steps.decode) * 1e3
        at = np.percentile(each, SHARES).tolist()
        series.append(Series(name, list(zip(SHARES, at, strict=True))))
    spread = line_chart(
        "Times of single tokens (modelled)", series, "% of decode tokens take at most so long", "ms", _ms
    )
    return [stacked, spread]


def _against_memory(trace: Trace, given: Mapping[str, Any], timing: Mapping[str, Any]) -> list[Chart]:
    same = {name: given[name] for name in SWEPT if name in given}
    from remoe_sim.studies.sweep.sweep import sweep

    rows = sweep(trace, **same, **timing).dropna(subset=["tpot_ms_mean", "capacity_bytes"])
    series = [
        Series(str(policy), sorted(zip(own["capacity_bytes"] / MIB, own["tpot_ms_mean"], strict=True)))
        for policy, own in rows.groupby("policy", sort=False)
    ]
    title = "Time per output token against memory (modelled)"
    return (
        [line_chart(title, series, "MiB of experts held", "ms per token", _ms, lambda x: f"{x:,.0f}")] if series else []
    )


def _ms(value: float) -> str:
    return f"{value:,.2f} ms"
