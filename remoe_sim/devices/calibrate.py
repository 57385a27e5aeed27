"""Fitting numbers of a device card to measured runs, with intervals, residuals and a card that says so."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.devices.device import Device
from remoe_sim.devices.device import device as find_device
from remoe_sim.devices.estimate import estimate_one
from remoe_sim.devices.link import MOST
from remoe_sim.devices.machine import assembled
from remoe_sim.devices.measured_runs import LeftOut, Run, read_runs
from remoe_sim.models.model import model as find_model
from remoe_sim.util.cards import Fact
from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.models.sizes import SizedModel

SCHEMA = "remoe-sim.calibrate.v1"
SHARES = ("efficiency", "overlap_efficiency")
FITTABLE = (
    "efficiency", "overlap_efficiency", "layer_s", "expert_s", "step_s", "contention_bytes_per_s", "state_bytes_per_s",
    "host_bandwidth_bytes_per_s", "host.latency_s", "host.overhead_s", "host.bandwidth_bytes_per_s",
    "host.lane_bandwidth_bytes_per_s", "storage.latency_s", "storage.overhead_s", "storage.bandwidth_bytes_per_s",
    "storage.lane_bandwidth_bytes_per_s",
)  # fmt: skip
STARTS = {"contention_bytes_per_s": 4e9, "state_bytes_per_s": 1e10, "overhead_s": 2e-5, "overlap_efficiency": 0.9}
DEFAULT_FIT = ("efficiency", "layer_s", "expert_s")
UNDETERMINED = 2.0  # standard deviations (of logarithms) from which the runs say nothing of a number
OUTLIER = 0.1  # residuals (of logarithms) above this weigh less and less


@dataclass(frozen=True)
class Fitted:
    """A fitted number with its 95 % interval (from the curvature at the optimum), None where the runs say nothing of
    the number; before: what the card said."""

    name: str
    value: float
    low: float | None
    high: float | None
    before: float | None

    @property
    def interval(self) -> str:
        """The interval in words."""
        return "not determined" if self.low is None else f"{self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True, repr=False)
class Calibration(Shown):
    """A device whose card says what was fitted, and how well it predicts each run: blind, and with its compute time."""

    device: Device
    fitted: tuple[Fitted, ...]
    runs: tuple[Run, ...]
    predicted_ms: tuple[float, ...]
    with_compute_ms: tuple[float | None, ...]
    left_out: tuple[LeftOut, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row per run: measured and predicted time per token in ms, and errors as fractions of the measured."""
        import pandas as pd

        return pd.DataFrame(self._rows())

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim calibrate --json` prints."""
        return {
            **stamp(SCHEMA),
            "device": self.device.name,
            "fitted_from": self.device.fitted_from,
            "fitted": [vars(one) for one in self.fitted],
            "median_absolute_error": self.median_error,
            "median_absolute_error_with_compute": self.median_error_with_compute,
            "runs": self._rows(),
            "left_out": [vars(one) for one in self.left_out],
        }

    @property
    def median_error(self) -> float:
        """Of predictions without the run's compute time, of the very runs that were fitted."""
        return float(np.median([abs(row["error"]) for row in self._rows()]))

    @property
    def median_error_with_compute(self) -> float | None:
        """Of predictions with the run's compute time; None if no run has one."""
        errors = [abs(row["error_with_compute"]) for row in self._rows() if row["error_with_compute"] is not None]
        return float(np.median(errors)) if errors else None

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "id": run.id, "model": run.model, "top_k": run.top_k, "overlap": run.overlap, "lanes": run.lanes,
                "measured_ms": run.tpot_ms, "predicted_ms": blind, "error": blind / run.tpot_ms - 1,
                "compute_ms": run.compute_ms, "predicted_with_compute_ms": given,
                "error_with_compute": None if given is None else given / run.tpot_ms - 1,
            }
            for run, blind, given in zip(self.runs, self.predicted_ms, self.with_compute_ms, strict=True)
        ]  # fmt: skip


@lru_cache(maxsize=256)
def _sized(name: str, quant: str | None, top_k: int | None) -> SizedModel:
    return find_model(name, quant, top_k)


def predict_ms(run: Run, device: Device, with_compute: bool = False, misses_from: str | None = None) -> float:
    """The modelled time per token of a run on a device, in ms; with_compute: given its measured computing time.

    A device that was put together with no engine is taken with its own numbers, and the storage and host that it names.
    """
    whole = device if device.engine is not None else assembled(device, engine="generic")
    return estimate_one(
        _sized(run.model, run.quant, run.top_k), whole, overlap=run.overlap, lanes=run.lanes,
        hit_rate=run.hit_rate if run.bytes_per_token is None else None, bytes_per_token=run.bytes_per_token,
        compute_ms=run.compute_ms if with_compute else None, misses_from=misses_from,
    ).tpot_ms  # fmt: skip


def fit_devices(
    runs: Sequence[tuple[Run, Device]], names: Sequence[str], misses_from: str | None = None
) -> tuple[dict[str, Fact], tuple[Fitted, ...]]:
    """The named numbers, the same for all devices, fitted to runs by robust least squares (soft L1) on logarithms of
    ratios: as facts for `Device.changed`, and with intervals.

    A run counts with its time per token, and with its compute time, if it is known, once more given that. Raises
    ValueError for numbers that cannot be fitted or are more than the runs.
    """
    from scipy.optimize import least_squares

    device = runs[0][1]
    for name in names:
        if name not in FITTABLE or ("." in name and getattr(device, name.partition(".")[0]) is None):
            raise unknown(f"number to fit of device '{device.name}'", name, _fittable(device))
    if not names or len(runs) < len(names):
        raise ValueError(
            f"{len(names)} numbers cannot be fitted to {len(runs)} usable runs; name fewer with --fit or give more runs"
        )
    start = [_start(device, name) for name in names]

    def residuals(x: npt.NDArray[np.float64]) -> list[float]:
        facts = _facts(names, x)
        made = {one.name: one.changed(facts) for _, one in runs}
        asked = [(run, one, given) for given in (False, True) for run, one in runs if run.compute_ms or not given]
        return [
            math.log(predict_ms(run, made[one.name], given, misses_from) / run.tpot_ms) for run, one, given in asked
        ]

    found = least_squares(
        residuals, [_to_x(n, v) for n, v in zip(names, start, strict=True)], loss="soft_l1", f_scale=OUTLIER,
        diff_step=1e-3,
    )  # fmt: skip
    spread = _spread(found.jac, found.fun)
    fitted = []
    for name, x, deviation in zip(names, found.x, spread, strict=True):
        known = deviation < UNDETERMINED
        low, high = (_from_x(name, x + sign * 1.96 * deviation) if known else None for sign in (-1, 1))
        fitted.append(Fitted(name, _from_x(name, x), low, high, _card_value(device, name)))
    return _facts(names, found.x), tuple(fitted)


def calibrate(
    measurements: str | os.PathLike[str] | Sequence[Run],
    device: str | os.PathLike[str] | Device,
    fit: str | Sequence[str] = DEFAULT_FIT,
    name: str | None = None,
    model: str | None = None,
    quant: str | None = None,
    top_k: int | None = None,
    overlap: str = "layer",
    lanes: int | None = None,
    misses_from: str | None = None,
    hardware: str | None = None,
) -> Calibration:
    """Fit numbers of a device to measured runs.

    measurements: a CSV file of runs or an engine's metrics per token (`measurements`), or runs; device: the card to
    start from; fit: which of its numbers, a list or "efficiency,storage.latency_s"; name: of the new card; model,
    quant, top_k, overlap and lanes: what the file does not say; hardware: only rows whose hardware contains this text.

    Raises ValueError for what cannot be fitted, TraceError for a file that cannot be read.
    """
    start = device if isinstance(device, Device) else find_device(str(device))
    left_out: list[LeftOut] = []
    if isinstance(measurements, (str, os.PathLike)):
        runs, left_out = read_runs(measurements, model, quant, top_k, overlap, lanes)
        source = os.path.basename(os.fspath(measurements))
    else:
        runs, source = list(measurements), "runs given in Python"
    if hardware is not None:
        left_out += [LeftOut(run.id, f"other hardware: {run.hardware}") for run in runs if hardware not in run.hardware]
        runs = [run for run in runs if hardware in run.hardware]
    if not runs:
        raise ValueError(f"{source} has no run that can be used; see its columns model, tpot_ms, MiB_read_per_token")
    names = [one.strip() for one in fit.split(",")] if isinstance(fit, str) else list(fit)
    _, fitted = fit_devices([(run, start) for run in runs], names, misses_from)
    text = f"{len(runs)} runs of {source}: {', '.join(sorted({run.model for run in runs}))}"
    facts = {one.name: Fact(one.value, "fitted", f"{text}; 95 % interval {one.interval}") for one in fitted}
    made = start.changed(facts, name=name or f"{start.name}-fitted", fitted_from=text)
    return Calibration(
        made, fitted, tuple(runs), tuple(predict_ms(run, made, False, misses_from) for run in runs),
        tuple(predict_ms(run, made, True, misses_from) if run.compute_ms else None for run in runs), tuple(left_out),
    )  # fmt: skip


def _fittable(device: Device) -> list[str]:
    return [name for name in FITTABLE if "." not in name or getattr(device, name.partition(".")[0]) is not None]


def _card_value(device: Device, name: str) -> float | None:
    link, _, field = name.rpartition(".")
    value = getattr(getattr(device, link) if link else device, field)
    return None if value is None else float(value)


def _start(device: Device, name: str) -> float:
    value = _card_value(device, name)
    field = name.rpartition(".")[2]
    if value and not (name in SHARES and value == 1):
        return value
    if field == "lane_bandwidth_bytes_per_s":
        return _start(device, name.replace("lane_bandwidth", "bandwidth"))
    return STARTS.get(field, 1e-5)


def _to_x(name: str, value: float) -> float:
    return math.log(value / (1 - value)) if name in SHARES else math.log(value)


def _from_x(name: str, x: float) -> float:
    """A number that a card may have, however far a fit goes: beyond the limits nothing changes any more."""
    if name in SHARES:
        return 1 / (1 + math.exp(-min(max(x, -50.0), 50.0)))
    return min(max(math.exp(min(max(x, -60.0), 60.0)), 1 / MOST), MOST)


def _facts(names: Sequence[str], x: npt.NDArray[np.float64]) -> dict[str, Fact]:
    return {name: Fact(_from_x(name, one), "fitted", "measured runs") for name, one in zip(names, x, strict=True)}


def _spread(jacobian: npt.NDArray[np.float64], residuals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Standard deviations from the curvature; infinite where the runs say nothing of a number."""
    freedom = max(residuals.size - jacobian.shape[1], 1)
    variance = float((residuals**2).sum()) / freedom
    values, vectors = np.linalg.eigh(jacobian.T @ jacobian)
    known = values > 1e-9 * values.max(initial=0.0)
    inverse = 1 / np.where(known, values, np.inf)
    spread: npt.NDArray[np.float64] = np.sqrt(variance * ((vectors**2) * inverse).sum(axis=1))
    free = (vectors[:, ~known] ** 2).sum(axis=1) > 1e-6  # it can move without any residual that moves
    spread[free] = np.inf
    return spread
