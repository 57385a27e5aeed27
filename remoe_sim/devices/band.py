"""Bands around predicted times: how far measured times of comparable runs were from their predictions.

`errors.csv` has a row per class of runs, made by `benchmarks/fidelity/errors.py`: 80 % of the runs of a class were
between `low` and `high` times what was predicted for them without their hardware, model and top-k.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remoe_sim.devices.costs import Costs
    from remoe_sim.devices.device import Device
    from remoe_sim.devices.steps import Reads

COVERAGE = 0.8
LEAST_RUNS = 8  # of a class; with fewer the band is that of all runs
ALL, GIVEN = "all", "compute time given"


@dataclass(frozen=True)
class Errors:
    """A class of runs: 80 % of them took between low and high times what was predicted."""

    runs: int
    low: float
    high: float


@dataclass(frozen=True)
class Band:
    """Where 80 % of comparable runs were, in the unit of the time that it belongs to.

    of: the class; remark: why the band is that of all runs, or None
    """

    low: float
    high: float
    runs: int
    of: str
    remark: str | None
    coverage: float = COVERAGE

    @property
    def sentence(self) -> str:
        """The band in words, of milliseconds."""
        return f"{100 * self.coverage:.0f} % of comparable runs within {_short(self.low)} to {_short(self.high)} ms"

    def widened(self, milliseconds: float, best: float, worst: float) -> Band:
        """The band of a time that itself is only known to be between best and worst, as if both errors were
        independent."""
        low, high = math.log(self.low / milliseconds), math.log(self.high / milliseconds)
        middle, half = (low + high) / 2, (high - low) / 2
        down = math.hypot(half, math.log(milliseconds / min(best, milliseconds)))
        up = math.hypot(half, math.log(max(worst, milliseconds) / milliseconds))
        ends = milliseconds * math.exp(middle - down), milliseconds * math.exp(middle + up)
        return replace(self, low=ends[0], high=ends[1])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"low": self.low, "high": self.high, "coverage": self.coverage, "runs": self.runs, "class": self.of,
                "remark": self.remark}  # fmt: skip


def class_of(device: Device, residency: str, compute_known: bool) -> str:
    """The class of a prediction: where missing experts come from (`resident` if none are missing), whether numbers of
    the device or its engine were fitted to runs, whether the computing time was given, and for a CPU that computes
    experts whether its host has a card."""
    engine = getattr(device, "engine", None)
    was_fitted = device.fitted_from is not None or (engine is not None and engine.fitted_from is not None)
    words = [residency, "fitted" if was_fitted else "card"]
    if compute_known:
        return " ".join([*words, GIVEN])
    if residency == "cpu":
        words.append("host known" if getattr(device, "host_card", None) is not None else "host unknown")
    return " ".join(words)


def band_around(
    milliseconds: float, device: Device, costs: Costs, reads: Reads, compute_ms: float | None
) -> Band:  # fmt: skip
    """The band around the mean time of a run whose reads are known."""
    place = costs.misses_from if reads.far.any() or reads.near.any() else "resident"
    return band_of(milliseconds, class_of(device, place, compute_ms is not None))


def all_of(of: str) -> str:
    """The class of all runs whose numbers were found as those of a class were, wherever their misses come from."""
    if of.endswith(GIVEN):
        return f"{ALL} {GIVEN}"
    return f"{ALL} {of.split()[1]}"


def band_of(milliseconds: float, of: str) -> Band:
    """The band around a predicted time of a class."""
    table = errors()
    found, remark = table.get(of), None
    if found is None or found.runs < LEAST_RUNS:
        few, found = 0 if found is None else found.runs, table[all_of(of)]
        known = f"{few} run{' is' if few == 1 else 's are'} known" if few else "no run is known"
        remark = f"the band is that of all {found.runs} runs, as of this kind ({of}) {known}"
    return Band(milliseconds * found.low, milliseconds * found.high, found.runs, of, remark)


@lru_cache(maxsize=1)
def errors() -> dict[str, Errors]:
    """What `errors.csv` says, by class."""
    text = files("remoe_sim").joinpath("devices/errors.csv").read_text("utf-8")
    return {
        row["class"]: Errors(int(row["runs"]), float(row["low"]), float(row["high"]))
        for row in csv.DictReader(text.splitlines())
    }


def _short(milliseconds: float) -> str:
    return f"{milliseconds:,.{2 if milliseconds < 10 else 1 if milliseconds < 100 else 0}f}"
