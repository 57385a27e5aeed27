"""The report of a trace: verdict, reporting block, tables, figures, routing, and how to make it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.cache.curve import curve
from remoe_sim.cache.settings import known_sizes
from remoe_sim.devices.run import RunsOn
from remoe_sim.reports.charts import Chart, Series, bar_chart, line_chart, thinned
from remoe_sim.reports.checklist import reporting_block
from remoe_sim.reports.page import Charts, Facts, Page, RoutingMap, Section, Table, Text, base_name, routing_map
from remoe_sim.reports.times_section import times_section
from remoe_sim.studies.verdict import verdict
from remoe_sim.studies.verdict_result import RULE, Verdict
from remoe_sim.trace.info import Info, info_of
from remoe_sim.trace.schema import content_hash
from remoe_sim.util.units import percent, plural, rate

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.cache.results import ReplayResult
    from remoe_sim.trace.trace import Trace

MIB = 2**20
GLOBAL_LIMITS = 24  # points of the curve of one cache of all layers
DEFAULT_SHARE = 4  # without a limit, one in so many experts fits


def trace_page(trace: Trace, timing: Mapping[str, Any], **given: Any) -> Page:
    """`given`: the arguments of `verdict`, those that were not given left out; `timing`: those of `replay` that make
    times, none without a device."""
    run = RunsOn.asked(**timing)
    read = trace
    chosen = not {"cache", "budget", "memory"} & set(given)
    if chosen:
        given["cache"] = default_cache(trace, given.get("scope", "layer"))
    trace = known_sizes(trace, given.get("expert_bytes"))
    trace, model = (trace, None) if run is None else run.sized(trace)
    found = verdict(trace, **{name: value for name, value in given.items() if name != "expert_bytes"})
    facts = info_of(trace, found.statistics)
    sized = "expert_bytes" not in given and trace.model.expert_bytes != read.model.expert_bytes
    sizes_of = f"Those of {model.title} in {model.quant}, not of the trace." if sized and model is not None else ""
    why = f"No limit was given; this is that of one in {DEFAULT_SHARE} experts." if chosen else ""
    sections = [
        Section("Verdict", [Text(found.paragraph.removeprefix(f"Verdict: {found.verdict}. "), found.verdict or "none"),
                            Text(f"Rule: {RULE}. {why}".strip())]),
        Section("Reporting block", [Facts(reporting_block(trace, found, sizes_of))]),
        Section("Policies", [_policies(found), _needed(found)]),
        Section("Figures", [Charts(_figures(trace, found, facts, given))]),
        *([] if run is None else [times_section(read, found, given, timing)]),
        Section("Routing", _routing(trace) if trace.tokens else []),
        Section("Layers", [_layers(facts)]),
        Section("Reproduce", _reproduce(read, given, timing, sized)),
    ]  # fmt: skip
    kind = ", synthetic trace" if trace.origin.get("format") == "synthetic" else ""
    subtitle = (
        f"{base_name(trace.path) or 'in memory'}: {trace.tokens:,} tokens, {plural(trace.requests, 'request')}, "
        f"{plural(trace.moe_layers, 'MoE layer')}{kind}"
    )
    return Page(f"Expert cache report: {trace.model.name or 'unnamed model'}", subtitle, sections)


def default_cache(trace: Trace, scope: str) -> int:
    """Default cache size: a quarter of the experts, at least one token's worth."""
    experts, top_k = trace.model.experts, trace.model.top_k
    if scope == "layer":
        return max(max(top_k), -(-max(experts) // DEFAULT_SHARE))
    return max(sum(top_k), -(-sum(experts) // DEFAULT_SHARE))


def _policies(found: Verdict) -> Table:
    results = [(one.policy, found.settings["admission"], one) for one in found.online]
    results += [(f"belady{'*' * one.optimal}", name, one) for name, one in found.bounds.items()]
    columns = (
        ("policy", ""), ("admission", ""), ("hit rate", "%"), ("decode hit rate", "%"), ("hits", ",d"),
        ("misses", ",d"), ("cold", ",d"), ("capacity", ",d"), ("above Belady", ",d"), ("MiB per token", ",.2f"),
    )  # fmt: skip

    def row(name: str, admission: str, one: ReplayResult) -> list[Any]:
        behind = one.misses - found.belady.misses if admission == found.settings["admission"] else None
        per_token = None if one.bytes_read_per_token is None else one.bytes_read_per_token / MIB
        return [
            name, admission, one.hit_rate, one.decode.hit_rate, one.hits, one.misses, one.cold_misses,
            one.capacity_misses, behind, per_token,
        ]  # fmt: skip

    star = "* is the offline optimum under its admission. " if found.belady.optimal else ""
    left = "; ".join(f"{name}: {why}" for name, why in found.left_out.items())
    note = f"{star}Rates are shares of {found.best.lookups:,} lookups, {found.best.decode.lookups:,} of decode. "
    note += f"Not tried: {left}." if left else ""
    return Table(columns, [row(*one) for one in results], "At this limit", note)


def _needed(found: Verdict) -> Table:
    rows = [
        [one["policy"], target["decode_hit_rate"], target["experts_per_layer"],
         None if target["bytes"] is None else target["bytes"] / MIB]
        for one in found.experts_needed for target in one["targets"]
    ]  # fmt: skip
    columns = (("policy", ""), ("decode hit rate", "%"), ("experts per layer", ",d"), ("MiB in all", ",.1f"))
    note = "With a cache per layer. None: not even all experts reach it, since too many lookups are first uses."
    return Table(columns, rows, "What it takes to hit", note)


def _layers(facts: Info) -> Table:
    columns = (
        ("layer", "d"), ("experts", ",d"), ("top-k", "d"), ("MiB per expert", ",.2f"), ("reuse", "%"),
        ("reuse, last 8", "%"), ("entropy of ln E", ".4f"), ("load CV", ".3f"), ("distinct", ",d"),
        ("top 10 % take", "%"), ("mean streak", ".2f"), ("null decisions", ",d"),
    )  # fmt: skip
    rows = [
        [
            one.layer, one.experts, one.top_k,
            None if one.expert_bytes is None else one.expert_bytes / MIB,
            one.reuse_rate, one.reuse_rate_w8, one.routing_entropy_normalised, one.load_balance_cv,
            one.distinct_experts, one.popularity_top10_share, one.mean_streak, one.null_decisions,
        ]
        for one in facts.layers
    ]  # fmt: skip
    note = "Reuse: share of a decode token's experts that the token before it (the last 8 before it) used too."
    return Table(columns, rows, "", note)


def _routing(trace: Trace) -> list[RoutingMap | Text]:
    found = routing_map(trace)
    shown = found["tokens"]
    note = [Text(f"The first {shown:,} of {trace.tokens:,} tokens.")] if shown < trace.tokens else []
    return [RoutingMap(found), *note]


# --- figures


def _figures(trace: Trace, found: Verdict, facts: Info, given: dict[str, Any]) -> list[Chart]:
    per_layer = found.settings["scope"] == "layer"
    frame = _curve(trace, found, given, per_layer)
    charts = [_hit_rates(frame, found, per_layer)]
    read = _bytes_read(trace, frame, per_layer)
    if read is not None and found.best.decode.tokens:
        charts.append(_bytes_chart(read, found.best.decode.tokens))
    charts.append(_reuse_chart(facts))
    charts.append(_popularity(found))
    return charts


def _curve(trace: Trace, found: Verdict, given: dict[str, Any], per_layer: bool) -> pd.DataFrame:
    names = ("scope", "admission", "order", "reset", "phase", "warmup", "preload")
    same: dict[str, Any] = {name: given[name] for name in names if name in given}
    if per_layer:
        return curve(trace, **same)
    sizes, experts = trace.model.expert_bytes, trace.model.experts
    in_bytes = "bytes" in found.capacity
    most = sum(a * b for a, b in zip(experts, sizes, strict=True)) if in_bytes and sizes else sum(experts)
    limits = {-(-most * step // GLOBAL_LIMITS) for step in range(1, GLOBAL_LIMITS + 1)}
    at = sorted(limits | {value for value in found.capacity.values() if value <= most})
    same["budget" if in_bytes else "cache"] = at
    return curve(trace, **same)


def _hit_rates(frame: pd.DataFrame, found: Verdict, per_layer: bool) -> Chart:
    whole = frame[frame["layer"] == "all"]
    in_bytes = not per_layer and "bytes" in found.capacity
    column = "decode_hit_rate" if found.best.decode.lookups else "hit_rate"
    asked = next(iter(found.capacity.values())) if not per_layer or "experts_per_layer" in found.capacity else None
    keep = thinned(sorted(set(whole["capacity"])), [asked] if asked else [])
    factor = MIB if in_bytes else 1
    series = [
        Series(name, [(x / factor, None if y != y or y is None else float(y))
                      for x, y in zip(rows["capacity"], rows[column], strict=True) if x in set(keep)])
        for name, rows in whole.groupby("policy", sort=False)
    ]  # fmt: skip
    return line_chart(
        f"{'Decode hit' if column != 'hit_rate' else 'Hit'} rate against cache size", series,
        "MiB" if in_bytes else "experts per layer" if per_layer else "experts", "share of lookups",
        shown=percent, top=1.0, mark=None if asked is None else asked / factor,
        note="Dotted: the limit of the verdict." if asked is not None else "",
    )  # fmt: skip


def _bytes_read(trace: Trace, frame: pd.DataFrame, per_layer: bool) -> dict[str, list[tuple[float, float]]] | None:
    """Of each policy: bytes that a limit takes, and bytes of missed decode lookups; None if sizes do not tell."""
    sizes, experts = trace.model.expert_bytes, trace.model.experts
    if sizes is None or (not per_layer and len(set(sizes)) > 1):
        return None
    found = {}
    if not per_layer:
        total = sum(a * b for a, b in zip(experts, sizes, strict=True))
        for policy, rows in frame.groupby("policy", sort=False):
            scale = 1 if rows["capacity"].max() > sum(experts) else sizes[0]
            found[policy] = [
                (min(float(x) * scale, total), float(lookups - hits) * sizes[0])
                for x, lookups, hits in zip(rows["capacity"], rows["decode_lookups"], rows["decode_hits"], strict=True)
            ]
        return found
    index = {number: at for at, number in enumerate(trace.layer_numbers)}
    capacities = np.array(thinned(range(1, max(experts) + 1)), np.int64)
    held = [float(sum(min(c, e) * s for e, s in zip(experts, sizes, strict=True))) for c in capacities.tolist()]
    layers = frame[frame["layer"] != "all"]
    for policy, rows in layers.groupby("policy", sort=False):
        read = np.zeros(capacities.size)
        for number, of_layer in rows.groupby("layer", sort=False):
            at = index[int(number)]
            missed = (of_layer["decode_lookups"] - of_layer["decode_hits"]).to_numpy()
            read += missed[np.minimum(capacities, experts[at]) - 1] * sizes[at]
        found[policy] = list(zip(held, read.tolist(), strict=True))
    return found


def _bytes_chart(read: dict[str, list[tuple[float, float]]], tokens: int) -> Chart:
    series = [Series(name, [(x / MIB, y / MIB / tokens) for x, y in points]) for name, points in read.items()]
    return line_chart(
        "Read per output token against memory", series, "MiB of experts held", "MiB per token",
        shown=lambda y: f"{y:,.2f} MiB", shown_x=lambda x: f"{x:,.0f}",
    )  # fmt: skip


def _reuse_chart(facts: Info) -> Chart:
    tips = [
        f"layer {one.layer}: " + percent(one.reuse_rate) + f"\n{one.shared:,} of {one.wanted:,} slots"
        for one in facts.layers
    ]
    values = [(str(one.layer), one.reuse_rate) for one in facts.layers]
    overall = percent(facts.reuse_rate)
    return bar_chart("Reuse between adjacent tokens, by layer", values, "layer", "share of a token's experts", tips,
                     f"Overall {overall}.")  # fmt: skip


def _popularity(found: Verdict) -> Chart:
    """Share of slots by rank of an expert in its layer, all layers together."""
    ranked = [np.sort(one.uses)[::-1] for one in found.statistics]
    total = np.zeros(max(one.size for one in ranked), np.int64)
    for uses in ranked:
        total[: uses.size] += uses
    slots, seen = int(total.sum()), np.cumsum(total)
    keep = [int(one) for one in thinned(range(total.size))]
    values = [(str(i + 1), rate(int(total[i]), slots)) for i in keep]
    tips = [
        f"rank {i + 1}: {percent(int(total[i]), slots)} of slots\nranks 1 to {i + 1}: {percent(int(seen[i]), slots)}"
        for i in keep
    ]
    return bar_chart("How unevenly experts are used", values, "rank of an expert in its layer", "share of slots", tips,
                     f"Of {slots:,} slots, prefill and decode.")  # fmt: skip


# --- how to make it again


def _reproduce(
    trace: Trace, given: Mapping[str, Any], timing: Mapping[str, Any], sized: bool
) -> Sequence[Text | Facts]:
    """`sized`: the sizes of experts are not those of the trace, so that `verdict` cannot know them."""
    name = shlex.quote(base_name(trace.path) or "trace.parquet")
    both = {key: value for key, value in given.items() if key != "policy"}
    lines = [
        f"remoe-sim report {name} {_flags({**given, **timing})} -o report.html",
        *([] if sized else [f"remoe-sim verdict {name} {_flags(given)} --json"]),
        f"remoe-sim replay {name} {_flags({**both, **timing})} --json",
        f"remoe-sim info {name} --json",
    ]
    from remoe_sim.reports.installation import versions_in_words

    return [
        Text("\n".join(lines), code=True),
        Facts([
            ("content of the trace", content_hash(trace), "Of all that a replay looks at."),
            ("versions", versions_in_words(), ""),
        ]),
    ]  # fmt: skip


def _flags(given: Mapping[str, Any]) -> str:
    return shlex.join(part for key, value in given.items() for part in (f"--{key.replace('_', '-')}", _flag(value)))


def _flag(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(getattr(value, "name", value))
