"""Which experts of a layer successive decode tokens choose, and for how long they stay chosen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.figures._look import Sheet, sheet, whole_numbers
from remoe_sim.figures._material import Material, NotPossibleError, Page, figure, has_columns
from remoe_sim.metrics import decode_order
from remoe_sim.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

TOKENS = 160  # that a figure shows
STEPS = (1, 2, 3, 5, 9)  # streaks from so many tokens have a colour of their own


def _pages(material: Material) -> Iterator[Page]:
    for suffix, name, trace in material.each_trace():
        yield suffix, partial(routing, trace, layer=material.layer, name=name)


def routing_rows(trace: Trace, layer: int | None = None, request: int | None = None) -> pd.DataFrame:
    """One row per decode token of a request and expert that it chose: layer, request, position, expert, streak.

    streak: how many successive positions, this one included, choose the expert without a break. layer: the model's own
    number, by default that of the middle MoE layer; request: by default the one with most decode tokens. `attrs` has
    `experts`, how many there are.

    Raises ValueError for a layer or request that is not there, or that has no decode token.
    """
    import pandas as pd

    numbers = trace.layer_numbers
    layer = numbers[len(numbers) // 2] if layer is None else layer
    if layer not in numbers:
        raise ValueError(
            f"layer {layer} is no MoE layer of this trace; its MoE layers are {numbers[0]} to {numbers[-1]}"
        )
    order = decode_order(trace)
    if not order.size:
        raise NotPossibleError("there are no decode tokens")
    requests, counts = np.unique(trace.request[order], return_counts=True)
    request = int(requests[counts.argmax()]) if request is None else request
    rows = order[trace.request[order] == request]
    if not rows.size:
        raise ValueError(
            f"request {request} has no decode token in this trace; leave the request out to see the longest"
        )
    index = numbers.index(layer)
    decisions = trace.decisions(index).take(rows)
    there = np.ones(decisions.experts.shape, np.bool_) if decisions.valid is None else decisions.valid.copy()
    if decisions.routed is not None:
        there &= decisions.routed[:, None]
    token, slot = np.nonzero(there)
    frame = pd.DataFrame({"position": trace.position[rows][token], "expert": decisions.experts[token, slot]})
    frame = frame.astype(int).sort_values(["expert", "position"], ignore_index=True)
    begins = (frame["expert"].diff() != 0) | (frame["position"].diff() != 1)
    frame["streak"] = frame.groupby(begins.cumsum())["position"].transform("size")
    frame = frame.assign(layer=layer, request=request).sort_values(["position", "expert"], ignore_index=True)
    frame.attrs["experts"] = int(trace.model.experts[index])
    return frame[["layer", "request", "position", "expert", "streak"]]


@figure(_pages)
def routing(
    data: Any, dark: bool = False, layer: int | None = None, request: int | None = None, tokens: int = TOKENS,
    name: str | None = None,
) -> Sheet:  # fmt: skip
    """Heat map of a layer's routing over the first decode tokens of a request, coloured by streak.

    data: a trace, or the rows of `remoe_sim.figures.routing_map.routing_rows`. layer: the model's own number, by
    default that of the middle MoE layer; request: by default the one with most decode tokens.
    """
    from matplotlib.colors import BoundaryNorm, ListedColormap

    if isinstance(data, Trace):
        name = name or data.model.name
        data = routing_rows(data, layer, request)
    rows = has_columns(data, "layer", "request", "position", "expert", "streak")
    if rows.empty:
        raise NotPossibleError(f"no decode token of the request was routed at layer {layer}")
    number, of_request, first = (int(rows[one].iloc[0]) for one in ("layer", "request", "position"))
    shown = rows[rows["position"] < first + tokens]
    experts = rows.attrs.get("experts", int(rows["expert"].max()) + 1)
    width = int(shown["position"].max()) - first + 1
    cells = np.full((experts, width), np.nan)
    cells[shown["expert"], shown["position"] - first] = shown["streak"]
    with sheet("Routing of a layer over tokens", dark, (7.6, 4.4)) as page:
        axes = page.subplots()
        norm = BoundaryNorm([*STEPS, max(STEPS[-1] + 1, int(rows["streak"].max()) + 1)], len(STEPS))
        image = axes.imshow(
            cells, cmap=ListedColormap(page.look.ramp), norm=norm, aspect="auto", origin="lower",
            interpolation="nearest", extent=(first - 0.5, first + width - 0.5, -0.5, experts - 0.5),
        )  # fmt: skip
        axes.grid(False)
        bar = page.colorbar(image, ax=axes, label="streak (tokens in a row)", pad=0.01, spacing="uniform")
        centres = [(low + high) / 2 for low, high in zip(norm.boundaries[:-1], norm.boundaries[1:], strict=True)]
        bar.set_ticks(centres, labels=["1", "2", "3–4", "5–8", "9 +"])
        bar.ax.tick_params(length=0)
        bar.outline.set_visible(False)
        axes.set_xlabel(f"position of the decode token in request {of_request} (tokens)")
        axes.set_ylabel("expert (number)")
        for axis in (axes.xaxis, axes.yaxis):
            whole_numbers(axis)
        mean = len(rows) / (1 / rows["streak"]).sum()
        axes.set_title(", ".join(filter(None, (name, f"layer {number}", f"mean streak {mean:.2f} tokens"))))
    return page
