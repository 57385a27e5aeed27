"""Belady's optimum: the expert that is needed farthest in the future goes first."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.policy import FastPath, Longs, Outcome, Part, Ranks, Rules, StackPolicy, Stream
from remoe_sim.policy.stack import NEVER, OrderedParts, replay_by_keys


class Belady(StackPolicy):
    name = "belady"
    summary = "needed farthest in the future goes first: the offline optimum where sizes are equal"
    source = "Belady: A study of replacement algorithms for a virtual-storage computer, 1966"
    optimal = True
    online = False

    def keys(self, stream: Stream) -> Longs:
        return _uses(stream, np.zeros((0, 0), np.int64), np.int64)

    def preload_keys(self, stream: Stream, preload: npt.NDArray[np.int32], dtype: Any) -> Longs:
        first = np.empty((stream.epochs.size - 1, stream.n_entries), np.int64)
        _uses(stream, first, np.int64)
        return first

    def fast_path(self) -> FastPath:
        return ByPlaces(self)


class ByPlaces(FastPath):
    """Next uses as ranks or as places, no two of which are the same."""

    ranked = True
    lone_from = 96

    def stack(self, n_entries: int, rules: Rules, in_parts: bool) -> Upcoming | None:
        return Upcoming(self.policy, n_entries, rules) if in_parts else None

    def ranks(self, stream: Stream) -> Ranks | None:
        from remoe_sim.kernels.keys import MOST, next_ranks

        if (stream.steps.size + 1) * stream.n_entries >= MOST:
            return None
        ranks = np.empty(stream.entries.size, np.uint32)
        upcoming = np.empty(stream.n_entries, np.uint32)
        next_ranks(stream.offsets, stream.entries, stream.epochs, upcoming, ranks)
        return ranks

    def replay(self, stream: Stream, limit: int, rules: Rules) -> Outcome:
        from remoe_sim.kernels.limits import place_replay

        narrow = np.uint32 if stream.entries.size + stream.n_entries < 2**32 else np.int64
        keys = _uses(stream, np.zeros((0, 0), np.int64), narrow)
        return replay_by_keys(self.policy, place_replay, stream, limit, rules, keys)


class Upcoming(OrderedParts):
    """Next uses by their places in all of the layer; `Part.later` tells those that are behind the part."""

    def keys(self, part: Part) -> Longs:
        assert part.later is not None
        self._first = np.empty((part.stream.epochs.size - 1, self.held.size), np.int64)
        return _next_uses(part.stream, part.base, NEVER, part.later.copy(), self._first, np.int64)

    def preload_keys(self, part: Part) -> Longs:
        return self._first


def _uses(stream: Stream, first: Longs, dtype: Any) -> npt.NDArray[Any]:
    """[N]: the place of the next lookup of each entry, N + entry if there is none; first: written, of each epoch."""
    lookups = stream.entries.size
    return _next_uses(stream, 0, lookups, lookups + np.arange(stream.n_entries), first, dtype)


def _next_uses(
    stream: Stream, base: int, never: int, later: Longs, first: Longs, dtype: Any
) -> npt.NDArray[Any]:  # fmt: skip
    from remoe_sim.kernels.grouping import next_uses

    keys = np.empty(stream.entries.size, dtype)
    next_uses(stream.offsets, stream.entries, stream.epochs, base, never, later, keys, first)
    return keys
