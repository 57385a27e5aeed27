"""The answer of `compare`: differences with intervals, adjusted for their number, and a verdict in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from remoe_sim.studies.bootstrap import FEWEST, Differences
from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.units import percent

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "remoe-sim.compare.v1"
POWER = 0.8  # how often the number of requests that are needed would show a difference of the observed size
FEW = 10  # requests, below which intervals are rough


@dataclass(frozen=True)
class ComparedTrace:
    """One side: its trace, as every JSON answer describes it, and how many of its requests were compared."""

    trace: dict[str, Any]
    requests: int


@dataclass(frozen=True)
class Difference:
    """One number of both sides. reuse_rate and hit_rate are fractions, misses_per_token and bytes_read_per_token are of
    decode tokens, tpot_ms is their mean time. a_of, b_of: what a and b are divided by, summed over requests: wanted
    experts, lookups, or decode tokens. interval: of the difference b − a, at `confidence`; p_value: unadjusted;
    p_adjusted: by Holm, None for the verdict's; None where something is over nothing or of too few requests."""

    metric: str
    layer: int | None
    policy: str | None
    capacity: dict[str, int] | None
    a: float | None
    b: float | None
    standard_error: float | None
    interval: tuple[float, float] | None
    confidence: float
    p_value: float | None
    at: int
    a_of: float | None = None
    b_of: float | None = None
    p_adjusted: float | None = None

    @property
    def difference(self) -> float | None:
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def shown(self) -> bool | None:
        """Whether the interval leaves out zero; None without an interval."""
        return None if self.interval is None else not self.interval[0] <= 0.0 <= self.interval[1]

    def factor(self, alpha: float) -> float | None:
        """How many times as many requests would show a difference of this size; None where it is zero or unknown."""
        from scipy.stats import norm

        if not self.difference or self.standard_error is None:
            return None
        z = norm.ppf(1 - alpha / 2) + norm.ppf(POWER)
        return float((z * self.standard_error / self.difference) ** 2)

    def to_dict(self) -> dict[str, Any]:
        names = ("metric", "layer", "policy", "capacity", "a", "a_of", "b", "b_of", "difference", "standard_error")
        return {name: getattr(self, name) for name in names} | {
            "interval": None if self.interval is None else list(self.interval),
            "confidence": self.confidence,
            "p_value": self.p_value,
            "p_adjusted": self.p_adjusted,
            "difference_shown": self.shown,
        }


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """What `compare` found. settings: scope, admission and reset of both sides, and what times are of; verdict: pooled
    adjacent reuse; others: everything else, layers last."""

    a: ComparedTrace
    b: ComparedTrace
    paired: bool
    pairing: str
    confidence: float
    resamples: int
    seed: int
    verdict: Difference
    others: tuple[Difference, ...]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def difference_shown(self) -> bool | None:
        """The verdict: None if no interval could be had."""
        return self.verdict.shown

    @property
    def metrics(self) -> tuple[Difference, ...]:
        """The others that are of all layers."""
        return tuple(one for one in self.others if one.layer is None)

    @property
    def layers(self) -> tuple[Difference, ...]:
        """Adjacent reuse layer by layer."""
        return tuple(one for one in self.others if one.layer is not None)

    @property
    def requests_needed(self) -> dict[str, int] | None:
        """Requests of either side that would show a difference of the observed size with a probability of 80 %."""
        factor = self.verdict.factor(1 - self.confidence)
        if factor is None:
            return None
        return {"a": max(FEWEST, ceil(factor * self.a.requests)), "b": max(FEWEST, ceil(factor * self.b.requests))}

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        one = self.verdict
        if one.a is None or one.b is None or one.difference is None:
            return "Cannot tell: a trace has no decode token that follows another, so there is no reuse to compare."
        rates = f"{percent(one.b)} of {one.b_of:,.0f} in B and {percent(one.a)} of {one.a_of:,.0f} in A"
        if one.interval is None and one.p_value is not None:
            return (
                f"Cannot tell: reuse is {rates}, and differs by the same in all requests, which has a probability of "
                f"{one.p_value:.4f} if models are equal; record more requests."
            )
        if one.interval is None:
            return (
                f"Cannot tell: reuse is {rates}, but an interval takes at least {FEWEST} requests on each side with "
                "decode tokens that follow another."
            )
        span = f"{100 * one.interval[0]:+.2f} to {100 * one.interval[1]:+.2f}"
        points = f"a difference of {100 * one.difference:+.2f} points ({100 * self.confidence:g} % interval {span})"
        if one.shown:
            return f"B reuses {'more' if one.difference > 0 else 'fewer'} experts than A: {rates}, {points}."
        needed = self.requests_needed
        if needed is None:
            return f"No difference shown: reuse is {rates}, {points}."
        counts = f"{needed['a']:,} requests" if self.paired else f"{needed['a']:,} and {needed['b']:,} requests"
        return (
            f"No difference shown: reuse is {rates}, {points}. To show one of this size in four of five experiments "
            f"would take about {counts}."
        )

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim compare --json` prints."""
        return {
            **stamp(SCHEMA),
            "a": {**self.a.trace, "requests_compared": self.a.requests},
            "b": {**self.b.trace, "requests_compared": self.b.requests},
            "paired": self.paired,
            "pairing": self.pairing,
            **self.settings,
            "confidence": self.confidence,
            "resamples": self.resamples,
            "seed": self.seed,
            "verdict": {**self.verdict.to_dict(), "requests_needed": self.requests_needed, "sentence": self.sentence},
            "adjusted_for": len(self.others),
            "metrics": [one.to_dict() for one in self.metrics],
            "layers": [one.to_dict() for one in self.layers],
            "notes": list(self.notes),
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per difference, the verdict's first."""
        import pandas as pd

        rows = []
        for one in (self.verdict, *self.others):
            row = one.to_dict()
            low, high = row.pop("interval") or (None, None)
            unit, capacity = next(iter((row.pop("capacity") or {None: None}).items()))
            rows.append({**row, "low": low, "high": high, "capacity": capacity, "capacity_unit": unit})
        return pd.DataFrame(rows)

    def _sentence(self) -> str:
        return self.sentence


def adjusted(others: list[Difference], found: Differences, alpha: float) -> tuple[Difference, ...]:
    """Differences with intervals and p-values adjusted for their number, step by step (Holm, Scandinavian Journal of
    Statistics, 1979).

    The i-th smallest of m p-values is held against alpha / (m − i + 1) until one is larger, and so are all behind it;
    the interval of each has the level that its p-value was held against, so it leaves out zero if that was smaller.
    """
    order = sorted(range(len(others)), key=lambda at: (others[at].p_value is None, others[at].p_value or 0.0))
    known = sum(one.p_value is not None for one in others)
    done = list(others)
    largest, level, going = 0.0, alpha, True
    for rank, at in enumerate(order[:known]):
        one = others[at]
        assert one.p_value is not None
        largest = max(largest, min(1.0, one.p_value * (known - rank)))
        if going:
            level = alpha / (known - rank)
            going = largest <= alpha
        interval = found.interval(one.at, level)
        done[at] = replace(one, interval=interval, confidence=1 - level, p_adjusted=largest)
    return tuple(done)
