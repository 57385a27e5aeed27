"""The report of a sweep: hit rate, bytes and time against memory, and its rows as a table that sorts."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from remoe_sim.devices.doubts import of_rows
from remoe_sim.reports.charts import Chart, Series, line_chart
from remoe_sim.reports.page import Charts, Facts, Page, Section, Table, Text, base_name
from remoe_sim.studies.sweep.labels import told_apart
from remoe_sim.util.units import percent, plural

if TYPE_CHECKING:
    import pandas as pd

MIB = 2**20
MOST_ROWS, MOST_GROUPS, MOST_SERIES = 2000, 12, 8
NAMED = (
    "version",
    "admission",
    "reset",
    "phase",
    "warmup",
    "device_model",
    "misses_from",
    "lanes",
    "context",
    "compute_ms",
)  # in a heading, where they differ
SETTINGS = ("version", "model", "admission", "reset", "phase", "warmup", "device_model", "misses_from", "lanes",
            "context", "compute_ms", "trace_hash")  # fmt: skip
SAME = (
    "trace",
    "batch",
    "scope",
    "device",
    "quant",
    "overlap",
    "capacity_unit",
    *NAMED,
)  # of charts beside one another
COLUMNS = (
    ("trace", "trace", ""), ("batch", "batch", "d"), ("policy", "policy", ""), ("scope", "scope", ""),
    ("version", "version", ""), ("admission", "admission", ""), ("reset", "reset", ""), ("phase", "phase", ""),
    ("warmup", "warm-up", "d"), ("device", "device", ""), ("quant", "quant", ""), ("overlap", "overlap", ""),
    ("capacity", "capacity", ",d"),
    ("capacity_unit", "unit", ""), ("capacity_bytes", "MiB held", ",.1f"), ("capacity_share", "of all experts", "%"),
    ("hit_rate", "hit rate", "%"), ("lookups", "of lookups", ",d"), ("decode_hit_rate", "decode hit rate", "%"),
    ("decode_lookups", "of decode lookups", ",d"), ("misses", "misses", ",d"),
    ("bytes_read_per_token", "MiB per token", ",.2f"), ("tpot_ms_mean", "TPOT ms", ",.2f"),
    ("tpot_ms_p95", "TPOT p95 ms", ",.2f"), ("tokens_per_second", "tokens/s", ",.2f"),
    ("ttft_ms_mean", "TTFT ms", ",.1f"),
)  # fmt: skip
IN_MIB = ("capacity_bytes", "bytes_read_per_token")


def sweep_page(frame: pd.DataFrame, path: str) -> Page:
    """The report of the rows of a sweep; `path` names it."""
    path = base_name(path)
    if not len(frame):
        raise ValueError(f"'{path}' holds no rows yet; run the sweep first")
    frame = frame.astype(object).where(frame.notna(), None)
    frame = told_apart(frame, base_name)
    groups = list(frame.groupby(list(SAME), sort=False, dropna=False))
    varied = [name for name in NAMED if len(set(frame[name])) > 1]
    sections = [Section("Settings", [Facts(_settings(frame)), *_warnings(frame, varied)])]
    figures = Section("Figures", [])
    parts: list[Any] = []
    for _, rows in groups[:MOST_GROUPS]:
        parts += [Text(_heading(rows.iloc[0], varied)), Charts(_charts(rows))]
    if len(groups) > MOST_GROUPS:
        parts.append(Text(f"{len(groups) - MOST_GROUPS} more combinations are in the table only."))
    sections += [
        Section(figures.title, parts),
        Section("Cells", [_table(frame)]),
        Section("Reproduce", _reproduce(path)),
    ]
    return Page("Sweep report", f"{path}: {plural(len(frame), 'cell')}, {plural(len(groups), 'combination')}", sections)


def _settings(frame: pd.DataFrame) -> list[tuple[str, str, str]]:
    """What the whole sweep has in common, and the numbers of each trace."""
    rows = []
    for name in SETTINGS:
        values = [value for value in dict.fromkeys(frame[name]) if value is not None]
        if values:
            rows.append((name.replace("_", " "), ", ".join(map(str, values)), ""))
    for trace, of in frame.groupby("trace", sort=False):
        one = of.iloc[0]
        reuse = "unknown" if one["reuse_rate"] is None else percent(one["reuse_rate"])
        rows.append((
            f"trace {trace}", f"{one['tokens']:,} tokens, {one['requests']:,} requests, "
            f"{one['moe_layers']} MoE layers, {one['experts']} experts",
            f"Adjacent decode tokens share {reuse} of their experts.",
        ))  # fmt: skip
    return rows


def _warnings(frame: pd.DataFrame, varied: list[str]) -> list[Any]:
    """What the rows do not have in common, and what nobody has checked of the devices that their times are of."""
    found: list[Any] = []
    mixed = [name for name in (*varied, "scope", "capacity_unit") if len(set(frame[name])) > 1]
    if mixed:
        names = ", ".join(name.replace("_", " ") for name in mixed)
        found.append(Text(f"Rows differ in {names}: those that do cannot be compared, and are drawn apart."))
    doubts = of_rows(frame)
    return [*found, *([Facts([("not checked, or not known", one, "") for one in doubts])] if doubts else [])]


def _heading(row: Any, varied: list[str]) -> str:
    parts = [str(row["trace"]), f"scope {row['scope']}"]
    parts += [] if row["batch"] is None else [f"batch {row['batch']}"]
    parts += [] if row["device"] is None else [f"{row['device']}, {row['quant']}, overlap {row['overlap']}"]
    parts += [f"{name.replace('_', ' ')} {row[name]}" for name in varied if row[name] is not None]
    return "; ".join(parts)


def _charts(rows: pd.DataFrame) -> list[Chart]:
    """Up to three charts over one x: memory where it is known, else the limit."""
    known = all(value is not None for value in rows["capacity_bytes"])
    x_name = "capacity_bytes" if known else "capacity"
    x_label = "MiB of experts held" if known else str(rows["capacity_unit"].iloc[0]).replace("_", " ")
    wanted = (
        ("decode_hit_rate", "Decode hit rate", "share of lookups", 1.0, percent),
        ("bytes_read_per_token", "Read per output token", "MiB per token", None, lambda y: f"{y:,.2f} MiB"),
        ("tpot_ms_mean", "Time per output token (modelled)", "ms", None, lambda y: f"{y:,.2f} ms"),
    )
    policies = list(rows.groupby("policy", sort=False))
    left_out = [name for name, _ in policies[MOST_SERIES:]]
    note = f"Not drawn: {', '.join(left_out)}." if left_out else ""
    charts = []
    for column, title, label, top, shown in wanted:
        series = [
            Series(str(name), sorted((_value(one[x_name], x_name), _value(one[column], column))
                                     for _, one in of.iterrows() if one[column] is not None))
            for name, of in policies[:MOST_SERIES]
        ]  # fmt: skip
        if any(one.points for one in series):
            charts.append(line_chart(title, series, x_label, label, shown, lambda x: f"{x:,.0f}", top, note=note))
    return charts


def _value(value: Any, column: str) -> float:
    return float(value) / MIB if column in IN_MIB else float(value)


def _table(frame: pd.DataFrame) -> Table:
    """All rows, best first; columns that nothing is known of, or that are one word throughout, are left out."""
    best = "tpot_ms_mean" if any(value is not None for value in frame["tpot_ms_mean"]) else "decode_hit_rate"
    ordered = frame.assign(_order=[_order(value, best) for value in frame[best]]).sort_values("_order", kind="stable")
    columns = [
        (name, title, form) for name, title, form in COLUMNS
        if any(value is not None for value in frame[name])
        and ((form and name != "warmup") or name == "policy" or len(set(frame[name])) > 1)
    ]  # fmt: skip
    rows = [
        [None if row[name] is None else _value(row[name], name) if name in IN_MIB else row[name]
         for name, _, _ in columns]
        for _, row in ordered.head(MOST_ROWS).iterrows()
    ]  # fmt: skip
    by = "the shortest time per token" if best == "tpot_ms_mean" else "the highest decode hit rate"
    note = f"By {by}; click a heading to sort by it. "
    note += f"The first {MOST_ROWS:,} of {len(frame):,} rows; the file has all. " if len(frame) > MOST_ROWS else ""
    note += "Rates are shares of lookups, bytes those of missed decode lookups per decode token."
    return Table([(title, form) for _, title, form in columns], rows, "", note)


def _order(value: Any, best: str) -> float:
    if value is None:
        return float("inf")
    return float(value) if best == "tpot_ms_mean" else -float(value)


def _reproduce(path: str) -> list[Any]:
    from remoe_sim.reports.installation import versions_in_words

    return [
        Text(f"remoe-sim report {shlex.quote(path)} -o report.html", code=True),
        Text(
            "Which traces and settings the rows were made from is under Settings; the trace hash tells contents apart."
        ),
        Facts([("versions of this page", versions_in_words(), "")]),
    ]
