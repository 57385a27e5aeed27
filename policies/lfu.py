"""Least frequently used over the whole history, also while an expert was not resident."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from remoe_sim.policy import Ranks, StackPolicy, Stream


class Lfu(StackPolicy):
    name = "lfu"
    summary = "least often used in the whole history goes first, ties by recency"
    source = "BigMoeOnEdge cache replay (lfu); 'perfect LFU' in the caching literature"
    ranked = True

    def keys(self, stream: Stream) -> npt.NDArray[np.int64]:
        from remoe_sim.kernels.history import use_counts

        counts = np.empty(stream.entries.size, np.int64)
        use_counts(stream.offsets, stream.entries, stream.epochs, np.empty(stream.n_entries, np.int64), counts)
        lookups = counts.size
        return -(counts * (lookups + 1) + np.arange(1, lookups + 1))  # of equal counts the more recent stays

    def ranks(self, stream: Stream) -> Ranks | None:
        from remoe_sim.kernels.ranks import MOST, count_ranks

        if stream.entries.size >= MOST:
            return None
        ranks = np.empty(stream.entries.size, np.uint32)
        count_ranks(stream.offsets, stream.entries, stream.epochs, np.empty(stream.n_entries, np.int64), ranks)
        return ranks
