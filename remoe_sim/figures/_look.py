"""How figures look, on light and on dark ground: colours that colour-blind people tell apart, and lines that differ in
their markers too."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MARKERS = "osD^vPX"
OPTIMUM = "belady"


@dataclass(frozen=True)
class Look:
    """ink: text and axes; faint: what explains; grid, paper; colours: of lines, after Okabe and Ito; ramp: few to many,
    from near the paper's colour to far from it; parts: of a time, cold where something
    is computed and warm where it is waited for."""

    ink: str
    faint: str
    grid: str
    paper: str
    colours: tuple[str, ...]
    ramp: tuple[str, ...]
    parts: tuple[str, ...]

    def line(self, number: int) -> dict[str, Any]:
        """Colour, marker and dashes of the line with that number; 28 differ. Later ones are thinner, so that those
        below them show where they lie upon each other."""
        return {
            "linewidth": max(1.2, 2.3 - 0.3 * number), "markersize": max(3.5, 6.0 - 0.8 * number),
            "color": self.colours[number % len(self.colours)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": ("-", "--", ":", "-.")[number // len(self.colours) % 4],
        }  # fmt: skip

    def policies(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Lines of policies; the offline optimum is no choice, so it is drawn as a dashed line without markers."""
        online = [name for name in dict.fromkeys(names) if name != OPTIMUM]
        lines = {name: self.line(number) for number, name in enumerate(online)}
        return lines | {OPTIMUM: {"color": self.ink, "linestyle": (0, (5, 2)), "marker": ""}}


LIGHT = Look(
    "#1b1b1f", "#62626a", "#e4e4e8", "#ffffff",
    ("#0072b2", "#d55e00", "#009e73", "#b0508c", "#c98a00", "#3f9fd8", "#6b5d2e"),
    ("#c6dbef", "#85b5da", "#3f88c1", "#125ca4", "#08306b"),
    ("#9a9aa3", "#8cc3e8", "#0072b2", "#f0b429", "#d55e00"),
)  # fmt: skip
DARK = Look(
    "#ececf0", "#a6a6b0", "#38383f", "#17171b",
    ("#56b4e9", "#ff8b4a", "#2cc79a", "#e89ac7", "#f2c14e", "#8f9bff", "#cbbd85"),
    ("#263d5c", "#2f6496", "#4793c8", "#86c5e8", "#e6f4fb"),
    ("#70707a", "#2f6f9f", "#6cc0f0", "#f2c14e", "#e8703a"),
)  # fmt: skip


class Sheet(Figure):
    """A Figure that keeps its look when it is drawn, and shows itself in a notebook."""

    rc: Any
    look: Look

    def draw(self, renderer: Any) -> None:
        with matplotlib.rc_context(self.rc):  # ticks are made as late as here
            super().draw(renderer)

    def picture(self, kind: str = "svg") -> bytes:
        """The figure as an svg, pdf or png, the same bytes every time."""
        written = io.BytesIO()
        dates: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
        with matplotlib.rc_context(self.rc):
            self.savefig(written, format=kind, metadata=dates.get(kind), dpi=200)
        return written.getvalue()

    def _repr_html_(self) -> str:
        code = base64.b64encode(self.picture()).decode()
        return (
            f'<img alt="{escape(self.get_suptitle())}" style="max-width:100%" src="data:image/svg+xml;base64,{code}">'
        )


@contextmanager
def sheet(title: str, dark: bool, size: tuple[float, float] = (6.4, 4.0)) -> Iterator[Sheet]:
    """An empty figure to draw on in inches, with its title."""
    look = DARK if dark else LIGHT
    rc: Any = {
        "figure.facecolor": look.paper, "savefig.facecolor": look.paper, "axes.facecolor": look.paper,
        "text.color": look.ink, "axes.labelcolor": look.ink, "axes.edgecolor": look.faint,
        "axes.titlecolor": look.faint, "axes.titlesize": 9, "axes.titlelocation": "left", "axes.labelsize": 9,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
        "grid.color": look.grid, "grid.linewidth": 0.6, "xtick.color": look.faint, "ytick.color": look.faint,
        "xtick.labelcolor": look.ink, "ytick.labelcolor": look.ink, "xtick.labelsize": 8, "ytick.labelsize": 8,
        "lines.linewidth": 1.6, "lines.markersize": 4, "legend.frameon": False, "legend.fontsize": 8,
        "svg.hashsalt": "remoe-sim", "pdf.fonttype": 42, "font.size": 9,
        "text.parse_math": False,  # a name with two $ is no formula
    }  # fmt: skip
    with matplotlib.rc_context(rc):
        page = Sheet(figsize=size, layout="constrained")
        page.rc, page.look = rc, look
        page.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        yield page


def legend(page: Sheet, axes: Iterable[Axes]) -> None:
    """One legend below all axes, of every label once; none where there is but one label."""
    found: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if len(found) > 1:
        widest = max(map(len, found))
        columns = max(1, min(len(found), int(page.get_figwidth() * 14 / (widest + 6))))
        page.legend(list(found.values()), list(found), loc="outside lower left", ncols=columns)


def percent(axis: Any) -> None:
    """Ticks of an axis of fractions, in percent."""
    axis.set_major_formatter(lambda value, _: f"{round(100 * value, 6):g} %")


def whole_numbers(axis: Any) -> None:
    """Ticks of an axis at whole numbers only, of which it shows two at least."""
    from matplotlib.ticker import MaxNLocator

    low, high = axis.get_view_interval()
    if high - low < 1:
        axis.axes.set(**{f"{axis.axis_name}lim": (low - 1, high + 1)})
    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))


def sparse_markers(count: int) -> dict[str, Any]:
    """Markers of a line with so many points: on about a dozen of them."""
    return {"markevery": max(1, count // 12)}
