"""Charts as numbers: where lines, bars, ticks and hover areas lie. A template draws them as SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

WIDTH, HEIGHT = 460, 280  # of a chart in its own units, small enough for a phone
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 44
MOST_POINTS = 64  # of a line; more cannot be told apart


@dataclass(frozen=True)
class Series:
    """A line: its name, and y for some x; y is None where it is not known."""

    name: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Spot:
    """What is shown when a pointer is between `left` and `left + width`; `at` is where the guide stands."""

    at: float
    left: float
    width: float
    tip: str


@dataclass(frozen=True)
class Line:
    """A path and its points; `number` chooses colour and dashes."""

    name: str
    number: int
    path: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Bar:
    """A rectangle; `number` chooses the colour of a part where bars are stacked."""

    left: float
    top: float
    width: float
    height: float
    number: int | None = None


@dataclass(frozen=True)
class Chart:
    """A chart that is ready to be drawn. `mark` is where the limit that was asked for stands; `parts` are what bars
    are stacked of, with the numbers of their colours."""

    title: str
    note: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    spots: tuple[Spot, ...]
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    parts: tuple[tuple[str, int], ...] = ()
    mark: float | None = None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def nice_ticks(least: float, most: float, about: int = 5) -> list[float]:
    """Round numbers from `least` to `most`, `about` so many: steps of 1, 2 or 5 times a power of ten."""
    span = most - least
    if not span > 0:
        return [least]
    power = 10 ** math.floor(math.log10(span / about))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= about)
    return [round(number * step, 12) for number in range(math.ceil(least / step), math.floor(most / step) + 1)]


def number(value: float) -> str:
    """A tick's or tip's number, no longer than it needs to be."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def thinned(values: Sequence[float], keep: Sequence[float] = ()) -> list[float]:
    """At most MOST_POINTS of the ascending values, evenly spread, both ends and `keep` among them."""
    if len(values) <= MOST_POINTS:
        return list(values)
    chosen = {values[round(i * (len(values) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)}
    return sorted(chosen | (set(keep) & set(values)))


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    shown: Callable[[float], str] = number,
    shown_x: Callable[[float], str] = number,
    top: float | None = None,
    mark: float | None = None,
    note: str = "",
) -> Chart:
    """Lines over one x axis. shown: how a y is written; top: where the y axis ends, the largest y if not given."""
    xs = sorted({x for one in series for x, y in one.points if y is not None})
    ys = [y for one in series for _, y in one.points if y is not None]
    least, most = min(xs, default=0), max(xs, default=1)
    place_x = _scale(least, most, LEFT, WIDTH - RIGHT)
    high = top if top is not None else max(ys, default=1) * 1.05 or 1
    place_y = _scale(0, high, HEIGHT - BOTTOM, TOP)
    lines = []
    for at, one in enumerate(series):
        dots = [(round(place_x(x), 1), round(place_y(y), 1)) for x, y in one.points if y is not None]
        lines.append(Line(one.name, at, "M" + "L".join(f"{x} {y}" for x, y in dots) if dots else "", tuple(dots)))
    known = [(one.name, {x: y for x, y in one.points if y is not None}) for one in series]
    tips = {
        x: "\n".join(
            [f"{shown_x(x)} {x_label}", *(f"{name}: {shown(values[x])}" for name, values in known if x in values)]
        )
        for x in xs
    }
    return Chart(
        title, note, x_label, y_label,
        tuple(Tick(round(place_x(x), 1), number(x)) for x in nice_ticks(least, most, 6)),
        tuple(Tick(round(place_y(y), 1), number(y)) for y in nice_ticks(0, high)),
        _spots([place_x(x) for x in xs], list(tips.values())),
        tuple(lines),
        mark=round(place_x(mark), 1) if mark is not None and least <= mark <= most else None,
    )  # fmt: skip


def bar_chart(
    title: str, values: Sequence[tuple[str, float | None]], x_label: str, y_label: str, tips: Sequence[str],
    note: str = "",
) -> Chart:  # fmt: skip
    """One bar for each name, None where the value is not known; tips: what is shown of each."""
    high = max((value for _, value in values if value is not None), default=1) * 1.05 or 1
    place_y = _scale(0, high, HEIGHT - BOTTOM, TOP)
    slot = (WIDTH - RIGHT - LEFT) / max(len(values), 1)
    centres = [LEFT + (i + 0.5) * slot for i in range(len(values))]
    bars = [
        Bar(round(centre - 0.4 * slot, 2), round(place_y(value), 1), round(0.8 * slot, 2),
            round(HEIGHT - BOTTOM - place_y(value), 1))
        for centre, (_, value) in zip(centres, values, strict=True) if value is not None
    ]  # fmt: skip
    every = max(1, math.ceil(len(values) / 8))
    return Chart(
        title, note, x_label, y_label,
        tuple(Tick(round(centres[i], 1), values[i][0]) for i in range(0, len(values), every)),
        tuple(Tick(round(place_y(y), 1), number(y)) for y in nice_ticks(0, high)),
        _spots(centres, tips), bars=tuple(bars),
    )  # fmt: skip


def stacked_chart(
    title: str, names: Sequence[str], parts: Sequence[tuple[str, int, Sequence[float]]], x_label: str, y_label: str,
    shown: Callable[[float], str] = number, note: str = "",
) -> Chart:  # fmt: skip
    """One bar for each name, made of parts from below: what each is called, the number of its colour, and how large it
    is in every bar."""
    totals = [sum(values[i] for *_, values in parts) for i in range(len(names))]
    tips = [
        f"{name}: {shown(totals[i])}\n" + "\n".join(f"{part}: {shown(values[i])}" for part, _, values in parts)
        for i, name in enumerate(names)
    ]
    whole = bar_chart(title, list(zip(names, totals, strict=True)), x_label, y_label, tips, note)
    bars = []
    for i, full in enumerate(whole.bars):
        bottom = full.top + full.height
        for _, colour, values in parts:
            height = full.height * values[i] / totals[i] if totals[i] else 0.0
            bottom -= height
            bars.append(Bar(full.left, round(bottom, 2), full.width, round(height, 2), colour))
    return replace(whole, bars=tuple(bars), parts=tuple((name, colour) for name, colour, _ in parts))


def _scale(least: float, most: float, start: float, end: float) -> Callable[[float], float]:
    span = most - least
    if not span:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - least) / span * (end - start)


def _spots(centres: Sequence[float], tips: Sequence[str]) -> tuple[Spot, ...]:
    """Areas that meet half way between neighbours."""
    edges = [LEFT, *((a + b) / 2 for a, b in itertools.pairwise(centres)), WIDTH - RIGHT]
    return tuple(
        Spot(round(at, 1), round(left, 1), round(right - left, 1), tip)
        for at, left, right, tip in zip(centres, edges, edges[1:], tips, strict=False)
    )
