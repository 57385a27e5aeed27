"""What a cache policy is. A policy is one class in one file of `policies/`, or in a file of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.arguments import Accesses, Stock, Written
from remoe_sim.kernels.tallies import depth_histogram
from remoe_sim.policy.guard import guard
from remoe_sim.policy.outcome import Depths as Depths
from remoe_sim.policy.outcome import Outcome as Outcome
from remoe_sim.policy.outcome import Part, Resumed
from remoe_sim.policy.outcome import Rules as Rules
from remoe_sim.policy.outcome import empty_outcome as empty_outcome

if TYPE_CHECKING:
    from remoe_sim.trace.accesses import Stream as Stream
    from remoe_sim.util.arrays import Longs as Longs


def checked_keys(policy: str, keys: Any, lookups: int) -> npt.NDArray[Any]:
    """int64 or float64[lookups]; ValueError unless there is a finite number for every lookup.

    The largest int64 stands for "no entry" in kernels, as infinity does among fractions.
    """
    keys = np.asarray(keys)
    fractions = keys.dtype.kind == "f"
    numbers = keys.shape == (lookups,) and keys.dtype.kind in "iuf"
    if not numbers or not (np.isfinite(keys) if fractions else keys < np.iinfo(np.int64).max).all():
        raise ValueError(
            f"policy '{policy}' gave keys that are no array of {lookups} finite numbers below 2**63 - 1, one per "
            f"lookup, but {keys.dtype} of shape {keys.shape}; correct its keys()"
        )
    return np.ascontiguousarray(keys, np.float64 if fractions else np.int64)


Ranks = npt.NDArray[np.uint32]


class Policy:
    """Common to all policies. `name` is what the user types, `summary` one line, `source` the paper or engine.

    Options are the keyword arguments of a policy's own `__init__`, which must have defaults: the user types
    `random:seed=7`, and they are converted to the type of the default.
    """

    kind: ClassVar[str] = "policy"
    name: ClassVar[str]
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    optimal: ClassVar[bool] = False  # fewest misses where all entries take the same of the limit
    by_last: ClassVar[bool] = True  # members of a group in order of last appearance, else of first
    admissions: ClassVar[tuple[str, ...]] = ("mandatory", "bypass")  # those it can work under
    online: ClassVar[bool] = True  # decides without knowing what comes
    needs_training: ClassVar[bool] = False  # whether `Rules.popularity` must be there
    label: str = ""  # the name as the user typed it, options included
    fast: bool = False  # whether a policy of somebody else is compiled without bounds checks

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        guard(cls)

    def replay(self, stream: Stream, limit: int, rules: Rules) -> Outcome:
        """Replay one cache at one limit."""
        raise NotImplementedError(f"{type(self).__name__} must be a StackPolicy or a SlotPolicy")


class StackPolicy(Policy):
    """Keeps the entries with the smallest keys; subclasses supply `keys`."""

    ranked: ClassVar[bool] = False  # whether `ranks` says the same
    lone_from: ClassVar[int | None] = None  # entries from which a pass at one limit is quicker than one for all
    abreast: ClassVar[int] = 1  # caches that `count` and `count_parts` do together quicker than one after the other

    def keys(self, stream: Stream) -> npt.NDArray[Any]:
        """int64 or float64[N]: the key of the entry after each lookup. Ties keep the lower entry."""
        raise NotImplementedError(f"policy '{self.label or self.name}' must define keys(stream)")

    def ranks(self, stream: Stream) -> Ranks | None:
        """uint32[N]: `keys` as `remoe_sim.kernels.keys` has them, for policies that are `ranked`; None where they do
        not fit. Layers are then replayed side by side."""
        return None

    def preload_keys(self, stream: Stream, preload: npt.NDArray[np.int32], dtype: Any) -> npt.NDArray[Any]:
        """[1 or epochs, n_entries]: keys of the entries that the cache starts with; by default behind all others."""
        keys = np.zeros((1, stream.n_entries), dtype)
        largest = np.finfo(dtype).max if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max - preload.size
        keys[0, preload] = largest if np.issubdtype(dtype, np.floating) else largest + np.arange(preload.size)
        return keys

    def _keys(
        self, stream: Stream, rules: Rules, keys: npt.NDArray[Any] | None = None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        if keys is None:
            keys = checked_keys(self.label or self.name, self.keys(stream), stream.entries.size)
        none = np.zeros((1, stream.n_entries), keys.dtype)
        return keys, self.preload_keys(stream, rules.preload, keys.dtype) if rules.preload.size else none

    def resume(self, n_entries: int, rules: Rules) -> Resumed | None:
        """What gives the depths of accesses that come in parts; None if the policy must see all of them at once."""
        return None

    def depths(self, stream: Stream, rules: Rules, most: int | None = None) -> Depths:
        """Depths of all lookups, which tell of every capacity; those from `most` on may be said to be absent."""
        from remoe_sim.kernels.stacks import ordered_depths

        stream = stream.whole
        keys, preload_keys = self._keys(stream, rules)
        n = stream.n_entries
        dtype = np.uint16 if n < 2**16 else np.int32
        before, after = np.empty(keys.size, dtype), np.empty(keys.size, dtype)
        hole = np.inf if np.issubdtype(keys.dtype, np.floating) else np.iinfo(keys.dtype).max
        ordered_depths(
            stream.offsets, stream.entries, keys, stream.epochs, rules.preload, preload_keys, rules.mandatory,
            keys.dtype.type(hole), n if most is None else most, np.empty(n, np.int32), before, after,
        )  # fmt: skip
        return Depths(before, after, n)

    def count(self, streams: Sequence[Stream], rules: Sequence[Rules], tables: Sequence[Longs]) -> None:
        """Add to tables int64[3, n_entries + 1] of several caches their lookups of each kind at each depth, those of
        entries that were not there last."""
        for stream, rule, table in zip(streams, rules, tables, strict=True):
            depth_histogram(self.depths(stream, rule).before, stream.kinds, table)

    def count_parts(self, runs: Sequence[Any], parts: Sequence[Part], tables: Sequence[Longs]) -> None:
        """As `count`, of the next part of several caches; runs: what `resume` gave for each."""
        for run, part, table in zip(runs, parts, tables, strict=True):
            depth_histogram(run.depths(part).before, part.stream.kinds, table)

    def needed_bytes(self, stream: Stream, rules: Rules) -> Longs | None:
        """int64[N]: the smallest limit at which each lookup hits; None if only a pass per limit can tell.

        Exact when all entries take the same of the limit; LRU knows it for unequal sizes too.
        """
        if not stream.equal_sizes:
            return None
        from remoe_sim.kernels.recency import ABSENT

        depths = self.depths(stream, rules)
        needed: Longs = depths.before.astype(np.int64)
        needed += 1
        needed *= stream.sizes[0]
        needed[depths.before == depths.absent] = ABSENT
        return needed

    def replay(self, stream: Stream, limit: int, rules: Rules) -> Outcome:
        return self.at_limit(stream, limit, rules)

    def at_limit(self, stream: Stream, limit: int, rules: Rules) -> Outcome:
        """What `replay` gives, for policies that have a quicker way to it."""
        if stream.per_layer:
            return self._replay_stack(stream, limit, rules)
        from remoe_sim.kernels.limits import ordered_replay

        return self.by_keys(ordered_replay, stream, limit, rules)

    def by_keys(
        self, kernel: Any, stream: Stream, limit: int, rules: Rules, keys: npt.NDArray[Any] | None = None
    ) -> Outcome:
        """One cache at one limit, by a kernel that takes what `remoe_sim.kernels.limits.ordered_replay` does.

        keys: numbers in the order of `keys`, such as ranks, where there are smaller ones.
        """
        stream = stream.whole
        keys, preload_keys = self._keys(stream, rules, keys)
        hit, resting, running = empty_outcome(stream)
        accesses = Accesses(stream.offsets, stream.entries, stream.steps, stream.epochs)
        stock, written = Stock(stream.sizes, stream.weights, rules.preload), Written(hit, resting, running)
        evictions = kernel(accesses, keys, preload_keys, stock, limit, rules.mandatory, written)
        return Outcome(hit, evictions, resting, running)

    def _replay_stack(self, stream: Stream, limit: int, rules: Rules) -> Outcome:
        from remoe_sim.kernels.stacks import stack_replay

        capacity = min(limit, stream.n_entries)
        depths = self.depths(stream, rules, capacity)
        alike = np.promote_types(depths.before.dtype, np.uint16)  # one kernel for most policies
        before = depths.before.astype(alike, copy=False)
        after = np.zeros(0, before.dtype) if depths.after is None else depths.after
        hit, resting, running = empty_outcome(stream)
        evictions = stack_replay(
            stream.offsets, before, after, stream.epochs, capacity, depths.absent,
            rules.preload.size, rules.mandatory, hit, resting, running,
        )  # fmt: skip
        return Outcome(hit, evictions, resting * stream.weights[0], running * stream.weights[0])
