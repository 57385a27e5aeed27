"""One measured time per token, and which of the modelled times it corrects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from remoe_sim.devices.costs import Costs
from remoe_sim.util.units import parse_ms

ROUNDS = 60
CLOSE = 1e-9  # of the measured time
FAR = 3.0  # a factor beyond it, or beyond its inverse, says that something else differs


@dataclass(frozen=True)
class Scale:
    """Factors of modelled times: computing (dense layers, experts, fixed times) and reading (links)."""

    measured_ms: float
    computing: float = 1.0
    reading: float = 1.0

    @property
    def sentence(self) -> str:
        """What was scaled and by how much."""
        scaled = [f"{name} times by {value:.3g}" for name, value in self._factors if value != 1]
        how = f"scaling {' and '.join(scaled)}" if scaled else "the modelled times as they are"
        sentence = f"the measured {self.measured_ms:g} ms result from {how}"
        if any(not 1 / FAR <= value <= FAR for _, value in self._factors):
            sentence += "; that is far, so look whether the machine, the engine and the hit rate are those of the run"
        return sentence

    @property
    def _factors(self) -> tuple[tuple[str, float], ...]:
        return ("computing", self.computing), ("reading", self.reading)

    def of(self, costs: Costs) -> Costs:
        """Costs with these factors, and a sentence about them in the notes."""
        costs = self.silent(costs)
        return replace(costs, notes=(*costs.notes, self.sentence))

    def silent(self, costs: Costs) -> Costs:
        """Costs with these factors."""
        costs = costs.scaled(self.computing)
        return costs if self.reading == 1 else replace(costs, link=costs.link * self.reading)

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        return {"measured_tpot_ms": self.measured_ms, "computing_times": self.computing, "reading_times": self.reading}


def check_measured(measured: Any, compute_ms: Any) -> float | None:
    """Milliseconds of what was given, such as "55ms"; ValueError for what is not possible."""
    if measured is None:
        return None
    if compute_ms is not None:
        raise ValueError("a measured TPOT and a computing time both say how long computing takes; give one of them")
    found = parse_ms(measured, "measured TPOT")
    if not found > 0:
        raise ValueError(f"measured TPOT {measured!r} is not possible; give a time above 0, such as 55ms")
    return found


def scale_to(measured_ms: float, costs: Costs, tpot: Callable[[Costs], float]) -> Scale:
    """The factors with which a run takes the measured time.

    Computing times are scaled, for reads have rates of their own; reading times are where they alone would take longer
    than was measured, and both where computing alone would too. tpot: ms of the run with other costs.
    """

    def reaches(least: Scale, of: Callable[[float], Scale]) -> Scale | None:
        def takes(factor: float) -> float:
            return tpot(of(factor).silent(costs))

        return of(_root(takes, measured_ms)) if tpot(least.silent(costs)) < measured_ms else None

    found = reaches(Scale(measured_ms, computing=0.0), lambda one: Scale(measured_ms, computing=one))
    found = found or reaches(Scale(measured_ms, reading=0.0), lambda one: Scale(measured_ms, reading=one))
    return found or Scale(measured_ms, *[measured_ms / tpot(costs)] * 2)


def _root(takes: Callable[[float], float], wanted: float) -> float:
    """The factor with which a time that rises with it is as wanted; at 0 it is less."""
    low, high = 0.0, 1.0
    below, above = takes(low) - wanted, takes(high) - wanted
    while above < 0 and high < 1e12:
        low, below = high, above
        high *= 2
        above = takes(high) - wanted
    if above < 0:
        raise ValueError(f"no factor of the modelled times makes the measured {wanted:g} ms; check model and device")
    kept = 0
    for _ in range(ROUNDS):  # false position; an end that stays twice counts for half
        if above == below:
            break
        middle = (low * above - high * below) / (above - below)
        off = takes(middle) - wanted
        if abs(off) <= CLOSE * wanted:
            return middle
        if off > 0:
            high, above = middle, off
            below = below / 2 if kept == 1 else below
            kept = 1
        else:
            low, below = middle, off
            above = above / 2 if kept == -1 else above
            kept = -1
    return high
