"""Figures of a pair of traces: reuse per layer, unique hit rate and misses against capacity, how even the load is."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from benchmarks.paper import drawing

Names = tuple[str, str]
SIDES = (("original", "original", "o"), ("tuned", "remoe", "s"))  # column, colour, marker
EVEN = {
    "routing_entropy": "routing entropy / ln E",
    "load_balance_cv": "load-balance CV",
    "distinct_experts_of_a_request": "distinct experts of a request",
}


def draw(table: pd.DataFrame, layers: pd.DataFrame, names: Names, folder: Path) -> list[str]:
    """All figures of rows as `pair.compare_pair` has them; the files' names."""
    figures = {
        "reuse-per-layer": partial(reuse_per_layer, table, layers, names),
        "misses-against-capacity": partial(misses, table, names),
        "expert-balance": partial(balance, table, layers, names),
    }
    return [name for stem, figure in figures.items() for name in drawing.save(figure, folder, stem)]


def reuse_per_layer(table: pd.DataFrame, layers: pd.DataFrame, names: Names, colours: dict[str, str]) -> Any:
    """Reuse of adjacent tokens of both models at every layer, over the difference with its intervals."""
    figure, (above, below) = _sheet(1, (6.4, 5.0))
    rows = layers[layers["metric"] == "reuse_rate"]
    overall = table[table["metric"] == "reuse_rate"].iloc[0]
    for (side, colour, marker), name in zip(SIDES, names, strict=True):
        rate = overall[side]
        label = name if pd.isna(rate) else f"{name}: {100 * rate:.1f} % over all layers"
        rates = 100 * rows[side].astype(float)
        above.plot(rows["layer"], rates, marker=marker, color=colours[colour], label=label, ms=4)
        if not pd.isna(rate):
            above.axhline(100 * rate, color=colours[colour], linewidth=0.9, linestyle=(0, (4, 3)))
    above.set(ylabel="reuse of adjacent tokens, %", title="Expert reuse per layer (broken: over all layers)")
    above.set_ylim(bottom=0)
    _legend(figure, above)
    _differences(below, rows["layer"], rows, 100, colours)
    below.set(xlabel="MoE layer (the model's number)", ylabel="difference, points")
    _whole(below.xaxis)
    return figure


def misses(table: pd.DataFrame, names: Names, colours: dict[str, str]) -> Any:
    """Unique hit rate of either model and policy against capacity, and the difference of misses per token."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.9), layout="constrained")
    hits, lost = (table[table["metric"] == name] for name in ("hit_rate", "misses_per_token"))
    for policy, dash in (("lru", "-"), ("belady", (0, (4, 2)))):
        own = hits[hits["policy"] == policy]
        for (side, colour, marker), name in zip(SIDES, names, strict=True):
            left.plot(own["capacity"].astype(int), 100 * own[side].astype(float), linestyle=dash, marker=marker, ms=4,
                      color=colours[colour], label=f"{name}, {policy}")  # fmt: skip
        fall = lost[lost["policy"] == policy]
        colour, marker, aside = ("ink", "s", 0.01) if policy == "belady" else ("third", "o", 0.0)
        _differences(right, fall["capacity"].astype(int) + aside * lost["capacity"].max(), fall, 1, colours, colour,
                     marker, policy)  # fmt: skip
    left.set(xlabel="capacity, experts per layer", ylabel="unique hit rate, % of lookups", ylim=(0, None),
             title="Unique hit rate")  # fmt: skip
    right.set(xlabel="capacity, experts per layer", ylabel="difference, misses per token",
              title=f"Unique misses: {names[1]} − {names[0]}")  # fmt: skip
    right.legend(loc="lower right")
    _legend(figure, left)
    for axes in (left, right):
        _whole(axes.xaxis)
    return figure


def balance(table: pd.DataFrame, layers: pd.DataFrame, names: Names, colours: dict[str, str]) -> Any:
    """Routing entropy, load-balance CV and distinct experts of a request at every layer, and the differences."""
    figure, axes = _sheet(3, (9.6, 4.8))
    for column, (metric, title) in enumerate(EVEN.items()):
        rows = layers[layers["metric"] == metric]
        above, below = axes[:, column]
        for (side, colour, marker), name in zip(SIDES, names, strict=True):
            above.plot(rows["layer"], rows[side].astype(float), marker=marker, ms=3, color=colours[colour], label=name)
        pooled = table[table["metric"] == metric].iloc[0]
        values = " → ".join("none" if pd.isna(pooled[side]) else f"{pooled[side]:.4g}" for side, *_ in SIDES)
        above.set_title(f"{title}\nmean of layers {values}")
        _differences(below, rows["layer"], rows, 1, colours)
        below.set(xlabel="MoE layer", ylabel="" if column else "difference")
        _whole(below.xaxis)
    _legend(figure, axes[0, 0])
    return figure


def _sheet(columns: int, size: tuple[float, float]) -> Any:
    """Values above, their differences below."""
    return plt.subplots(2, columns, figsize=size, sharex=True, height_ratios=(3, 2), layout="constrained")


def _differences(
    axes: Any, at: Any, rows: pd.DataFrame, unit: float, colours: dict[str, str], colour: str = "third",
    marker: str = "o", label: str | None = None,
) -> None:  # fmt: skip
    """Points with the intervals of differences, on a line at zero; hollow where zero is inside."""
    if label is None or not axes.lines:
        axes.axhline(0, color=colours["grey"], linewidth=0.9)
    value, low, high = (unit * rows[name].astype(float).to_numpy() for name in ("difference", "low", "high"))
    ink = colours[colour]
    axes.vlines(at, low, high, color=ink, linewidth=1.2)
    shown = rows["difference_shown"].fillna(False).astype(bool).to_numpy()
    for which, face in ((shown, ink), (~shown, colours["face"])):
        axes.plot(at[which], value[which], marker, color=ink, markerfacecolor=face, ms=4)
    if label is not None:
        axes.plot([], [], marker, color=ink, ms=4, label=label)


def _legend(figure: Any, axes: Any) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=4, handlelength=3)


def _whole(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
