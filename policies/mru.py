"""Most recently used: the expert that was touched last goes first, the best rule for a loop longer than the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.policy import StackPolicy, Stream


class Mru(StackPolicy):
    """Members of the running group stay under mandatory admission; under bypass a full cache admits nothing new."""

    name = "mru"
    summary = "most recently used goes first, those that the running step needs apart"
    source = "Chou, DeWitt: An evaluation of buffer management strategies for relational database systems, 1985"

    def keys(self, stream: Stream) -> npt.NDArray[np.int64]:
        return np.arange(stream.entries.size)

    def preload_keys(self, stream: Stream, preload: npt.NDArray[np.int32], dtype: Any) -> npt.NDArray[np.int64]:
        """What was there before the first use is older than all that is used, and the most used of it stays longest."""
        keys = np.zeros((1, stream.n_entries), np.int64)
        keys[0, preload] = np.arange(preload.size) - preload.size
        return keys
