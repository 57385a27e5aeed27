"""Differences of ratios with intervals: the studentised bootstrap over requests, for many ratios at once.

A ratio is Σy / Σx over requests, which differ much in length, so its distribution is skewed. The bootstrap-t interval
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5) divides each resampled difference by a
standard error of its own, from the linearised ratio (Cochran, Sampling Techniques, 1977, section 6.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
COUNTS_AT_ONCE = 1 << 21  # numbers of a matrix of resamples


@dataclass(frozen=True)
class Ratios:
    """Numerators and denominators, float64[ratios, requests]."""

    y: Reals
    x: Reals

    @property
    def values(self) -> Reals:
        """float64[ratios]; NaN over nothing."""
        with np.errstate(invalid="ignore", divide="ignore"):
            values: Reals = self.y.sum(axis=1) / self.x.sum(axis=1)
        return values


@dataclass(frozen=True)
class Differences:
    """b − a of every ratio: value and standard error, float64[ratios], and t float64[ratios, resamples], sorted:
    resampled differences from the value, in their own standard errors; NaN where a resample divides by nothing."""

    value: Reals
    error: Reals
    t: Reals

    def interval(self, at: int, alpha: float) -> tuple[float, float] | None:
        """Both ends of the 1 − alpha interval of one ratio; None where there is none to be had."""
        value, error, t = float(self.value[at]), float(self.error[at]), self.t[at]
        t = t[~np.isnan(t)]
        if error == 0.0:
            return value, value
        if not np.isfinite(error) or not t.size:
            return None
        below, above = np.quantile(t, (alpha / 2, 1 - alpha / 2))
        return value - float(above) * error, value - float(below) * error

    def p_value(self, at: int) -> float | None:
        """The smallest alpha whose interval leaves zero out, both sides, never below 2 / (resamples + 1)."""
        value, error, t = float(self.value[at]), float(self.error[at]), self.t[at]
        t = t[~np.isnan(t)]
        if error == 0.0:
            return 1.0 if value == 0.0 else 2.0 / (t.size + 1)
        if not np.isfinite(error) or not t.size:
            return None
        beyond = min(int(np.count_nonzero(t <= value / error)), int(np.count_nonzero(t >= value / error)))
        return min(1.0, float(2 * (beyond + 1) / (int(t.size) + 1)))


def differences(a: Ratios, b: Ratios, paired: bool, resamples: int, seed: int) -> Differences:
    """The differences b − a; paired: request number i is the same in both, and is drawn in both or in neither."""
    rng = np.random.default_rng(seed)
    sides = [_Side(a), _Side(b)]
    value = b.values - a.values
    blocks = []
    left = resamples
    most = max(1, COUNTS_AT_ONCE // max(a.x.shape[1], b.x.shape[1]))
    while left:
        many = min(left, most)
        drawn_a = _drawn(rng, a.x.shape[1], many)
        drawn_b = drawn_a if paired else _drawn(rng, b.x.shape[1], many)
        blocks.append(_moved(sides, (drawn_a, drawn_b), paired))
        left -= many
    once = tuple(np.ones((1, side.x.shape[1])) for side in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(_moved(sides, once, paired)[1][:, 0])
        moved, variance = (np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True))
        t = np.where((variance == 0) & (moved == 0), 0.0, moved / np.sqrt(variance))
    t[np.isinf(t)] = np.nan
    return Differences(value, error, np.sort(t, axis=1))


def _drawn(rng: np.random.Generator, count: int, resamples: int) -> Reals:
    """float64[resamples, count]: how often each request is drawn."""
    return rng.multinomial(count, np.full(count, 1 / count), resamples).astype(np.float64)


class _Side:
    """One side's ratios, whose numerators are replaced by residuals e = y − r x and whose denominators sum to 1, so
    that sums of squares lose no digits; ratio of a resample = r + Σe / Σx."""

    def __init__(self, ratios: Ratios) -> None:
        with np.errstate(invalid="ignore", divide="ignore"):
            total = ratios.x.sum(axis=1, keepdims=True)
            self.x = ratios.x / total
            self.e = (ratios.y - ratios.values[:, None] * ratios.x) / total


def _moved(sides: list[_Side], drawn: tuple[Reals, ...], paired: bool) -> tuple[Reals, Reals]:
    """float64[ratios, resamples] each: how far every difference moves, and its variance."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shifts, totals, variances = [], [], []
        for side, times in zip(sides, drawn, strict=True):
            e, x, ee, ex, xx = (
                part @ times.T for part in (side.e, side.x, side.e**2, side.e * side.x, side.x**2)
            )  # fmt: skip
            shift = e / x
            shifts.append(shift)
            totals.append(x)
            variances.append(_unbiased(times) * (ee - 2 * shift * ex + shift**2 * xx) / x**2)
        variance = variances[0] + variances[1]
        if paired:
            (a, b), (shift_a, shift_b), times = sides, shifts, drawn[0]
            products = (a.e * b.e, a.e * b.x, a.x * b.e, a.x * b.x)
            ee, ex, xe, xx = (part @ times.T for part in products)
            together = ee - shift_b * ex - shift_a * xe + shift_a * shift_b * xx
            variance -= 2 * _unbiased(times) * together / (totals[0] * totals[1])
    return shifts[1] - shifts[0], np.maximum(variance, 0.0)


def _unbiased(times: Reals) -> float:
    """n / (n − 1); infinite for one request, whose spread nobody knows."""
    count = times.shape[1]
    return count / (count - 1) if count > 1 else np.inf
