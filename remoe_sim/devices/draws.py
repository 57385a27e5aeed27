"""Steps whose misses are drawn, for times without a trace."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from remoe_sim.devices.steps import Counts

STEPS = 256
LEAST_MISSES = 128  # of a draw, which is then right within half a per cent


def distinct_experts(experts: int, top_k: int, batch: int) -> float:
    """Experts that `batch` tokens need together when each draws its top_k evenly: E (1 - (1 - k/E)^B)."""
    return experts * (1 - (1 - top_k / experts) ** batch)


def drawable(layers: int, lookups: float, miss_rate: float, steps: int = STEPS) -> float:
    """The lowest miss rate from `miss_rate` on of which steps can be drawn; 0 for 0.

    Fewer misses are too few to be spread over so few steps. They are so rare that they do not meet, and what they take
    is their share of what that rate takes.
    """
    return min(1.0, max(miss_rate, LEAST_MISSES / (steps * layers * lookups))) if miss_rate else 0.0


@lru_cache(maxsize=256)
def draw(layers: int, lookups: float, miss_rate: float, steps: int = STEPS) -> tuple[Counts, Counts]:
    """uint16[steps, layers] each: experts needed, `lookups` on average, and those of them that are missing."""
    rng = np.random.default_rng(0)
    even = (np.arange(steps) + 0.5) / steps
    needed = np.floor(lookups + rng.permuted(np.tile(even, (layers, 1)), axis=1)).astype(np.int64)
    part = rng.permuted(np.tile(np.arange(steps), (layers, 1)), axis=1)
    mean = np.zeros((layers, steps))
    for count in np.unique(needed).tolist():
        there = needed == count
        mean[there] = _means(count, min(max(miss_rate, 0.0), 1.0), steps)[part[there]]
    missing = np.minimum(_rounded(mean, part), needed)
    answer = needed.T.astype(np.uint16), missing.T.astype(np.uint16)
    for counts in answer:
        counts.flags.writeable = False  # they are kept for the next call
    return answer


def _means(lookups: int, miss_rate: float, parts: int) -> npt.NDArray[np.float64]:
    """float64[parts]: the means of equal parts of a binomial distribution, in ascending order."""
    from scipy.stats import binom

    ends = np.arange(parts + 1) / parts
    below = binom.cdf(np.arange(lookups), lookups, miss_rate)  # a quantile is the number of these that are below it
    upto = np.maximum(ends[:, None] - below[None, :], 0.0).sum(axis=1)
    means: npt.NDArray[np.float64] = np.diff(upto) * parts
    return means


def _rounded(mean: npt.NDArray[np.float64], part: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Round means up or down so that their running sum, over layers and in each from part to part, stays right."""
    order = np.argsort(part, axis=1)
    sums = np.cumsum(np.take_along_axis(mean, order, axis=1).ravel())
    ends = np.floor(sums + 0.5 + 1e-9)
    rounded = np.empty(mean.shape, np.int64)
    np.put_along_axis(rounded, order, np.diff(ends, prepend=0.0).astype(np.int64).reshape(mean.shape), axis=1)
    return rounded
