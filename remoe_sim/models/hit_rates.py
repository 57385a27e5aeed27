"""Hit rates without a trace: published and replayed LRU curves of models, kept as `curves/MODEL.csv`.

A curve says which share of the lookups of decode hits when a share of the routed experts fits into the cache. Between
known points the exponent `ln(1 - hit rate) / ln(1 - share)` is interpolated, so that nothing hits without a cache and
everything with a cache of all experts. Below the first point it is kept; above the last it falls as it does on long
curves.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING

from remoe_sim.util.display import Shown
from remoe_sim.util.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.models.sizes import SizedModel

POLICY = "lru"  # the one policy of which there are enough curves
NEAREST = 5  # models whose curves stand for one that has none
LEAST_POINTS = 4  # of a model that may stand for others
SPREAD, SPREAD_OF_OTHERS = 0.07, 0.15  # by which a model differs between prompts and engines, and from those near it
STEPS = 200
FADES = 0.3  # above the last point the exponent falls as (share / last share) ** -FADES: 0.29 and 0.33 on long curves
ADVICE = "record a trace of your own model and text with 'remoe-sim capture' or 'remoe-sim import', and replay it"
_LEAST, _MOST = 1e-4, 1 - 1e-4


@dataclass(frozen=True)
class KnownRates:
    """Points of one source: shares of the experts that fit, ascending, and the hit rates there.

    experts: of a layer; top_k: experts per token of that run, which may be fewer than the model's.
    """

    model: str
    experts: int
    top_k: int
    shares: tuple[float, ...]
    rates: tuple[float, ...]
    label: str
    kind: str
    source: str

    def at(self, share: float) -> float:
        """The hit rate where that share of the experts fits."""
        if share <= 0 or share >= 1:
            return float(share >= 1)
        powers = [_power(known, rate) for known, rate in zip(self.shares, self.rates, strict=True)]
        last = self.shares[-1]
        if share > last:
            return max(self.rates[-1], 1 - math.pow(1 - share, powers[-1] * (share / last) ** -FADES))
        power = _between(math.log(share), [math.log(known) for known in self.shares], powers)
        return 1 - math.pow(1 - share, power)

    def covers(self, share: float) -> bool:
        """Whether the share is between its points, or near one of them."""
        return self.shares[0] / 1.5 <= share <= 1 - (1 - self.shares[-1]) / 1.5


def _power(share: float, rate: float) -> float:
    return math.log(1 - min(max(rate, _LEAST), _MOST)) / math.log(1 - share)


def _between(x: float, xs: list[float], ys: list[float]) -> float:
    """Linear between known points, constant below them."""
    if x <= xs[0] or len(xs) == 1:
        return ys[0]
    for left, right, low, high in zip(xs, xs[1:], ys, ys[1:], strict=False):
        if x <= right:
            return low + (high - low) * (x - left) / (right - left)
    return ys[-1]


@dataclass(frozen=True)
class HitRate:
    """An expected hit rate of decode with the range in which such rates were found, and whose curves it is from."""

    rate: float
    low: float
    high: float
    source: str


@dataclass(frozen=True, repr=False)
class HitRateCurve(Shown):
    """What is known of the hit rate of a model under LRU.

    own: whether the curves are of this model; else they are of the nearest ones by experts and top-k.
    """

    model: str
    own: bool
    series: tuple[KnownRates, ...]
    source: str

    def at(self, share: float) -> HitRate:
        """The hit rate where that share of all routed experts fits; 0 below and 1 above what is possible.

        Raises ValueError for a share that is not from 0 to 1.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"a share of {share} of the experts is not possible; give a number from 0 to 1")
        if share == int(share):
            return HitRate(share, share, share, self.source)
        step = share * STEPS
        below, part = int(step), step % 1
        known = self._known
        ends = (known[below], known[min(below + 1, STEPS)])
        rate, low, high = (left + part * (right - left) for left, right in zip(*ends, strict=True))
        return HitRate(rate, low, high, self.source)

    @cached_property
    def _known(self) -> list[tuple[float, float, float]]:
        """The rate, lowest and highest at every share in STEPS; none falls where more experts fit."""
        found = [(0.0, 0.0, 0.0)]
        for step in range(1, STEPS):
            before, now = found[-1], self._apart(step / STEPS)
            found.append((max(before[0], now[0]), max(before[1], now[1]), max(before[2], now[2])))
        return [*found, (1.0, 1.0, 1.0)]

    def _apart(self, share: float) -> tuple[float, float, float]:
        near = [one for one in self.series if one.covers(share)] or list(self.series)
        by_model = [[one.at(share) for one in group] for _, group in groupby(near, lambda one: one.model)]
        rates = [median(rates) for rates in by_model]
        rate, spread = median(rates), SPREAD if self.own else SPREAD_OF_OTHERS
        seen = [one for rates in by_model for one in rates]
        return rate, max(0.0, min(*seen, rate - spread)), min(1.0, max(*seen, rate + spread))

    def to_frame(self) -> pd.DataFrame:
        """One row per share from 0 to 1 in steps of 0.01: share, hit_rate, low, high."""
        import pandas as pd

        found = [(step / 100, self.at(step / 100)) for step in range(101)]
        rows = [{"share": share, "hit_rate": one.rate, "low": one.low, "high": one.high} for share, one in found]
        return pd.DataFrame(rows)


