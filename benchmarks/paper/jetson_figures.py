"""The two figures of `jetson_inverse.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.paper.published import JETSON_TPOT_MS, TOP_K, UNIQUE_MISSES, change
from benchmarks.paper.surfaces import FASTEST, SLOWEST, Inverse, Surface

Reals = Any
Pair = tuple[Any, Any]
DATASET = "ShareGPT"
LEVELS = (30, 100, 1000, 3000, 10000)
CHANGES = [100 * change(pair) for pair in JETSON_TPOT_MS.values()]


def draw_surfaces(surfaces: dict[str, Surface], misses: dict[Any, Reals], shown: dict[str, Any], colours: Any) -> Any:
    """A row per quantisation: TPOT of the original, of ReMoE, and both contours of the published pair.

    misses[lifetime, which]; shown: `original`, `same` and `longer`, the lifetimes that are drawn.
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm
    from matplotlib.patheffects import withStroke

    figure, axes = plt.subplots(
        len(surfaces), 3, figsize=(11, 3.5 * len(surfaces)), layout="constrained", squeeze=False, sharex=True,
        sharey=True,
    )  # fmt: skip
    norm, image = LogNorm(20, 20000), None
    published = JETSON_TPOT_MS[DATASET]
    for (quant, surface), row in zip(surfaces.items(), axes, strict=True):
        drawn = (
            ("original", shown["original"], row[0], f"original, locality of {_lasting(shown['original'])}"),
            ("remoe", shown["longer"], row[1], f"ReMoE, locality of {_lasting(shown['longer'])}"),
        )
        for which, lifetime, axis, title in drawn:
            x, y, z = _grid(surface, misses[lifetime, which])
            image = axis.pcolormesh(x, y, z, norm=norm, cmap="cividis", shading="gouraud", rasterized=True)
            lines = axis.contour(x, y, z, levels=LEVELS, colors="white", linewidths=0.6)
            for text in axis.clabel(lines, fmt="%d ms", fontsize=7):
                text.set_path_effects([withStroke(linewidth=2, foreground="#222222")])
            axis.contour(x, y, z, levels=[published[which]], colors="#ff5a36", linewidths=2)
            axis.set_title(f"{quant}, {title}\nred: TPOT {published[which]} ms, as published")
        _contours(row[2], surface, misses, shown, published, colours)
        row[2].set_title(f"{quant}: where the published TPOTs\ncome out ({DATASET})")
        row[0].set_ylabel("bandwidth of the storage, GB/s")
    for axis in axes[-1]:
        axis.set_xlabel("effective cache, experts per layer of 64")
    axes[0, 0].set(yscale="log", xlim=(TOP_K, 64), ylim=(SLOWEST / 1e9, FASTEST / 1e9))
    axes[0, 0].set_yticks([0.03, 0.1, 0.3, 1, 3, 8], ["0.03", "0.1", "0.3", "1", "3", "8"])
    axes[0, 0].minorticks_off()
    axes[0, 0].set_xticks([6, 16, 32, 48, 64])
    bar = figure.colorbar(image, ax=axes[:, :2], label="TPOT, ms", shrink=0.8, location="left")
    bar.set_ticks([30, 100, 300, 1000, 3000, 10000], labels=["30", "100", "300", "1000", "3000", "10 000"])
    bar.minorticks_off()
    bar.outline.set_visible(False)
    return figure


def _grid(surface: Surface, misses: Reals) -> tuple[Reals, Reals, Reals]:
    """Capacities from k, bandwidths in GB/s ascending, TPOT in ms [bandwidths, capacities]."""
    z = surface.over(misses[TOP_K:])
    return np.arange(TOP_K, misses.size), 1 / surface.slowness[::-1] / 1e9, z[:, ::-1].T


