"""Belady's optimum: the expert that is needed farthest in the future goes first."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.policy import Ranks, StackPolicy, Stream


class Belady(StackPolicy):
    name = "belady"
    summary = "needed farthest in the future goes first: the offline optimum where sizes are equal"
    source = "Belady: A study of replacement algorithms for a virtual-storage computer, 1966"
    optimal = True
    online = False
    ranked = True

    def keys(self, stream: Stream) -> npt.NDArray[np.int64]:
        return self._uses(stream, np.zeros((0, 0), np.int64))

    def ranks(self, stream: Stream) -> Ranks | None:
        from remoe_sim.kernels.ranks import MOST, next_ranks

        if (stream.steps.size + 1) * stream.n_entries >= MOST:
            return None
        ranks = np.empty(stream.entries.size, np.uint32)
        upcoming = np.empty(stream.n_entries, np.uint32)
        next_ranks(stream.offsets, stream.entries, stream.epochs, upcoming, ranks)
        return ranks

    def preload_keys(self, stream: Stream, preload: npt.NDArray[np.int32], dtype: Any) -> npt.NDArray[np.int64]:
        first = np.empty((stream.epochs.size - 1, stream.n_entries), np.int64)
        self._uses(stream, first)
        return first

    def _uses(self, stream: Stream, first: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        from remoe_sim.kernels.grouping import next_uses

        keys = np.empty(stream.entries.size, np.int64)
        upcoming = np.empty(stream.n_entries, np.int64)
        next_uses(stream.offsets, stream.entries, stream.epochs, upcoming, keys, first)
        return keys