@cache
def all_series() -> dict[str, tuple[KnownRates, ...]]:
    """Every curve that is kept, by model; one file each."""
    found: dict[str, tuple[KnownRates, ...]] = {}
    for file in sorted(files("remoe_sim.models").joinpath("curves").iterdir(), key=lambda one: one.name):
        if file.name.endswith(".csv"):
            name = file.name.removesuffix(".csv")
            found[name] = tuple(_series(name, list(csv.DictReader(file.read_text("utf-8").splitlines()))))
    return found


def _run(row: dict[str, str]) -> list[str]:
    return [row[part] for part in ("source", "engine", "workload", "scope", "experts", "top_k", "kind")]


def _series(model: str, rows: list[dict[str, str]]) -> list[KnownRates]:
    found = []
    for key, group in groupby(sorted(rows, key=_run), _run):
        points: dict[float, list[float]] = {}
        for row in group:
            points.setdefault(float(row["share"]), []).append(float(row["hit_rate"]))
        source, engine, workload, scope, experts, top_k, kind = key
        shares = tuple(sorted(points))
        rates = tuple(sum(points[share]) / len(points[share]) for share in shares)
        label = ", ".join(filter(None, (engine, workload, f"scope {scope}")))
        found.append(KnownRates(model, int(experts), int(top_k), shares, rates, label, kind, source))
    return found


def hit_rate_curve(model: str | SizedModel, policy: str = POLICY, *, without: str | None = None) -> HitRateCurve:
    """Return what is known of a model's hit rate when no trace of it is at hand.

    model: a name that `remoe-sim list models` shows, or a sized model
    policy: `lru`, of which there are curves
    without: a model whose curves are not used, to see what would be said if there were none

    Raises ValueError for another policy or an unknown model.

    >>> curve = hit_rate_curve("qwen3-30b-a3b")
    >>> 0.6 < curve.at(0.25).rate < 0.9
    True
    """
    if policy != POLICY:
        raise unknown("policy with known curves", policy, (POLICY,))
    if isinstance(model, str):
        from remoe_sim.models.model import model as find_model

        model = find_model(model)
    known = {name: series for name, series in all_series().items() if name != without}
    own = known.get(model.name)
    if own is not None:  # runs with fewer experts per token hit more often
        own = tuple(one for one in own if one.top_k == model.top_k) or own
    if own is not None:
        return HitRateCurve(model.name, True, own, f"{_count(own)} of {model.name}; {ADVICE}")

    def distance(name: str) -> float:
        like = known[name][0]
        sizes = (like.experts / model.experts, like.top_k / like.experts * model.experts / model.top_k)
        return math.hypot(*(math.log2(size) for size in sizes))

    many = [name for name, ones in known.items() if sum(len(one.shares) for one in ones) >= LEAST_POINTS]
    names = sorted(sorted(many, key=distance)[:NEAREST])
    series = tuple(one for name in names for one in known[name])
    near = f"{_count(series)} of the nearest models by experts and top-k, {', '.join(names)}"
    source = f"no curve of {model.name}; {near}; {ADVICE}"
    return HitRateCurve(model.name, False, series, source)


def _count(series: tuple[KnownRates, ...]) -> str:
    points = sum(len(one.shares) for one in series)
    return f"{points} published or replayed LRU hit rate{'s' * (points > 1)}"
