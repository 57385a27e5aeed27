"""Panels that several figures share, and the rows they show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from remoe_sim.figures._look import Sheet, legend, sheet
from remoe_sim.figures._material import Page, has_columns
from remoe_sim.studies.sweep.labels import stem

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COUNTED = ("trace", "batch", "scope", "admission", "reset", "phase", "warmup", "quant", "device_model")
TIMED = (*COUNTED, "device", "overlap", "misses_from", "lanes", "context", "compute_ms")
MOST = 6  # panels of one figure
Panel = tuple[str, "pd.DataFrame"]
_WORDS: dict[str, Callable[[Any], str]] = {
    "trace": stem,
    "scope": lambda value: {"layer": "a cache per layer", "global": "one cache"}.get(value, value),
    "batch": lambda value: f"batch {value}",
    "admission": lambda value: f"admission {value}",
    "reset": lambda value: f"reset {value}",
    "phase": lambda value: f"phase {value}",
    "warmup": lambda value: f"{value} tokens of warm-up",
    "overlap": lambda value: f"overlap {value}",
    "misses_from": lambda value: f"misses from {value}",
    "lanes": lambda value: f"{value} lanes",
    "context": lambda value: f"context {value}",
    "compute_ms": lambda value: f"{value:g} ms computing",
    "capacity_unit": lambda value: f"limits in {value}".replace("_", " "),
}
_ALWAYS = ("trace", "device", "policy")  # named even where all panels have the same


def split_rows(rows: pd.DataFrame, names: Sequence[str]) -> list[Panel]:
    """The rows of each combination of what these columns hold, with a title; in the order in which they come."""
    names = [name for name in names if name in rows]
    if not names:
        return [("", rows)]
    named = rows.attrs.get("named") or _telling(rows, names)
    panels = []
    for values, some in rows.groupby(names, dropna=False, sort=False):
        of = dict(zip(names, values if isinstance(values, tuple) else (values,), strict=True))
        panels.append((", ".join(_words(name, of[name]) for name in named if _known(of[name])), some))
    return panels


def _telling(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The columns that a title names: without those that follow from the others."""
    named = [name for name in names if name in _ALWAYS]
    count = len(rows[named].drop_duplicates()) if named else 1
    for name in names:
        more = len(rows[[*named, name]].drop_duplicates())
        if name not in named and more > count:
            named, count = [*named, name], more
    return [name for name in names if name in named]


def _words(name: str, value: Any) -> str:
    return _WORDS.get(name, str)(value)


def _known(value: Any) -> bool:
    import pandas as pd

    return not pd.isna(value) and value != "all tokens"


def pages_of(function: Callable[..., Any], rows: pd.DataFrame, names: Sequence[str]) -> Iterator[Page]:
    """As many figures as the panels take, MOST on each."""
    import pandas as pd

    panels, named = split_rows(rows, names), _telling(rows, [name for name in names if name in rows])
    for number, start in enumerate(range(0, len(panels), MOST), 1):
        some = pd.concat([part for _, part in panels[start : start + MOST]])
        some.attrs.update(rows.attrs, named=named)  # alike on all pages
        yield "" if number == 1 else str(number), partial(function, some)


