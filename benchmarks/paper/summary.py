"""One table of the original model and all tuned ones: what `pair.py` and `text_losses.py` found of each pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.paper import text_losses
from benchmarks.paper.pair import WORDS
from remoe_sim.util.files import replacing

LOSS = "loss"
LEFT_OUT = ("bytes_read_per_token", "unique_misses")  # misses per token, times one number
NAMES = {**WORDS, LOSS: "loss, nats per token"}
KEYS = ["metric", "policy", "capacity"]
CALLED = {"paper": "ReMoE (`paper`)", "three-stage": "`three-stage`", "ce-only": "`ce-only`"}


def summarise(folder: Path, recipes: tuple[str, ...], title: str) -> pd.DataFrame:
    """Rows of every number of every model; written as summary.csv, and to read as summary.md.

    folder: of an architecture, with pair-RECIPE/pair.csv, original-losses.json and RECIPE-losses.json.
    """
    rows: list[dict[str, Any]] = []
    for recipe in recipes:
        loss = text_losses.compare(folder / "original-losses.json", folder / f"{recipe}-losses.json")
        pairs = pd.read_csv(folder / f"pair-{recipe}" / "pair.csv").to_dict("records")
        for row in ({"metric": LOSS, "policy": None, "capacity": None, **loss}, *pairs):
            if row["metric"] in LEFT_OUT:
                continue
            key = {name: row[name] for name in KEYS}
            if recipe == recipes[0]:
                rows.append(key | {"model": "original", "value": row["original"]})
            rows.append(
                key | {"model": recipe, "value": row["tuned"]}
                | {name: row[name] for name in ("change", "difference", "low", "high")}
            )  # fmt: skip
    table = pd.DataFrame(rows)
    for name, text in {"summary.csv": table.to_csv(index=False), "summary.md": markdown(table, recipes, title)}.items():
        with replacing(folder / name) as beside:
            beside.write_text(text)
    return table


def markdown(table: pd.DataFrame, recipes: tuple[str, ...], title: str) -> str:
    """A row per number, a column per model; below a tuned model's value its change, and the interval of it."""
    lines = [
        f"{title} Changes are against the original, in brackets their 95 % interval over requests, in the unit of the "
        "value (points for shares); all but those of loss and reuse are adjusted (Holm).", "",
        "| | C | policy | original | " + " | ".join(CALLED.get(name, name) for name in recipes) + " |",
        "|---" * (4 + len(recipes)) + "|",
    ]  # fmt: skip
    for (metric, policy, capacity), rows in table.groupby(KEYS, sort=False, dropna=False):
        cells = [_cell(metric, row) for row in rows.to_dict("records")]
        size, name = ("" if pd.isna(capacity) else str(int(capacity))), ("" if pd.isna(policy) else policy)
        lines.append(f"| {NAMES[metric]} | {size} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(metric: str, row: dict[str, Any]) -> str:
    rate = metric.endswith("_rate")
    unit, digits = 100.0 if rate else 1.0, 4 if metric in (LOSS, "routing_entropy", "load_balance_cv") else 2

    def number(value: float, sign: str = "") -> str:
        return f"{unit * value:{sign},.{digits}f}"

    text = number(row["value"]) + (" %" if rate else "")
    if pd.isna(row["change"]):
        return text
    span = "" if pd.isna(row["low"]) else f" ({number(row['low'], '+')} to {number(row['high'], '+')})"
    return f"{text}, {100 * row['change']:+.1f} %{span}"
