"""Least recently used: the expert that was touched longest ago goes first."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.policy import Depths, Longs, Rules, StackPolicy, Stream


class Lru(StackPolicy):
    name = "lru"
    summary = "least recently used goes first"
    source = "Mattson, Gecsei, Slutz, Traiger: Evaluation techniques for storage hierarchies, 1970"

    def keys(self, stream: Stream) -> npt.NDArray[np.int64]:
        return -np.arange(stream.entries.size, dtype=np.int64)

    def depths(self, stream: Stream, rules: Rules) -> Depths:
        """One vectorised pass; members are in front after their group under either admission."""
        from remoe_sim.kernels.stacks import recency_depths

        n = stream.n_entries
        dtype: Any = np.uint8 if n < 2**8 else np.uint16 if n < 2**16 else np.int32
        before = np.empty(stream.entries.size, dtype)
        scratch = np.empty(n, dtype), np.empty(n, dtype)
        recency_depths(stream.offsets, stream.entries, stream.epochs, rules.preload, *scratch, before)
        return Depths(before, None, n)

    def needed_bytes(self, stream: Stream, rules: Rules) -> Longs:
        from remoe_sim.kernels.recency_bytes import recency_bytes

        needed = np.empty(stream.entries.size, np.int64)
        recency_bytes(stream.offsets, stream.entries, stream.epochs, rules.preload, stream.sizes, needed)
        return needed
