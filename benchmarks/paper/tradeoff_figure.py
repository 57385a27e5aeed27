"""The figure of reuse gained against loss, over the weight of the locality terms."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from benchmarks.paper import drawing

CURVES = {"paper": ("remoe", "s", (-24, 4)), "three-stage": ("third", "o", (6, -9))}  # colour, marker, place of names
TARGET = 0.264  # the paper's relative gain of reuse
BAND = 0.01


def draw(table: pd.DataFrame, title: str, folder: Path) -> list[str]:
    """Figures of rows as `train.py` has them in tradeoff.csv; the files' names."""
    return drawing.save(partial(tradeoff, table, title), folder, "tradeoff")


def tradeoff(table: pd.DataFrame, title: str, colours: dict[str, str]) -> Any:
    """Change of reuse over change of loss; a curve per recipe, a point for each term left out and for the control."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    axes.axhline(100 * TARGET, color=colours["grey"], linewidth=0.9, linestyle=(0, (4, 3)))
    axes.axvspan(-100 * BAND, 100 * BAND, color=colours["grey"], alpha=0.15, linewidth=0)
    for recipe, (colour, marker, beside) in CURVES.items():
        rows = table[(table["recipe"] == recipe) & table["factor"].notna()].sort_values("factor")
        axes.plot(100 * rows["loss_change"], 100 * rows["reuse_change"], marker=marker, ms=4.5, color=colours[colour],
                  label=f"{recipe}, locality × {rows['factor'].min():g} to {rows['factor'].max():g}")  # fmt: skip
        for row in rows.to_dict("records"):
            _name(axes, row, f"×{row['factor']:g}", colours[colour], beside)
    for row in table[table["without"].notna()].to_dict("records"):
        axes.plot(100 * row["loss_change"], 100 * row["reuse_change"], "D", ms=5, color=colours["remoe"],
                  markerfacecolor=colours["face"])  # fmt: skip
        _name(axes, row, f"without {row['without']}", colours["ink"], (7, -3))
    for row in table[table["recipe"] == "ce-only"].to_dict("records"):
        axes.plot(100 * row["loss_change"], 100 * row["reuse_change"], "X", ms=7, color=colours["original"],
                  label="ce-only, the control")  # fmt: skip
    axes.plot([0], [0], "P", ms=7, color=colours["ink"], label="original")
    axes.set(xlabel="change of validation loss, %  (shaded: within 1 %)",
             ylabel="change of adjacent reuse, %  (broken: the paper's)",
             title=f"{title}: reuse gained against loss")  # fmt: skip
    axes.legend(loc="lower right")
    return figure


def _name(axes: Any, row: dict[str, Any], text: str, colour: str, offset: tuple[int, int]) -> None:
    axes.annotate(text, (100 * row["loss_change"], 100 * row["reuse_change"]), offset, textcoords="offset points",
                  fontsize=7, color=colour)  # fmt: skip
