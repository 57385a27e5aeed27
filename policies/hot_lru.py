"""The experts that a training trace used most stay; the rest of the cache is LRU.

Engines with a profile of hot experts work so: those are loaded when they are first used, count as misses then, and are
never evicted as long as they fit; all others share what is left.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from remoe_sim.policy import Longs, Outcome, Rules, StackPolicy, Stream
from remoe_sim.policy.outcome import Stack
from remoe_sim.policy.stack import FastPath, KeyedStack, needed_bytes


class HotLru(StackPolicy):
    name = "hot+lru"
    summary = "the hot most used experts of a training trace stay, LRU for the rest"
    source = "pinned profiles of engines, such as llama.cpp forks and colibri"
    needs_training = True

    def __init__(self, hot: int = 8) -> None:
        if not hot >= 0:
            raise ValueError(f"hot={hot} of policy '{self.name}' is not possible; give 0 or more")
        self.hot = hot

    def fast_path(self) -> FastPath:
        return _WithProfile(self)

    def pinned(self, rules: Rules) -> StackPolicy:
        assert rules.popularity is not None
        used = np.argsort(-rules.popularity, kind="stable")[: np.count_nonzero(rules.popularity)]
        pinned = _Pinned(used[: self.hot])
        pinned.label = self.label or self.name
        return pinned


class _WithProfile(FastPath):
    """What the keys say once the profile is known, which they are not told of."""

    def __init__(self, policy: HotLru) -> None:
        super().__init__(policy)
        self._of = policy.pinned

    def stack(self, n_entries: int, rules: Rules, in_parts: bool) -> Stack | None:
        return None if in_parts else KeyedStack(self._of(rules), rules, None)

    def needed_bytes(self, stream: Stream, rules: Rules) -> Longs | None:
        return needed_bytes(self._of(rules), stream, rules)

    def replay(self, stream: Stream, limit: int, rules: Rules) -> Outcome:
        return self._of(rules).replay(stream, limit, rules)


class _Pinned(StackPolicy):
    """LRU below the given entries, of which the first is kept before the others."""

    def __init__(self, hot: Longs) -> None:
        self._hot = hot

    def keys(self, stream: Stream) -> npt.NDArray[np.int64]:
        keys = -np.arange(stream.entries.size, dtype=np.int64)
        place = np.full(stream.n_entries, -1, np.int64)
        place[self._hot] = np.arange(self._hot.size)
        places = place[stream.entries]
        first = np.iinfo(np.int64).min + 1  # before every recency
        return np.where(places >= 0, first + places, keys)
