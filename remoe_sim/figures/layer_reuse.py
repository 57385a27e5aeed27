"""Expert reuse of each layer, of one trace or several side by side."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from remoe_sim.figures._look import Sheet, legend, percent, sheet, sparse_markers, whole_numbers
from remoe_sim.figures._material import Material, NotPossibleError, Page, by_name, figure, has_columns
from remoe_sim.metrics import rate, reuse

if TYPE_CHECKING:
    import pandas as pd


def _pages(material: Material) -> Iterator[Page]:
    yield "", partial(reuse_per_layer, rows_of(material.need_traces()))


def rows_of(data: Any, window: int = 1) -> pd.DataFrame:
    """Rows of `remoe_sim.reuse` at one window; NotPossibleError if no decode token has a predecessor."""
    rows = has_columns(by_name(data, lambda trace: reuse(trace, window)), "layer", "window", "shared", "wanted")
    rows = rows[rows["window"] == rows["window"].min()]
    rows = rows[rows.groupby("trace")["wanted"].transform("sum") > 0]  # no rate of those without a pair
    if rows.empty:
        raise NotPossibleError("no decode token follows another, so reuse is not defined")
    return rows


@figure(_pages)
def reuse_per_layer(data: Any, dark: bool = False) -> Sheet:
    """Reuse rate of adjacent decode tokens (EOR) at every MoE layer; broken lines are the rates over all layers.

    data: rows of `remoe_sim.reuse`, with a column `trace` where there are several; or a trace, or traces by name. Of
    several windows the smallest is drawn.
    """
    rows = rows_of(data)
    window = int(rows["window"].iloc[0])
    title = "Expert reuse per layer" + (f", last {window} tokens" if window > 1 else "")
    with sheet(title, dark) as page:
        axes = page.subplots()
        for number, (name, own) in enumerate(rows.groupby("trace", sort=False)):
            layers = own[own["layer"] != "all"]
            overall = rate(int(layers["shared"].sum()), int(layers["wanted"].sum()))
            style = page.look.line(number)
            label = name if overall is None else f"{name}: {100 * overall:.1f} % over all layers"
            rates = layers["shared"] / layers["wanted"].where(layers["wanted"] > 0)
            axes.plot(layers["layer"].astype(int), rates.astype(float), label=label, **style,
                      **sparse_markers(len(layers) // 2))  # fmt: skip
            if overall is not None:
                axes.axhline(overall, color=style["color"], linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("MoE layer (the model's number)")
        axes.set_ylabel("reuse rate (% of decode slots)")
        whole_numbers(axes.xaxis)
        percent(axes.yaxis)
        if rows["trace"].nunique() == 1:
            axes.set_title(label)
        legend(page, [axes])
    return page
