"""LRU-K: the expert whose K-th last use is longest ago goes first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.compile import kernel
from remoe_sim.policy import StackPolicy, Stream


class LruK(StackPolicy):
    """Backward K-distance counts groups. It is infinite with fewer than K uses; ties go by the last use.

    Uses are remembered while an expert is not resident (retained information period: the whole trace), and every one
    counts (correlated reference period: 0). With k = 1 this is LRU.
    """

    name = "lru-k"
    summary = "K-th last use longest ago goes first, fewer than K uses before all others"
    source = "O'Neil, O'Neil, Weikum: The LRU-K page replacement algorithm, SIGMOD 1993, definitions 2.1 and 2.2"

    def __init__(self, k: int = 2) -> None:
        if k < 1:
            raise ValueError(f"k={k} of policy '{self.name}' is not possible; give 1 or more")
        self.k = k

    def keys(self, stream: Stream) -> npt.NDArray[np.int64]:
        keys = np.empty(stream.entries.size, np.int64)
        ring, uses = np.empty((stream.n_entries, self.k), np.int64), np.empty(stream.n_entries, np.int64)
        kth_last_uses(stream.offsets, stream.entries, stream.epochs, ring, uses, keys)
        return keys


@kernel
def kth_last_uses(offsets, entries, epochs, ring, uses, keys):
    """keys int64[N], written: smaller for a later K-th last use, then for a later last use.

    offsets int64[groups + 1]; entries[N]; epochs int64[n + 1], group bounds; scratch: ring int64[n_entries, k], the
    groups of the last k uses, and uses int64[n_entries].
    """
    k = ring.shape[1]
    total = entries.size
    for epoch in range(epochs.size - 1):
        uses[:] = 0
        for group in range(epochs[epoch], epochs[epoch + 1]):
            for i in range(offsets[group], offsets[group + 1]):
                entry = np.int64(entries[i])
                ring[entry, uses[entry] % k] = group
                uses[entry] += 1
                if uses[entry] < k:
                    keys[i] = total - i
                else:
                    keys[i] = -ring[entry, uses[entry] % k] * (total + 1) - i
