"""Differences of ratios with intervals: a t statistic over requests, and what it would be by chance.

A ratio is Σy / Σx over requests: the mean of their rates y / x, weighted by their lengths x. The standard error of a
difference is the linearised one (Cochran, Sampling Techniques, 1977, section 6.4), with each squared residual corrected
for the weight of its request (CR2; Bell and McCaffrey, Survey Methodology, 2002).

Student's table does not hold where one long request weighs more than all others. So t is compared with what it would
be for requests of the same weights, if their rates were normal with one spread per side and, in pairs, one
correlation, all of which are estimated. With pairs of equal lengths that is Student's t. Otherwise directions of the
residuals are drawn, and the rest is exact: given a direction, the difference over the length of the residuals is a
Student's t, and |t| is beyond a bound outside, or between, the two roots of a quadratic.

p-values and intervals come from the same function, so they cannot contradict each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, lgamma, log, nextafter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
NORMALS_AT_ONCE = 1 << 21  # numbers of a matrix of draws
FEWEST = 4  # requests on each side, below which there is no interval
NOTHING = 1e-10  # of the larger ratio: a smaller standard error or difference is a rounding error
LARGEST = 100.0  # logarithm of the largest t
CLOSEST = 0.99  # correlation of pairs


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
    """Hold b − a of every ratio, and what its t is by chance.

    value, error: float64[ratios], the difference and its standard error; NaN without one
    without_spread: float64[ratios], the p-value where all requests differ by the same
    square, cross: float64[ratios, resamples]; own: float64[ratios]. The squared standard error is square + 2 cross s +
    own s² where the difference is s, in units of the length of the residuals
    freedom: float64[ratios], degrees of freedom of that length
    """

    value: Reals
    error: Reals
    without_spread: Reals
    square: Reals
    cross: Reals
    own: Reals
    freedom: Reals

    def interval(self, at: int, alpha: float) -> tuple[float, float] | None:
        """Both ends of the 1 − alpha interval of one ratio; None where there is none to be had."""
        p, value, error = self.p_value(at), float(self.value[at]), float(self.error[at])
        if p is None:
            return None
        if error == 0.0:
            return (value, value) if value == 0.0 or p <= alpha else None
        if alpha < self._resolution(at):
            return None
        half = self._bound(at, alpha) * error
        half = min(half, nextafter(abs(value), 0.0)) if p <= alpha else max(half, abs(value))
        return value - half, value + half

    def p_value(self, at: int) -> float | None:
        """The smallest alpha whose interval leaves zero out."""
        value, error = float(self.value[at]), float(self.error[at])
        if not np.isfinite(error):
            return None
        if error == 0.0:
            return 1.0 if value == 0.0 else float(self.without_spread[at])
        return self._beyond(at, abs(value) / error)

    def _beyond(self, at: int, t: float) -> float:
        """The probability of a |t| beyond this one: of s² > t² (square + 2 cross s + own s²)."""
        from scipy.special import stdtr

        freedom, square, cross = self.freedom[at], self.square[at], self.cross[at]
        if np.ptp(square) <= 1e-9 * square[0] and np.max(np.abs(cross)) <= 1e-9 * np.sqrt(square[0]):
            square, cross = square[:1], cross[:1]  # weights are equal, and all directions are the same
        a, b, c = 1 - t**2 * self.own[at], -2 * t**2 * cross, -(t**2) * square
        under = b**2 - 4 * a * c
        with np.errstate(invalid="ignore", divide="ignore"):
            q = -(b + np.copysign(np.sqrt(np.maximum(under, 0.0)), b)) / 2  # loses no digits
            roots = np.sort(np.nan_to_num([q / a, c / q], posinf=np.inf, neginf=-np.inf), axis=0) * np.sqrt(freedom)
        below, above = stdtr(freedom, roots[0]), stdtr(freedom, -roots[1])
        if a > 0:
            return min(1.0, float(np.mean(below + above)))
        found = float(np.mean(np.where(under > 0, np.maximum(1.0 - below - above, 0.0), 0.0)))
        return max(found, self._resolution(at))

    def _resolution(self, at: int) -> float:
        """The smallest p-value that the draws can tell: beyond this |t| only few directions, or none, say more."""
        own = float(self.own[at])
        if own <= 0:
            return 0.0
        furthest: float = self._beyond(at, (1 - 1e-9) / own**0.5)
        return min(1.0 / float(self.square.shape[1] + 1), furthest)

    def _bound(self, at: int, alpha: float) -> float:
        """The |t| that is exceeded with probability alpha."""
        from scipy.optimize import brentq
        from scipy.special import stdtrit

        def away(log_t: float) -> float:
            return log(max(self._beyond(at, exp(log_t)), 1e-300) / alpha)

        student = log(max(-stdtrit(self.freedom[at], alpha / 2), 1e-3))
        low, high = student - 0.1, student + 0.2
        while away(low) < 0:
            low -= 1.0
        while away(high) > 0 and high < LARGEST:
            high += 1.0
        if high >= LARGEST:
            return exp(high)
        return exp(float(brentq(away, low, high, xtol=1e-8)))


def differences(a: Ratios, b: Ratios, paired: bool, resamples: int, seed: int) -> Differences:
    """The differences b − a; paired: request number i is the same in both. resamples: directions that are drawn."""
    sides = [_Side.of(one) for one in (a, b)]
    counts = [np.count_nonzero(side.w, axis=1) for side in sides]
    scale = np.fmax(np.abs(a.values), np.abs(b.values))
    value = b.values - a.values
    value[np.abs(value) <= NOTHING * scale] = 0.0
    if paired:
        sides = _differences_of_pairs(sides)
        chances = np.minimum(*counts) * log(2)
    else:
        sides = _side_by_side(sides)
        chances = np.array([_log_choices(int(one), int(two)) for one, two in zip(*counts, strict=True)])
    model = _Model.of(sides, paired)
    with np.errstate(invalid="ignore"):
        error = np.sqrt((model.correction * (sides[1].u - sides[0].u) ** 2).sum(axis=1))
        error[error <= NOTHING * scale] = 0.0
    error[(np.minimum(*counts) < FEWEST) | np.isnan(value)] = np.nan
    square, cross = _drawn(model, np.random.default_rng(seed), resamples)
    own = (model.correction * model.slope**2).sum(axis=1)
    return Differences(value, error, np.minimum(1.0, 2 * np.exp(-chances)), square, cross, own, model.freedom)


def _log_choices(one: int, two: int) -> float:
    """The logarithm of the number of ways in which requests can be divided among two sides."""
    return lgamma(one + two + 1) - lgamma(one + 1) - lgamma(two + 1)


@dataclass(frozen=True)
class _Side:
    """Weights w = x / Σx and weighted residuals u = w (y / x − r) of one side, float64[ratios, requests]."""

    w: Reals
    u: Reals

    @classmethod
    def of(cls, ratios: Ratios) -> _Side:
        total = ratios.x.sum(axis=1, keepdims=True)
        values = np.nan_to_num(ratios.values)[:, None]
        total = np.where(total > 0, total, 1.0)
        return cls(ratios.x / total, (ratios.y - values * ratios.x) / total)

    @property
    def residuals(self) -> Reals:
        """Residuals of the rates; 0 without weight."""
        return np.divide(self.u, self.w, out=np.zeros_like(self.u), where=self.w > 0)


def _side_by_side(sides: list[_Side]) -> list[_Side]:
    """Unpaired requests behind each other, those of the other side without weight."""
    a, b = sides
    none_a, none_b = np.zeros_like(a.w), np.zeros_like(b.w)
    return [
        _Side(np.concatenate([a.w, none_b], axis=1), np.concatenate([a.u, none_b], axis=1)),
        _Side(np.concatenate([none_a, b.w], axis=1), np.concatenate([none_a, b.u], axis=1)),
    ]


def _differences_of_pairs(sides: list[_Side]) -> list[_Side]:
    """Pairs whose lengths are the same on both sides become one side, that of their differences."""
    a, b = sides
    same = np.all(np.isclose(a.w, b.w, rtol=1e-9, atol=0.0), axis=1, keepdims=True)
    return [
        replace(a, w=np.where(same, 0.0, a.w), u=np.where(same, 0.0, a.u)),
        replace(b, u=np.where(same, b.u - a.u, b.u)),
    ]


class _Model(NamedTuple):
    """Describe rates of one spread per side, drawn as q_a = s_a z_a, q_b = s_b (ρ z_a + √(1 − ρ²) z_b).

    weights: float64[ratios, requests] of a and b
    by_a, by_b: what z_a and z_b add to the difference, and, less the means, to the residual of a request
    mean_a: what z_a adds to the ratio of a
    shift_a, shift_b: the direction in which both ratios move by the same, which changes nothing
    slope: how the residual of a request depends on the difference
    correction: of each squared residual (CR2); variance: of the difference, float64[ratios]
    freedom: directions in which residuals can point, float64[ratios]
    """

    weights: tuple[Reals, Reals]
    by_a: Reals
    by_b: Reals
    mean_a: Reals
    shift_a: Reals
    shift_b: Reals
    slope: Reals
    correction: Reals
    variance: Reals
    freedom: Reals

    @classmethod
    def of(cls, sides: list[_Side], paired: bool) -> _Model:
        w, v = [side.w for side in sides], [side.residuals for side in sides]
        live = [one > 0 for one in w]
        spread = [_moment(one, one, left, left) for one, left in zip(w, v, strict=True)]
        largest = np.maximum(np.maximum(*spread), np.finfo(float).tiny)
        known = largest > np.finfo(float).tiny
        spread = [
            np.where(on.any(axis=1), np.where(known, np.maximum(one / largest, 1e-12), 1.0), 0.0)
            for one, on in zip(spread, live, strict=True)
        ]
        root = np.sqrt(spread[0] * spread[1])
        rho = np.zeros_like(root)
        if paired:
            joint = _moment(w[0], w[1], v[0], v[1]) / largest
            rho = np.clip(np.divide(joint, root, out=rho, where=root > 0), -CLOSEST, CLOSEST)
        return cls._with(w, [one[:, None] for one in spread], rho[:, None], live)

    @classmethod
    def _with(cls, w: list[Reals], spread: list[Reals], rho: Reals, live: list[npt.NDArray[np.bool_]]) -> _Model:
        (a, b), (va, vb) = w, spread
        joint = rho * np.sqrt(va * vb)
        aa, bb, ab = ((a * a).sum(axis=1, keepdims=True) * va, (b * b).sum(axis=1, keepdims=True) * vb,
                      (a * b).sum(axis=1, keepdims=True) * joint)  # fmt: skip
        meant = a**2 * va + b**2 * vb - 2 * a * b * joint  # the variance of a request's share of the difference
        seen = (
            a**2 * (va - 2 * a * va + aa) + b**2 * (vb - 2 * b * vb + bb)
            - 2 * a * b * (joint - (a + b) * joint + ab)
        )  # fmt: skip
        variance = aa + bb - 2 * ab
        slope = b * (b * vb - bb) + a * (a * va - aa) - b * (a * joint - ab) - a * (b * joint - ab)
        alone = np.sqrt(1 - rho**2)
        sa, sb = np.sqrt(va), np.sqrt(vb)
        inverse_a, inverse_b = (np.divide(1, s, out=np.zeros_like(s), where=s > 0) for s in (sa, sb))
        both = (inverse_a > 0) & (inverse_b > 0)
        shift_a = np.where(both & live[0], inverse_a, 0.0)
        shift_b = np.where(both & live[1], (inverse_b - rho * inverse_a) / alone, 0.0)
        length = np.sqrt((shift_a**2 + shift_b**2).sum(axis=1, keepdims=True))
        length = np.where(length > 0, length, 1.0)
        freedom = sum(on.sum(axis=1) for on in live) - 1.0 - both[:, 0]
        return cls(
            weights=(a, b),
            by_a=b * sb * rho - a * sa,
            by_b=b * sb * alone,
            mean_a=a * sa,
            shift_a=shift_a / length,
            shift_b=shift_b / length,
            slope=np.divide(slope, variance, out=np.zeros_like(slope), where=variance > 0),
            correction=np.divide(meant, seen, out=np.zeros_like(meant), where=seen > 1e-300),
            variance=variance[:, 0],
            freedom=np.maximum(freedom, 1.0),
        )


def _moment(w: Reals, other: Reals, v: Reals, other_v: Reals) -> Reals:
    """float64[ratios]: the variance (or covariance) of rates, from weighted residuals, unbiased if it is the same for
    all requests."""
    weight = np.sqrt(w * other)
    mean = (weight * (1 - w - other)).sum(axis=1) + weight.sum(axis=1) * (w * other).sum(axis=1)
    found: Reals = np.divide((weight * v * other_v).sum(axis=1), mean, out=np.zeros_like(mean), where=mean > 1e-300)
    return found


def _drawn(model: _Model, rng: np.random.Generator, resamples: int) -> tuple[Reals, Reals]:
    """float64[ratios, resamples] each: square and cross of `Differences`."""
    count = model.by_a.shape[1]
    most = max(1, NORMALS_AT_ONCE // count)
    blocks = [
        _one_block(model, *rng.standard_normal((2, min(most, resamples - first), count)))
        for first in range(0, resamples, most)
    ]
    square, cross = (np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True))
    return square, cross


def _one_block(model: _Model, z_a: Reals, z_b: Reals) -> tuple[Reals, Reals]:
    """The same for some draws, float64[draws, requests] of either side."""
    (a, b), by_a, by_b, c, k = model.weights, model.by_a, model.by_b, model.correction, model.slope

    def both(of_a: Reals, of_b: Reals) -> Reals:
        found: Reals = of_a @ z_a.T + of_b @ z_b.T
        return found

    def over(*parts: Reals) -> Reals:
        found: Reals = np.prod(parts, axis=0).sum(axis=1, keepdims=True)
        return found

    moved = both(by_a, by_b)
    ratio_a = model.mean_a @ z_a.T
    ratio_b = moved + ratio_a
    # the residual of a request is by_a z_a + by_b z_b + a ratio_a − b ratio_b; its square, and its product with slope
    squares = (c * by_a**2) @ (z_a**2).T + (c * by_b**2) @ (z_b**2).T + 2 * ((c * by_a * by_b) @ (z_a * z_b).T)
    squares += 2 * (ratio_a * both(c * a * by_a, c * a * by_b) - ratio_b * both(c * b * by_a, c * b * by_b))
    squares += ratio_a**2 * over(c, a, a) + ratio_b**2 * over(c, b, b) - 2 * ratio_a * ratio_b * over(c, a, b)
    products = both(c * k * by_a, c * k * by_b) + ratio_a * over(c, k, a) - ratio_b * over(c, k, b)
    own = over(c, k, k)
    square = np.maximum(squares - 2 * moved * products + moved**2 * own, 0.0)
    cross = products - moved * own
    # of length one: without what moves the difference, and without what moves nothing
    variance = np.where(model.variance > 0, model.variance, 1.0)[:, None]
    used = [((part != 0).astype(np.float64)) for part in (model.mean_a, by_b)]
    length = used[0] @ (z_a**2).T + used[1] @ (z_b**2).T - moved**2 / variance
    length = np.maximum(length - both(model.shift_a, model.shift_b) ** 2, 1e-300)
    return square / (length * variance), cross / np.sqrt(length * variance)
