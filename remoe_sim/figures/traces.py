"""Figures of the routing of a trace: use of experts, the routing map, and reuse."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.figures._look import Sheet, legend, percent, sheet, sparse_markers, whole_numbers
from remoe_sim.figures._material import Material, NotPossibleError, Page, by_name, figure, has_columns
from remoe_sim.trace.metrics import decode_order, layer_statistics, reuse
from remoe_sim.trace.trace import Trace
from remoe_sim.util.units import rate

if TYPE_CHECKING:
    import pandas as pd

MOST_BANDS = 2  # more of them hide each other


def _use_pages(material: Material) -> Iterator[Page]:
    yield "", partial(popularity, material.need_traces())


def use_rows(trace: Trace) -> pd.DataFrame:
    """One row per layer and expert: layer, expert, uses (the slots of both phases that chose it)."""
    import pandas as pd

    frames = [
        pd.DataFrame({"layer": trace.layer_numbers[one.index], "expert": np.arange(one.uses.size), "uses": one.uses})
        for one in layer_statistics(trace)
    ]
    return pd.concat(frames, ignore_index=True)


@figure(_use_pages)
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


TOKENS = 160  # that a figure shows
STEPS = (1, 2, 3, 5, 9)  # streaks from so many tokens have a colour of their own


def _map_pages(material: Material) -> Iterator[Page]:
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


@figure(_map_pages)
def routing(
    data: Any, dark: bool = False, layer: int | None = None, request: int | None = None, tokens: int = TOKENS,
    name: str | None = None,
) -> Sheet:  # fmt: skip
    """Heat map of a layer's routing over the first decode tokens of a request, coloured by streak.

    data: a trace, or the rows of `remoe_sim.figures.traces.routing_rows`. layer: the model's own number, by
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


def _layer_pages(material: Material) -> Iterator[Page]:
    yield "", partial(reuse_per_layer, rows_of(material.need_traces()))


def rows_of(data: Any, window: int = 1) -> pd.DataFrame:
    """Rows of `remoe_sim.reuse` at one window; NotPossibleError if no decode token has a predecessor."""
    rows = has_columns(by_name(data, lambda trace: reuse(trace, window)), "layer", "window", "shared", "wanted")
    rows = rows[rows["window"] == rows["window"].min()]
    rows = rows[rows.groupby("trace")["wanted"].transform("sum") > 0]  # no rate of those without a pair
    if rows.empty:
        raise NotPossibleError("no decode token follows another, so reuse is not defined")
    return rows


@figure(_layer_pages)
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


WINDOWS = (1, 2, 4, 8, 16, 32)


def _window_pages(material: Material) -> Iterator[Page]:
    yield "", partial(reuse_against_window, material.need_traces())


@figure(_window_pages)
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