@contextmanager
def panelled(title: str, dark: bool, panels: Sequence[Panel], share: bool = True) -> Iterator[tuple[Sheet, list[Axes]]]:
    """A figure with so many panels, titled, three at most in a row, and a legend below them. share: all have one scale.

    Raises ValueError for more than MOST, and for none.
    """
    if not panels:
        raise ValueError("there are no rows to draw")
    if len(panels) > MOST:
        raise ValueError(
            f"{len(panels)} combinations do not fit into one figure of at most {MOST} panels; filter the rows, such as "
            "frame[frame.device == 'rtx-4090'], or let 'remoe-sim plot' write several figures"
        )
    columns = min(3, len(panels)) if len(panels) != 4 else 2
    lines = -(-len(panels) // columns)
    size = (6.4, 4.0) if len(panels) == 1 else (1.2 + 3.4 * columns, 1.4 + 2.6 * lines)
    with sheet(title, dark, size) as page:
        grid = page.subplots(lines, columns, sharey=share, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        used = list(grid.flat[: len(panels)])
        for axes, (name, _) in zip(used, panels, strict=True):
            axes.set_title("\n".join(_folded(name, 44 if len(panels) > 1 else 80)))
        yield page, used
        for number, axes in enumerate(used):
            if number % columns:
                axes.set_ylabel("")
            if number + columns < len(panels):
                axes.set_xlabel("" if _same_x(axes, used[number + columns]) else axes.get_xlabel())
        legend(page, used)


def _same_x(axes: Axes, below: Axes) -> bool:
    return bool(axes.get_xlabel() == below.get_xlabel())


def _folded(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width) or [""]


def scale_alike(grid: Sequence[Axes], panels: Sequence[Panel], y: str, names: Sequence[str] = TIMED) -> None:
    """From 0 to the largest of all panels that agree in these columns, so that they can be compared by eye."""
    named = [name for name in names if name in panels[0][1]]
    same = [tuple(str(some[name].iloc[0]) for name in named) for _, some in panels]
    for axes, key in zip(grid, same, strict=True):
        most = max(float(some[y].max()) for (_, some), other in zip(panels, same, strict=True) if other == key)
        axes.set_ylim(0, 1.05 * most if most > 0 else 1)


def lines_of(axes: Axes, rows: pd.DataFrame, x: Any, y: str, styles: dict[str, dict[str, Any]]) -> None:
    """A line per policy over x, a column or a rule that makes one of the rows."""
    from remoe_sim.figures._look import OPTIMUM, sparse_markers

    for policy in styles:
        own = rows[rows["policy"] == policy].dropna(subset=[y])
        own = own.assign(x=own[x] if isinstance(x, str) else x(own)).sort_values("x")
        if len(own):
            label = f"{policy} (offline)" if policy == OPTIMUM else policy
            if len(own) == 1 and policy == OPTIMUM:  # a line of one point shows nothing
                styles = {**styles, policy: {**styles[policy], "marker": "*"}}
            axes.plot(own["x"].astype(float), own[y].astype(float), label=label, **styles[policy],
                      **sparse_markers(len(own)))  # fmt: skip


def areas_of(
    axes: Axes, rows: pd.DataFrame, x: Any, between: tuple[str, str], styles: dict[str, dict[str, Any]], label: str
) -> None:
    """A pale area per policy between two columns over x, where rows have both."""
    if any(name not in rows for name in between):
        return
    first: str | None = label
    for policy in styles:
        own = rows[rows["policy"] == policy].dropna(subset=list(between))
        own = own.assign(x=x(own)).sort_values("x")
        if len(own):
            low, high = (own[name].to_numpy(float) for name in between)
            axes.fill_between(
                own["x"].to_numpy(float), low, high, color=styles[policy]["color"], alpha=0.12, linewidth=0, label=first
            )
            first = None


def memory(rows: pd.DataFrame) -> tuple[Callable[[pd.DataFrame], Any], str]:
    """What turns rows into their cache in MiB or GiB, whichever suits, and the label of the axis."""
    unit, factor = ("GiB", 2**30) if float(rows["capacity_bytes"].max()) >= 2**30 else ("MiB", 2**20)
    return (lambda some: some["capacity_bytes"].astype(float) / factor), f"expert cache of all layers ({unit})"


PANELS = (*COUNTED, "capacity_unit")


def curve_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per combination, policy and capacity, all layers together, with `capacity_unit`.

    Takes rows of `remoe_sim.sweep`, and those of `remoe_sim.curve`.
    """
    rows = has_columns(frame, "policy", "capacity", "lookups", "hits")
    if "layer" in rows:
        rows = rows[rows["layer"].astype(str) == "all"]
    if "capacity_unit" not in rows:
        rows = rows.assign(capacity_unit=frame.attrs.get("capacity_unit", "experts_per_layer"))
    for name in ("quant", "device_model"):  # change what a number of bytes holds, and nothing else
        if name in rows:
            rows = rows.assign(**{name: rows[name].where(rows["capacity_unit"] == "bytes")})
    names = [name for name in (*PANELS, "policy", "capacity") if name in rows]
    return rows.drop_duplicates(names)


def capacity_axis(rows: pd.DataFrame) -> tuple[Callable[[pd.DataFrame], Any], str]:
    """What turns rows of one unit into their places on the axis, and the axis's label."""
    unit = rows["capacity_unit"].iloc[0]
    if unit != "bytes":
        label = "cache (experts per layer)" if unit == "experts_per_layer" else "cache of all layers (experts)"
        return (lambda some: some["capacity"].astype(float)), label
    name, factor = ("GiB", 2**30) if float(rows["capacity"].max()) >= 2**30 else ("MiB", 2**20)
    return (lambda some: some["capacity"].astype(float) / factor), f"cache of all layers ({name})"
