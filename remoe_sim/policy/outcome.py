"""What a policy is given and what comes of a replay: rules, outcomes, and parts of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.tallies import depth_histogram

if TYPE_CHECKING:
    from remoe_sim.trace.accesses import Stream
    from remoe_sim.util.arrays import Flags, Longs

NO_PRELOAD = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Rules:
    """How a cache admits: `mandatory` or bypass; preload: int32, the entries it starts with, most used first;
    popularity: int64[n_entries], uses of each entry in a training trace, or None; admit_after: the use from which on an
    entry may enter; inserts: how many may enter per layer and step, None for all."""

    mandatory: bool = True
    preload: npt.NDArray[np.int32] = field(default_factory=lambda: NO_PRELOAD)
    popularity: Longs | None = None
    admit_after: int = 1
    inserts: int | None = None

    @property
    def capped(self) -> bool:
        """Whether some misses may not enter, whatever the policy is."""
        return self.admit_after > 1 or self.inserts is not None


@dataclass(frozen=True)
class Depths:
    """Stack depth of every lookup before its group, and of every member after it (None: the group is in front, the
    last on top); `absent` stands for "not there"."""

    before: npt.NDArray[Any]
    after: npt.NDArray[Any] | None
    absent: int

    def after_group(self, stream: Stream) -> npt.NDArray[Any]:
        """`after`, also where it follows from the order within the group."""
        if self.after is not None:
            return self.after
        return np.repeat(stream.offsets[1:], np.diff(stream.offsets)) - 1 - np.arange(self.before.size)


@dataclass(frozen=True)
class Outcome:
    """One cache at one limit: hit bool[N]; how many entries were evicted; bytes at rest after each group and while it
    runs, int64[groups] (counts of entries when sizes are unknown)."""

    hit: Flags
    evictions: int
    resting: Longs
    running: Longs


@dataclass(frozen=True)
class Residents:
    """What the cache of a layer holds, in experts of `weight` bytes: of each group its step, and how many are there at
    rest and while it runs."""

    weight: int
    steps: npt.NDArray[np.int32]
    resting: npt.NDArray[Any]
    running: npt.NDArray[Any]

    @classmethod
    def of(cls, stream: Stream, outcome: Outcome) -> Residents:
        weight, narrow = stream.weights[0], np.min_scalar_type(stream.n_entries)
        counts = ((held // weight).astype(narrow) for held in (outcome.resting, outcome.running))
        return cls(int(weight), stream.steps, *counts)


def empty_outcome(stream: Stream) -> tuple[Flags, Longs, Longs]:
    """What a kernel writes: hit, resting and running of an `Outcome`."""
    groups = stream.steps.size
    return np.empty(stream.entries.size, np.bool_), np.empty(groups, np.int64), np.empty(groups, np.int64)


def hits_below(counts: Longs) -> Longs:
    """int64[3, E + 1]: hits of each kind at capacities 0 to E. counts: lookups at each depth, the last of what was not
    there."""
    hits = np.zeros_like(counts)
    np.cumsum(counts[:, :-1], axis=1, out=hits[:, 1:])
    return hits


@dataclass(frozen=True)
class Part:
    """Some rows of a trace at one layer, and what a policy may have to know of the others.

    here: the rows; stream: their accesses, the first of which begin its first epoch; fresh: the cache was emptied
    before them, else the first epoch goes on; base: how many lookups the layer had before; later: int64[n_entries], the
    place of each entry's next lookup behind this part, before the cache is emptied, or None where nobody asks.
    """

    here: slice
    stream: Stream
    fresh: bool
    base: int = 0
    later: Longs | None = None

    @classmethod
    def of_all(cls, stream: Stream) -> Part:
        """All accesses of a cache as one part."""
        return cls(slice(None), stream, fresh=True)


class Stack:
    """The stack of one cache, which goes on from one part of its accesses to the next."""

    def depths(self, part: Part) -> Depths:
        """Depths of the next part; its first epoch goes on with the stack as it is, or with a new one if `fresh`."""
        raise NotImplementedError

    def count(self, part: Part, table: Longs) -> None:
        """Add to table int64[3, n_entries + 1] the lookups of each kind in the next part at each depth, those of
        entries that were not there last."""
        depth_histogram(self.depths(part).before, part.stream.kinds, table)

    def count_with(self, other: Any, parts: Sequence[Part], tables: Sequence[Longs]) -> bool:
        """As `count`, of this cache and another in one pass; False, and nothing done, where they do not go together."""
        return False

    def known(self) -> int:
        """How many entries are in the stack."""
        raise NotImplementedError
