"""Draw which rooms of the package import which: `python -m docs.site.layout` writes docs/layout.svg, prints the table.

Rooms are boxes from top to bottom, and arrows are the imports in the code. The description of the SVG repeats what it
shows, so that a test can tell whether the picture is up to date. Arrows from the commands, which may import everything,
and arrows to `util` are left out; the two are bars instead.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

from tests.support.layout import MAY_IMPORT, edges, modules, room

PICTURE = Path(__file__).resolve().parents[1] / "layout.svg"
TOP, BOTTOM = "commands", "util"
CENTRES = {  # x and y of the middle of each box
    "finetune": (1.1, 6.6), "figures": (4.6, 6.6), "reports": (8.0, 6.6),
    "capture": (1.1, 5.4), "traces": (3.0, 5.4), "studies": (6.2, 5.4),
    "formats": (2.2, 4.2), "cache": (7.2, 4.2), "policies": (10.0, 4.2),
    "synthetic": (3.6, 3.0), "devices": (6.9, 3.0), "policy": (8.9, 3.0),
    "models": (1.5, 1.7), "trace": (5.1, 1.7), "kernels": (8.3, 0.9),
}  # fmt: skip
SAID = {
    "finetune": "tune a router", "figures": "matplotlib", "reports": "one HTML page", "capture": "run models",
    "traces": "one file per format", "studies": "several replays", "formats": "other programs' files",
    "cache": "replay and curve", "policies": "one file per policy", "synthetic": "drawn traces",
    "devices": "times and bytes", "policy": "what a policy is",
    "models": "what a model weighs", "trace": "the trace file and its accesses", "kernels": "compiled loops",
}  # fmt: skip
WIDTHS = {"trace": 2.3, "kernels": 2.3}  # of boxes that many arrows lead to
COLOURS = {
    "studies": "#b0508c", "cache": "#d55e00", "devices": "#6b5d2e", "policy": "#c98a00", "formats": "#3f9fd8",
    "trace": "#0072b2", "models": "#7a68c8", "kernels": "#009e73",
}  # fmt: skip
PLAIN, INK, FAINT = "#77777f", "#1b1b1f", "#62626a"
WIDTH, HEIGHT, RIGHT = 1.4, 0.46, 11.6
CLASSES = (("many", 20, 3.6), ("several", 5, 1.9), ("few", 1, 0.8))  # name, least imports, points
BENDS = sorted(itertools.product(np.arange(-2.4, 2.5, 0.4), repeat=2), key=lambda pair: (np.abs(pair).sum(), pair))


def table() -> Counter[tuple[str, str]]:
    """How often modules of one room import modules of another, by both names."""
    found: Counter[tuple[str, str]] = Counter()
    for name in modules():
        found.update((room(name), room(one)) for one in edges(name) if room(name) != room(one))
    return Counter({pair: count for pair, count in found.items() if set(pair) <= MAY_IMPORT.keys()})


def size(imports: int) -> tuple[str, float]:
    """The class of an arrow and its width in points."""
    return next((name, points) for name, least, points in CLASSES if imports >= least)


def drawn(found: Counter[tuple[str, str]]) -> str:
    """What the picture shows, in words: one line per pair of rooms."""
    return "\n".join(f"{one} imports {other}: {size(count)[0]}" for (one, other), count in sorted(found.items()))


def width(name: str) -> float:
    """The width of a room's box."""
    return WIDTHS.get(name, WIDTH)


def ports(pairs: list[tuple[str, str]]) -> dict[tuple[str, str], tuple[tuple[float, float], tuple[float, float]]]:
    """Where each arrow begins, at the lower edge of a box, and where it ends, at the upper edge of another."""
    begins, ends = {}, {}
    for name in CENTRES:
        x, y = CENTRES[name]
        leaving = sorted((pair for pair in pairs if pair[0] == name), key=lambda pair: CENTRES[pair[1]])
        coming = sorted((pair for pair in pairs if pair[1] == name), key=lambda pair: CENTRES[pair[0]])
        for some, places, edge in ((leaving, begins, -HEIGHT / 2), (coming, ends, HEIGHT / 2)):
            for number, pair in enumerate(some, 1):
                places[pair] = (x + 0.92 * width(name) * (number / (len(some) + 1) - 0.5), y + edge)
    return {pair: (begins[pair], ends[pair]) for pair in pairs}


