"""Least recently used: the expert that was touched longest ago goes first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.policy import (
    Depths,
    FastPath,
    Longs,
    Outcome,
    Part,
    Rules,
    Stack,
    StackPolicy,
    Stream,
    empty_outcome,
)


class Recency(Stack):
    """How many entries were touched more recently than each; members of a group are in front under either admission."""

    def __init__(self, n_entries: int, preload: npt.NDArray[np.int32]) -> None:
        from remoe_sim.kernels.stacks import WIDE

        dtype: Any = np.uint8 if n_entries < 2**8 else np.uint16 if n_entries < 2**16 else np.int32
        self.position = np.full(-(-n_entries // WIDE) * WIDE, n_entries, dtype)
        self.preload = preload
        self._n_entries = n_entries

    def depths(self, part: Part) -> Depths:
        """One vectorised pass."""
        from remoe_sim.kernels.stacks import recency_depths

        stream = part.stream
        before = np.empty(stream.entries.size, self.position.dtype)
        recency_depths(
            stream.offsets, stream.epochs, not part.fresh, self._n_entries, self.preload,
            stream.entries, self.position, before,
        )  # fmt: skip
        return Depths(before, None, self._n_entries)

    def count_with(self, other: Recency, parts: Sequence[Part], tables: Sequence[Longs]) -> bool:
        """Two caches together where their groups are alike and positions are bytes."""
        if not _alike(self, other, *parts):
            return False
        from remoe_sim.kernels.stacks import recency_counts_of_two

        one, two = parts[0].stream, parts[1].stream
        recency_counts_of_two(
            one.offsets, one.epochs, not parts[0].fresh, self._n_entries,
            one.entries, one.kinds, self.position, tables[0], two.entries, two.kinds, other.position, tables[1],
        )  # fmt: skip
        return True

    def known(self) -> int:
        return int(np.count_nonzero(self.position < self._n_entries))


class Lru(StackPolicy):
    name = "lru"
    summary = "least recently used goes first"
    source = "Mattson, Gecsei, Slutz, Traiger: Evaluation techniques for storage hierarchies, 1970"

    def keys(self, stream: Stream) -> npt.NDArray[np.int64]:
        return -np.arange(stream.entries.size, dtype=np.int64)

    def fast_path(self) -> FastPath:
        return ByRecency(self)


class ByRecency(FastPath):
    """Positions instead of keys."""

    lone_from = 256
    abreast = 2

    def stack(self, n_entries: int, rules: Rules, in_parts: bool) -> Recency:
        return Recency(n_entries, rules.preload)

    def replay(self, stream: Stream, limit: int, rules: Rules) -> Outcome | None:
        if stream.per_layer and stream.n_entries < self.lone_from:
            return None
        from remoe_sim.kernels.recency import recency_replay

        hit, resting, running = empty_outcome(stream)
        evictions = recency_replay(
            stream.offsets, stream.entries, stream.epochs, rules.preload, stream.sizes, stream.weights, limit,
            rules.mandatory, hit, resting, running,
        )  # fmt: skip
        return Outcome(hit, evictions, resting, running)

    def needed_bytes(self, stream: Stream, rules: Rules) -> Longs:
        from remoe_sim.kernels.recency import recency_bytes

        needed = np.empty(stream.entries.size, np.int64)
        recency_bytes(stream.offsets, stream.entries, stream.epochs, rules.preload, stream.sizes, needed)
        return needed


def _alike(run: Recency, other_run: Recency, part: Part, other_part: Part) -> bool:
    one, other = part.stream, other_part.stream
    return (
        one.n_entries == other.n_entries < 2**8
        and one.entries.dtype == other.entries.dtype
        and part.fresh == other_part.fresh
        and not run.preload.size + other_run.preload.size
        and (one.offsets is other.offsets or np.array_equal(one.offsets, other.offsets))
        and np.array_equal(one.epochs, other.epochs)
    )