def _contours(axis: Any, surface: Surface, misses: Any, shown: Any, published: dict[str, float], colours: Any) -> None:
    original = misses[shown["original"], "original"]
    lines = (
        (
            "original",
            shown["original"],
            colours["original"],
            "-",
            f"original, {_lasting(shown['original'])}",
        ),
        (
            "remoe",
            shown["same"],
            colours["third"],
            "--",
            f"ReMoE, {_lasting(shown['same'])}",
        ),
        (
            "remoe",
            shown["longer"],
            colours["remoe"],
            "-.",
            f"ReMoE, {_lasting(shown['longer'])}",
        ),
    )
    for which, lifetime, colour, style, label in lines:
        x, y, z = _grid(surface, misses[lifetime, which])
        axis.contour(x, y, z, levels=[published[which]], colors=colour, linestyles=style, linewidths=1.8)
        axis.plot([], [], color=colour, linestyle=style, linewidth=1.8, label=label)
    for which, colour in (("same", colours["third"]), ("longer", colours["remoe"])):
        pair = {"original": original, "remoe": misses[shown[which], "remoe"]}
        inverse = Inverse.of(surface, pair, published, TOP_K)
        crossings, closest = list(inverse.crossings()), inverse.closest()
        for capacity, bandwidth in crossings:
            axis.plot(capacity, bandwidth / 1e9, "*", color=colour, markersize=13, markeredgecolor=colours["face"])
            axis.annotate(f"both: {capacity:.0f} experts,\n{bandwidth / 1e9:.2f} GB/s", (capacity, bandwidth / 1e9),
                          (-12, -4), textcoords="offset points", ha="right", va="top", fontsize=8,
                          color=colours["ink"])  # fmt: skip
        if not crossings and closest is not None:
            capacity, bandwidth, residual = closest
            axis.plot(capacity, bandwidth / 1e9, "o", color="none", markersize=8, markeredgecolor=colour)
            axis.annotate(f"closest:\n{residual:+.0f} ms", (capacity, bandwidth / 1e9), (9, 6), fontsize=8,
                          textcoords="offset points", ha="left", va="bottom", color=colours["ink"])  # fmt: skip
    axis.legend(loc="upper right", handlelength=3, title="locality lasts", title_fontsize=8, alignment="left")


def _lasting(lifetime: Any) -> str:
    return f"{lifetime} tokens" if isinstance(lifetime, int) else "a request"


def draw_falls(falls: dict[Pair, Reals], colours: dict[str, str]) -> Any:
    """How far misses fall from the original to ReMoE at every capacity, per pair of lifetimes, and what is needed."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.4, 4.4), layout="constrained")
    axis.axhspan(min(CHANGES), max(CHANGES), color=colours["grey"], alpha=0.35, linewidth=0)
    least = f"{max(CHANGES):.1f} to {min(CHANGES):.1f} %".replace("-", "−")
    axis.text(6.5, sum(CHANGES[:2] + CHANGES[2:] * 2) / 4, f"Jetson, TPOT: {least}", va="center",
              fontsize=8, color=colours["ink"])  # fmt: skip
    marks = iter("osD^vP")
    for (before, after), change_of_misses in falls.items():
        same = before == after
        capacities = np.arange(TOP_K, change_of_misses.size + TOP_K)
        axis.plot(capacities, 100 * change_of_misses, color=colours["third" if same else "remoe"],
                  linestyle="--" if same else "-", linewidth=1.6, marker=next(marks), markevery=(4, 8), markersize=5,
                  label=f"{_lasting(before)} → {_lasting(after)}")  # fmt: skip
    axis.plot(TOP_K, 100 * change(UNIQUE_MISSES), "*", color=colours["original"], markersize=13, clip_on=False,
              label=f"published misses at {TOP_K} experts (−{-100 * change(UNIQUE_MISSES):.1f} %)")  # fmt: skip
    axis.set(xlabel="effective cache, experts per layer of 64", ylabel="change of misses, original → ReMoE, %",
             xlim=(5, 64), ylim=(-100, 0), xticks=[6, 16, 32, 48, 64])  # fmt: skip
    axis.set_title(
        "EOR 0.273 → 0.345, by how long locality lasts (original → ReMoE)\nmisses must fall at least as far as TPOT"
    )
    axis.legend(loc="lower left", ncols=2)
    return figure