def curve(pair: tuple[str, str], begin: tuple[float, float], end: tuple[float, float]) -> Curve:
    """The least bent curve from box to box that crosses the fewest others."""
    drop = 0.45 * (begin[1] - end[1])
    t = np.linspace(0, 1, 80)[:, None]
    others = np.array([CENTRES[name] for name in CENTRES if name not in pair])
    reach = np.array([(width(name) / 2 + 0.06, HEIGHT / 2 + 0.06) for name in CENTRES if name not in pair])

    def crossed(bend: tuple[float, float]) -> int:
        a, b, c, d = np.array(corners(bend))
        line = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
        return int((np.abs(line[:, None] - others) < reach).all(axis=2).any(axis=0).sum())

    def corners(bend: tuple[float, float]) -> list[tuple[float, float]]:
        return [begin, (begin[0] + bend[0], begin[1] - drop), (end[0] + bend[1], end[1] + drop), end]

    return Curve(corners(min(BENDS, key=crossed)), [Curve.MOVETO, *[Curve.CURVE4] * 3])


def picture(found: Counter[tuple[str, str]]) -> Figure:
    """Boxes, bars, arrows and what the widths mean."""
    figure = Figure(figsize=(10.6, 7.4), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0.1, RIGHT), ylim=(-0.75, 7.85))
    axes.axis("off")
    pairs = [pair for pair in sorted(found) if pair[1] != BOTTOM]
    for pair, (begin, end) in ports(pairs).items():
        colour = COLOURS.get(pair[1], PLAIN)
        points = size(found[pair])[1]
        axes.add_patch(
            FancyArrowPatch(
                path=curve(pair, begin, end), color=colour, linewidth=points, alpha=0.8, zorder=1,
                arrowstyle=f"-|>,head_length={3.5 + points},head_width={1.6 + 0.6 * points}", mutation_scale=1,
                fill=True, capstyle="butt", joinstyle="miter",
            )
        )  # fmt: skip
    for name, (x, y) in CENTRES.items():
        box(axes, x, y, width(name), COLOURS.get(name, PLAIN))
        label(axes, x, y, name, SAID[name])
    without = sorted(name for name in MAY_IMPORT if name != BOTTOM and (name, BOTTOM) not in found)
    rest = f", except by {', '.join(without)}" if without else ""
    bars = (
        (7.5, f"{TOP}, cli.py, __init__.py", "may import everything (arrows left out)"),
        (0.0, BOTTOM, f"imported by every room{rest} (arrows left out)"),
    )
    for y, name, said in bars:
        box(axes, (RIGHT + 0.1) / 2, y, RIGHT - 0.7, PLAIN)
        label(axes, (RIGHT + 0.1) / 2, y, name, said)
    most = (None, *(least - 1 for _, least, _ in CLASSES))
    for number, (_, least, points) in enumerate(CLASSES):
        x = 1.6 + 2.2 * number
        axes.plot([x, x + 0.5], [-0.55, -0.55], color=FAINT, linewidth=points, solid_capstyle="butt")
        words = f"{least} or more imports" if most[number] is None else f"{least} to {most[number]} imports"
        axes.text(x + 0.6, -0.55, words, va="center", fontsize=8, color=FAINT)
    axes.text(8.3, -0.55, "an arrow has the colour of the room it leads to", va="center", fontsize=8, color=FAINT)
    return figure


def box(axes: Axes, x: float, y: float, width: float, colour: str) -> None:
    """Draw a box around its centre, opaque and tinted with its colour."""
    corner = (x - width / 2, y - HEIGHT / 2)
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch(corner, width, HEIGHT, style, facecolor="white", edgecolor="none", zorder=2))
    light = (*to_rgb(colour), 0.16)
    axes.add_patch(FancyBboxPatch(corner, width, HEIGHT, style, facecolor=light, edgecolor=colour, zorder=2))


def label(axes: Axes, x: float, y: float, name: str, said: str) -> None:
    """Write a room's name and what it holds into its box."""
    axes.text(x, y + 0.07, name, ha="center", va="center", fontsize=10.5, color=INK, weight="bold", zorder=3)
    axes.text(x, y - 0.13, said, ha="center", va="center", fontsize=7.5, color=FAINT, zorder=3)


def main() -> None:
    """Write the picture and print the table that it shows."""
    found = table()
    with matplotlib.rc_context({"svg.hashsalt": "remoe-sim", "svg.fonttype": "path", "font.family": "DejaVu Sans"}):
        picture(found).savefig(PICTURE, metadata={"Date": None, "Description": drawn(found)})
    for (one, other), count in sorted(found.items()):
        print(f"{one} imports {other}: {count}, {size(count)[0]}")


if __name__ == "__main__":
    main()
