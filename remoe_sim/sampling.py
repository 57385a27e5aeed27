"""Steps of a model whose trace is not known: how many experts each layer needs and misses, drawn evenly.

Every layer's misses follow a binomial distribution. The draws are its quantiles at even distances, in another order
for every layer, so that few steps tell the mean and nothing hangs on luck.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from remoe_sim.timelines import Counts

STEPS = 256


def distinct_experts(experts: int, top_k: int, batch: int) -> float:
    """Experts that `batch` tokens need together when each draws its top_k evenly: E (1 - (1 - k/E)^B)."""
    return experts * (1 - (1 - top_k / experts) ** batch)


@lru_cache(maxsize=256)
def draw(layers: int, lookups: float, miss_rate: float, steps: int = STEPS) -> tuple[Counts, Counts]:
    """uint16[steps, layers] each: experts needed, `lookups` on average, and those of them that are missing."""
    from scipy.stats import binom

    rng = np.random.default_rng(0)
    even = (np.arange(steps) + 0.5) / steps
    needed = np.floor(lookups + rng.permuted(np.tile(even, (layers, 1)), axis=1).T).astype(np.int64)
    drawn = rng.permuted(np.tile(even, (layers, 1)), axis=1).T
    missing = np.clip(binom.ppf(drawn, needed, min(max(miss_rate, 0.0), 1.0)), 0, needed)
    answer = needed.astype(np.uint16), missing.astype(np.uint16)
    for counts in answer:
        counts.flags.writeable = False  # they are kept for the next call
    return answer
