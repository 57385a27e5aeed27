"""The link that explains measured reads best."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from remoe_sim.links import Link
from remoe_sim.storage_reads import ReadSpeed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LEAST_SECONDS = 1e-8  # what is fitted below counts as none
ENOUGH = 0.95  # of the best throughput: the default number of lanes


def fit_link(name: str, reads: Iterable[ReadSpeed], block_bytes: int) -> tuple[Link, list[float]]:
    """A link and, for each read, how much more (or less, negative) it reaches than was measured, as a share.

    Robust least squares (soft L1) of the logarithms of latency, overhead, bandwidth and bandwidth of a lane, from
    several starts because the model has edges. The default lanes are the fewest that reach 95 % of the best throughput
    of the middle size. Raises ValueError without reads.
    """
    import numpy as np
    from scipy.optimize import least_squares

    measured = list(reads)
    if not measured:
        raise ValueError(f"link '{name}' cannot be fitted: no reads were measured")
    size, lanes, speed = (
        np.array([getattr(one, key) for one in measured], float) for key in ("bytes", "lanes", "bytes_per_s")
    )

    def error(logs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        latency, overhead, shared, own = np.exp(logs)
        link = overhead + size / shared
        lane = latency + np.maximum(size / own, link)
        logs_of_shares: npt.NDArray[np.float64] = np.log(size / np.maximum(lane / lanes, link) / speed)
        return logs_of_shares

    alone = lanes == lanes.min()
    quickest = float((size[alone] / speed[alone] * lanes.min()).min())
    fits = [
        least_squares(error, np.log([latency, overhead, speed.max(), own]), loss="soft_l1", f_scale=0.05)
        for latency in (quickest / 2, quickest / 20)
        for overhead in (quickest / 20, quickest / 1000)
        for own in (speed[alone].max(), 2 * speed.max())
    ]
    best = min(fits, key=lambda fit: float(fit.cost))
    latency, overhead, shared, own = (float(number) for number in np.exp(best.x))
    middle = sorted(set(size))[len(set(size)) // 2]
    reached = {int(n): v for n, s, v in zip(lanes, size, speed, strict=True) if s == middle}
    link = Link(
        name,
        latency_s=latency if latency > LEAST_SECONDS else 0.0,
        bandwidth_bytes_per_s=shared,
        lanes=min(n for n, v in reached.items() if v >= ENOUGH * max(reached.values())),
        lane_bandwidth_bytes_per_s=own if own < shared else None,
        block_bytes=block_bytes,
        overhead_s=overhead if overhead > LEAST_SECONDS else 0.0,
    )
    return link, [link.throughput(one.bytes, one.lanes) / one.bytes_per_s - 1 for one in measured]
