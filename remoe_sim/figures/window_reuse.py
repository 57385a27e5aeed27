"""Expert reuse against how many tokens back it may come from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from remoe_sim.figures._look import Sheet, legend, percent, sheet
from remoe_sim.figures._material import Material, NotPossibleError, Page, by_name, figure, has_columns
from remoe_sim.metrics import reuse

WINDOWS = (1, 2, 4, 8, 16, 32)
MOST_BANDS = 2  # more of them hide each other


def _pages(material: Material) -> Iterator[Page]:
    yield "", partial(reuse_against_window, material.need_traces())


@figure(_pages)
def reuse_against_window(data: Any, dark: bool = False) -> Sheet:
    """Reuse rate over all layers against the window, the number of tokens before; the band is from layer to layer.

    data: rows of `remoe_sim.reuse` with several windows, with a column `trace` where there are several; or a trace, or
    traces by name.
    """
    rows = by_name(data, lambda trace: reuse(trace, WINDOWS))
    rows = has_columns(rows, "layer", "window", "reuse_rate").dropna(subset=["reuse_rate"])
    if rows.empty:
        raise NotPossibleError("no decode token follows another, so reuse is not defined")
    with sheet("Expert reuse against window", dark) as page:
        axes = page.subplots()
        banded = rows["trace"].nunique() <= MOST_BANDS and rows["layer"].nunique() > 2
        for number, (name, own) in enumerate(rows.groupby("trace", sort=False)):
            overall = own[own["layer"] == "all"].sort_values("window")
            layers = own[own["layer"] != "all"].groupby("window")["reuse_rate"].agg(["min", "max"])
            style = page.look.line(number)
            if banded:
                axes.fill_between(layers.index, layers["min"].astype(float), layers["max"].astype(float),
                                  color=style["color"], alpha=0.16, linewidth=0)  # fmt: skip
            axes.plot(overall["window"], overall["reuse_rate"].astype(float), label=name, **style)
        windows = sorted(rows["window"].unique())
        if len(windows) > 1:
            axes.set_xscale("log", base=2)
        axes.set_xticks(windows, [str(one) for one in windows])
        axes.minorticks_off()
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("window (decode tokens before)")
        axes.set_ylabel("reuse rate (% of decode slots)")
        percent(axes.yaxis)
        about = str(rows["trace"].iloc[0]) if rows["trace"].nunique() == 1 else "over all layers"
        axes.set_title(about + "; band: lowest to highest layer" * banded)
        legend(page, [axes])
    return page
