"""Least recently used: the expert that was touched longest ago goes first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.policy import Depths, Longs, Outcome, Rules, StackPolicy, Stream, empty_outcome
from remoe_sim.resuming import Part


class Recency:
    """How many entries were touched more recently than each; members of a group are in front under either admission."""

    def __init__(self, n_entries: int, preload: npt.NDArray[np.int32]) -> None:
        from remoe_sim.kernels.stacks import WIDE

        dtype: Any = np.uint8 if n_entries < 2**8 else np.uint16 if n_entries < 2**16 else np.int32
        self._padded = np.full(-(-n_entries // WIDE) * WIDE, n_entries, dtype)
        self._position = self._padded[:n_entries]
        self._preload = preload

    def depths(self, part: Part) -> Depths:
        """One vectorised pass."""
        from remoe_sim.kernels.stacks import recency_depths

        stream = part.stream
        before = np.empty(stream.entries.size, self._position.dtype)
        epochs = stream.epochs
        if not part.fresh:
            stack = np.argsort(self._position, kind="stable")[: self.known()].astype(np.int32)
            self._run(recency_depths, stream, epochs[:2], stack, before)
            epochs = epochs[1:]
        self._run(recency_depths, stream, epochs, self._preload, before)
        return Depths(before, None, stream.n_entries)

    def _run(self, kernel: Any, stream: Stream, epochs: Longs, preload: Any, before: npt.NDArray[Any]) -> None:
        kernel(stream.offsets, stream.entries, epochs, preload, self._position.size, self._padded, before)

    def known(self) -> int:
        return int(np.count_nonzero(self._position < self._position.size))


class Lru(StackPolicy):
    name = "lru"
    summary = "least recently used goes first"
    source = "Mattson, Gecsei, Slutz, Traiger: Evaluation techniques for storage hierarchies, 1970"
    lone_from = 160
    abreast = 2

    def keys(self, stream: Stream) -> npt.NDArray[np.int64]:
        return -np.arange(stream.entries.size, dtype=np.int64)

    def resume(self, n_entries: int, rules: Rules) -> Recency:
        return Recency(n_entries, rules.preload)

    def depths(self, stream: Stream, rules: Rules, most: int | None = None) -> Depths:
        return self.resume(stream.n_entries, rules).depths(Part(slice(None), stream, fresh=True))

    def depths_of(self, streams: Sequence[Stream], rules: Sequence[Rules]) -> Iterator[Depths]:
        """Two caches together where their groups are alike and positions are bytes."""
        at = 0
        while at < len(streams):
            pair = streams[at : at + 2]
            if len(pair) == 2 and _alike(*pair) and not any(rule.preload.size for rule in rules[at : at + 2]):
                yield from _of_two(*pair)
            else:
                pair = pair[:1]
                yield self.depths(pair[0], rules[at])
            at += len(pair)

    def at_limit(self, stream: Stream, limit: int, rules: Rules) -> Outcome:
        if stream.per_layer and stream.n_entries < self.lone_from:
            return super().at_limit(stream, limit, rules)
        from remoe_sim.kernels.recency import recency_replay

        hit, resting, running = empty_outcome(stream)
        evictions = recency_replay(
            stream.offsets, stream.entries, stream.epochs, rules.preload, stream.sizes, stream.weights, limit,
            rules.mandatory, hit, resting, running,
        )  # fmt: skip
        return Outcome(hit, evictions, resting, running)

    def needed_bytes(self, stream: Stream, rules: Rules) -> Longs:
        from remoe_sim.kernels.recency_bytes import recency_bytes

        needed = np.empty(stream.entries.size, np.int64)
        recency_bytes(stream.offsets, stream.entries, stream.epochs, rules.preload, stream.sizes, needed)
        return needed


def _alike(one: Stream, other: Stream) -> bool:
    same = one.n_entries == other.n_entries < 2**8 and one.entries.dtype == other.entries.dtype
    return same and np.array_equal(one.offsets, other.offsets) and np.array_equal(one.epochs, other.epochs)


def _of_two(one: Stream, other: Stream) -> Iterator[Depths]:
    from remoe_sim.kernels.stacks import WIDE, recency_depths_of_two

    n = one.n_entries
    positions = np.empty((2, -(-n // WIDE) * WIDE), np.uint8)
    before = np.empty((2, one.entries.size), np.uint8)
    recency_depths_of_two(
        one.offsets, one.epochs, n, one.entries, positions[0], before[0], other.entries, positions[1], before[1]
    )
    return (Depths(found, None, n) for found in before)
