"""How evenly the experts of layers are used."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.figures._look import Sheet, legend, percent, sheet
from remoe_sim.figures._material import Material, NotPossibleError, Page, by_name, figure, has_columns
from remoe_sim.metrics import layer_statistics
from remoe_sim.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

MOST_BANDS = 2  # more of them hide each other


def _pages(material: Material) -> Iterator[Page]:
    yield "", partial(popularity, material.need_traces())


def use_rows(trace: Trace) -> pd.DataFrame:
    """One row per layer and expert: layer, expert, uses (the slots of both phases that chose it)."""
    import pandas as pd

    frames = [
        pd.DataFrame({"layer": trace.layer_numbers[one.index], "expert": np.arange(one.uses.size), "uses": one.uses})
        for one in layer_statistics(trace)
    ]
    return pd.concat(frames, ignore_index=True)


@figure(_pages)
def popularity(data: Any, dark: bool = False) -> Sheet:
    """Share of slots that the most used experts of a layer take: the mean of layers, the band from layer to layer.

    data: a trace, traces by name, or rows with layer, expert and uses (and trace). Both phases count. Every layer is
    sorted for itself; layers where nothing was chosen are left out.
    """
    rows = has_columns(by_name(data, use_rows), "layer", "expert", "uses")
    if not rows["uses"].sum():
        raise NotPossibleError("no expert was chosen")
    at = np.linspace(0, 1, 201)
    with sheet("Popularity of experts", dark) as page:
        axes = page.subplots()
        banded = rows["trace"].nunique() <= MOST_BANDS and rows["layer"].nunique() > 1
        axes.plot((0, 1), (0, 1), color=page.look.faint, linewidth=0.9, linestyle=":", label="all used equally")
        for number, (name, own) in enumerate(rows.groupby("trace", sort=False)):
            curves = []
            for _, layer in own.groupby("layer", sort=False):
                uses = np.sort(layer["uses"].to_numpy(float))[::-1]
                if uses.sum():
                    shares = np.append(0, np.cumsum(uses)) / uses.sum()
                    curves.append(np.interp(at, np.linspace(0, 1, uses.size + 1), shares))
            if not curves:
                continue
            style = page.look.line(number)
            if banded:
                axes.fill_between(at, np.min(curves, axis=0), np.max(curves, axis=0), color=style["color"], alpha=0.16,
                                  linewidth=0)  # fmt: skip
            mean = np.mean(curves, axis=0)
            label = f"{name}: top 10 % take {100 * np.interp(0.1, at, mean):.0f} %"
            axes.plot(at, mean, label=label, **style, markevery=20)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("experts of a layer, most used first (%)")
        axes.set_ylabel("slots that they take (%)")
        axes.set_title("mean of layers" + "; band: least to most uneven layer" * banded)
        percent(axes.xaxis)
        percent(axes.yaxis)
        legend(page, [axes])
    return page
