"""A fixed set of experts: the most used ones of a training trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.policy import Depths, FastPath, Longs, Outcome, Part, Rules, Stack, StackPolicy, Stream


class StaticSet(StackPolicy):
    """The longest beginning of a ranking that fits. A member is loaded, and counted as a miss, when it is first used,
    and then stays for good; nothing else ever enters, not even where there is room.

    At C equal entries the hits are therefore the uses of the C best minus one each (and minus one more for every time
    the cache is emptied). Of what the cache starts with, the members stay and all others leave after the first group.
    """

    admissions = ("bypass",)

    def ranking(self, stream: Stream, rules: Rules) -> npt.NDArray[np.int64]:
        """Entries that may be members, the best first."""
        raise NotImplementedError

    def fast_path(self) -> FastPath:
        return ByRanking(self)

    def replay(self, stream: Stream, limit: int, rules: Rules) -> Outcome:
        starts, member = self.takes(stream, rules, stream.sizes, limit + 1)
        hit = _needed(stream, starts, member) <= limit
        starting, members = starts <= limit, member <= limit
        entered = _sums(stream, members[stream.entries] & ~hit)
        missed = _sums(stream, ~hit)
        opens = _opening(stream)
        since = np.repeat(stream.offsets[stream.epochs[:-1]], np.diff(stream.epochs))  # the epoch of each group
        held = int(stream.weights[starting & members].sum()) - entered[since]
        leaving = int(stream.weights[starting & ~members].sum())
        before = held + entered[stream.offsets[:-1]] + np.where(opens, leaving, 0)
        running = before + missed[stream.offsets[1:]] - missed[stream.offsets[:-1]]
        evictions = int(np.count_nonzero(starting & ~members) * np.count_nonzero(opens))
        return Outcome(hit, evictions, held + entered[stream.offsets[1:]], running)

    def takes(self, stream: Stream, rules: Rules, sizes: Longs, never: int) -> tuple[Longs, Longs]:
        """int64[n_entries], the smallest limits at which the cache starts with an entry, and at which it is a member;
        `never` if it is not."""
        return _upto(rules.preload, sizes, never), _upto(self.ranking(stream, rules), sizes, never)


class ByRanking(FastPath):
    """What fits is a beginning of one list at every limit, also where sizes are unequal."""

    policy: StaticSet

    def stack(self, n_entries: int, rules: Rules, in_parts: bool) -> Beginnings | None:
        return None if in_parts else Beginnings(self.policy, rules)

    def needed_bytes(self, stream: Stream, rules: Rules) -> Longs:
        from remoe_sim.kernels.recency import ABSENT

        return _needed(stream, *self.policy.takes(stream, rules, stream.sizes, int(ABSENT)))


class Beginnings(Stack):
    """Depths are places in the ranking."""

    def __init__(self, policy: StaticSet, rules: Rules) -> None:
        self._policy, self._rules = policy, rules

    def depths(self, part: Part) -> Depths:
        stream = part.stream
        ones = np.ones(stream.n_entries, np.int64)
        starts, member = self._policy.takes(stream, self._rules, ones, stream.n_entries + 1)
        return Depths(_needed(stream, starts, member) - 1, member[stream.entries] - 1, stream.n_entries)


class Static(StaticSet):
    name = "static"
    summary = "the most used experts of a training trace stay, from their first use on; nothing else enters"
    source = "static expert placement, as in arXiv 2608.07911, section 2.3 (Static)"
    needs_training = True

    def ranking(self, stream: Stream, rules: Rules) -> npt.NDArray[np.int64]:
        assert rules.popularity is not None
        return most_used(rules.popularity)


def most_used(uses: Longs) -> npt.NDArray[np.int64]:
    """Entries that were used, most often first, ties by lower entry."""
    return np.argsort(-uses, kind="stable")[: np.count_nonzero(uses)]


def _upto(ranked: npt.NDArray[Any], sizes: Longs, never: int) -> Longs:
    """int64[n_entries]: what a list takes up to and with each entry; `never` where an entry is not in it."""
    takes = np.full(sizes.size, never, np.int64)
    takes[ranked] = np.cumsum(sizes[ranked])
    return takes


def _needed(stream: Stream, starts: Longs, member: Longs) -> Longs:
    """int64[N]: the smallest limit at which each lookup hits."""
    opening = np.repeat(_opening(stream), np.diff(stream.offsets))
    first = np.where(opening, starts[stream.entries], np.maximum(starts, member)[stream.entries])
    return np.where(stream.first, first, member[stream.entries])


def _opening(stream: Stream) -> npt.NDArray[np.bool_]:
    """bool[groups]: the first group after the cache was emptied."""
    opens = np.zeros(stream.steps.size, np.bool_)
    opens[stream.epochs[:-1][np.diff(stream.epochs) > 0]] = True
    return opens


def _sums(stream: Stream, counted: npt.NDArray[np.bool_]) -> Longs:
    """int64[N + 1]: the bytes of the lookups so far that count."""
    return np.append(0, np.cumsum(np.where(counted, stream.weights[stream.entries], 0)))
