"""Least frequently used over the whole history, also while an expert was not resident."""

from __future__ import annotations

import numpy as np

from remoe_sim.policy import FastPath, Longs, Outcome, Part, Ranks, Rules, StackPolicy, Stream
from remoe_sim.policy.stack import OrderedParts, replay_by_keys


class Lfu(StackPolicy):
    name = "lfu"
    summary = "least often used in the whole history goes first, ties by recency"
    source = "BigMoeOnEdge cache replay (lfu); 'perfect LFU' in the caching literature"

    def keys(self, stream: Stream) -> Longs:
        count = np.zeros(stream.n_entries, np.int64)
        return _keys(stream, count, 1, stream.entries.size + 1)

    def fast_path(self) -> FastPath:
        return ByCounts(self)


class ByCounts(FastPath):
    """Ranks, which are half as large as keys and in the same order; and counts that go on in parts."""

    ranked = True

    def stack(self, n_entries: int, rules: Rules, in_parts: bool) -> Uses | None:
        return Uses(self.policy, n_entries, rules) if in_parts else None

    def ranks(self, stream: Stream) -> Ranks | None:
        from remoe_sim.kernels.keys import MOST, count_ranks

        if stream.entries.size >= MOST:
            return None
        ranks = np.empty(stream.entries.size, np.uint32)
        count_ranks(stream.offsets, stream.entries, stream.epochs, np.empty(stream.n_entries, np.int64), ranks)
        return ranks

    def replay(self, stream: Stream, limit: int, rules: Rules) -> Outcome | None:
        ranks = None if stream.per_layer else self.ranks(stream)
        if ranks is None:
            return None
        from remoe_sim.kernels.limits import ordered_replay

        return replay_by_keys(self.policy, ordered_replay, stream, limit, rules, ranks)


class Uses(OrderedParts):
    """Counts go on from part to part; of what was touched earlier only the order is kept, so keys stay small."""

    _spread = 2**32  # more than a part has lookups, and with all tokens that a trace can have below 2^63

    def __init__(self, policy: StackPolicy, n_entries: int, rules: Rules) -> None:
        super().__init__(policy, n_entries, rules)
        self._count = np.zeros(n_entries, np.int64)

    def keys(self, part: Part) -> Longs:
        if part.fresh:
            self._count[:] = 0
        used = self._count > 0
        order = np.argsort(np.argsort(-self.held[used] % self._spread))
        self.held[used] = -(self._count[used] * self._spread + order)
        return _keys(part.stream, self._count, self._count.size, self._spread)


def _keys(stream: Stream, count: Longs, first: int, spread: int) -> Longs:
    """Of equal counts the more recent stays; the first lookup is number `first`, and numbers are below `spread`."""
    from remoe_sim.kernels.keys import use_counts

    counts = np.empty(stream.entries.size, np.int64)
    use_counts(stream.offsets, stream.entries, stream.epochs, count, counts)
    counts *= -spread
    counts -= np.arange(first, first + counts.size)
    return counts
