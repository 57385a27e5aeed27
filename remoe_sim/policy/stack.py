"""Stack policies: an order of the entries that depends on the trace alone, and all that follows from it.

One pass over the keys of a policy tells what hits at every capacity. A policy may know quicker ways to some of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.arguments import GroupedAccesses, Stock, Written
from remoe_sim.policy.base import Policy
from remoe_sim.policy.guard import FAST_METHODS, guard
from remoe_sim.policy.outcome import Depths, Outcome, Part, Rules, Stack, empty_outcome

if TYPE_CHECKING:
    from remoe_sim.trace.accesses import Stream
    from remoe_sim.util.arrays import Longs

Ranks = npt.NDArray[np.uint32]
NEVER = 2**62  # as the place of a lookup: there is none, for entry e given as NEVER + e


class StackPolicy(Policy):
    """Keeps the entries with the smallest keys; subclasses supply `keys`."""

    def keys(self, stream: Stream) -> npt.NDArray[Any]:
        """int64 or float64[N]: the key of the entry after each lookup. Ties keep the lower entry."""
        raise NotImplementedError(f"policy '{self.label or self.name}' must define keys(stream)")

    def preload_keys(self, stream: Stream, preload: npt.NDArray[np.int32], dtype: Any) -> npt.NDArray[Any]:
        """[1 or epochs, n_entries]: keys of the entries that the cache starts with; by default behind all others."""
        keys = np.zeros((1, stream.n_entries), dtype)
        largest = np.finfo(dtype).max if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max - preload.size
        keys[0, preload] = largest if np.issubdtype(dtype, np.floating) else largest + np.arange(preload.size)
        return keys

    def fast_path(self) -> FastPath:
        """Quicker ways to what the keys say, for policies that have some."""
        return _Defined(self)

    def replay(self, stream: Stream, limit: int, rules: Rules) -> Outcome:
        found = self.fast_path().replay(stream, limit, rules)
        if found is not None:
            return found
        if stream.per_layer:
            return _replay_by_depths(self, stream, limit, rules)
        from remoe_sim.kernels.limits import ordered_replay

        return replay_by_keys(self, ordered_replay, stream, limit, rules)


class FastPath:
    """Quicker ways to what the keys of a stack policy say. Each is optional: None leaves it to the keys."""

    lone_from: int | None = None  # entries from which a pass at one limit is quicker than one for all
    abreast: int = 1  # caches whose stacks count together quicker than one after the other
    ranked: bool = False  # whether there are `ranks`

    def __init__(self, policy: StackPolicy) -> None:
        self.policy = policy

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        guard(cls, FAST_METHODS)

    def stack(self, n_entries: int, rules: Rules, in_parts: bool) -> Stack | None:
        """Make the stack of one cache, which gives depths. in_parts: accesses come in parts, which keys alone cannot
        rank; else all of them come at once."""
        return None

    def ranks(self, stream: Stream) -> Ranks | None:
        """uint32[N]: the keys as `remoe_sim.kernels.keys` has them; None where they do not fit. Layers are then
        replayed side by side."""
        return None

    def needed_bytes(self, stream: Stream, rules: Rules) -> Longs | None:
        """int64[N]: the smallest limit at which each lookup hits, for entries of unequal sizes too."""
        return None

    def replay(self, stream: Stream, limit: int, rules: Rules) -> Outcome | None:
        """Replay one cache at one limit."""
        return None


class _Defined(FastPath):
    """What the class of a policy defines itself: depths, count, resume, ranks, needed_bytes and at_limit were methods
    of policies before there were fast paths, and still may be."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        for name, older in {"ranks": "ranks", "needed_bytes": "needed_bytes", "replay": "at_limit"}.items():
            if method := _own(policy, older):
                setattr(self, name, method)
        self.lone_from = getattr(policy, "lone_from", None)
        self.ranked = bool(getattr(policy, "ranked", False))

    def stack(self, n_entries: int, rules: Rules, in_parts: bool) -> Stack | None:
        if in_parts:
            resume = _own(self.policy, "resume")
            resumed: Stack | None = resume(n_entries, rules) if resume else None
            return resumed
        one_of_both = _own(self.policy, "depths") or _own(self.policy, "count")
        return _DefinedStack(self.policy, rules, None) if one_of_both else None


def _own(policy: Any, verb: str) -> Any:
    """The method that the class of a policy has, or None."""
    return getattr(policy, verb) if callable(getattr(type(policy), verb, None)) else None


def depths(policy: StackPolicy, stream: Stream, rules: Rules, most: int | None = None) -> Depths:
    """Depths of all lookups, which tell of every capacity; those from `most` on may be said to be absent."""
    stream = stream.whole
    return _stack(policy, stream, rules, most).depths(Part.of_all(stream))


def count(policy: StackPolicy, streams: Sequence[Stream], rules: Sequence[Rules], tables: Sequence[Longs]) -> None:
    """Add to tables int64[3, n_entries + 1] of several caches their lookups of each kind at each depth, those of
    entries that were not there last."""
    stacks = [_stack(policy, stream, rule) for stream, rule in zip(streams, rules, strict=True)]
    count_parts(stacks, [Part.of_all(stream) for stream in streams], tables)


def count_parts(stacks: Sequence[Stack], parts: Sequence[Part], tables: Sequence[Longs]) -> None:
    """As `count`, of the next part of several caches: two together where they can."""
    at = 0
    while at < len(stacks):
        two = slice(at, at + 2)
        if at + 1 < len(stacks) and stacks[at].count_with(stacks[at + 1], parts[two], tables[two]):
            at += 2
        else:
            stacks[at].count(parts[at], tables[at])
            at += 1


def needed_bytes(policy: StackPolicy, stream: Stream, rules: Rules) -> Longs | None:
    """int64[N]: the smallest limit at which each lookup hits; None if only a pass per limit can tell.

    Exact when all entries take the same of the limit; a fast path may know it for unequal sizes too.
    """
    quick = policy.fast_path().needed_bytes(stream, rules)
    if quick is not None or not stream.equal_sizes:
        return quick
    from remoe_sim.kernels.recency import ABSENT

    found = depths(policy, stream, rules)
    needed: Longs = found.before.astype(np.int64)
    needed += 1
    needed *= stream.sizes[0]
    needed[found.before == found.absent] = ABSENT
    return needed


def replay_by_keys(
    policy: StackPolicy, kernel: Any, stream: Stream, limit: int, rules: Rules, keys: npt.NDArray[Any] | None = None
) -> Outcome:
    """Replay one cache at one limit by a kernel that takes what `remoe_sim.kernels.limits.ordered_replay` does.

    keys: numbers in the order of the policy's keys, such as ranks, where there are smaller ones.
    """
    stream = stream.whole
    keys, preload_keys = all_keys(policy, stream, rules, keys)
    hit, resting, running = empty_outcome(stream)
    accesses = GroupedAccesses(stream.offsets, stream.entries, stream.steps, stream.epochs)
    stock, written = Stock(stream.sizes, stream.weights, rules.preload), Written(hit, resting, running)
    evictions = kernel(accesses, keys, preload_keys, stock, limit, rules.mandatory, written)
    return Outcome(hit, evictions, resting, running)


def all_keys(
    policy: StackPolicy, stream: Stream, rules: Rules, keys: npt.NDArray[Any] | None = None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Keys after each lookup, [N], and of what the cache starts with, [1 or epochs, n_entries]."""
    if keys is None:
        keys = checked_keys(policy.label or policy.name, policy.keys(stream), stream.entries.size)
    none = np.zeros((1, stream.n_entries), keys.dtype)
    return keys, policy.preload_keys(stream, rules.preload, keys.dtype) if rules.preload.size else none


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


class KeyedStack(Stack):
    """All accesses of one cache at once, by keys."""

    def __init__(self, policy: StackPolicy, rules: Rules, most: int | None) -> None:
        self._policy, self._rules, self._most = policy, rules, most

    def depths(self, part: Part) -> Depths:
        from remoe_sim.kernels.stacks import ordered_depths

        stream, rules = part.stream.whole, self._rules
        keys, preload_keys = all_keys(self._policy, stream, rules)
        n = stream.n_entries
        dtype = np.uint16 if n < 2**16 else np.int32
        before, after = np.empty(keys.size, dtype), np.empty(keys.size, dtype)
        hole = np.inf if np.issubdtype(keys.dtype, np.floating) else np.iinfo(keys.dtype).max
        ordered_depths(
            stream.offsets, stream.entries, keys, stream.epochs, rules.preload, preload_keys, rules.mandatory,
            keys.dtype.type(hole), n if self._most is None else self._most, np.empty(n, np.int32), before, after,
        )  # fmt: skip
        return Depths(before, after, n)


class _DefinedStack(KeyedStack):
    """All accesses of one cache at once, by methods that the class of the policy defines."""

    def depths(self, part: Part) -> Depths:
        own = _own(self._policy, "depths")
        found: Depths = own(part.stream, self._rules) if own else super().depths(part)
        return found

    def count(self, part: Part, table: Longs) -> None:
        own = _own(self._policy, "count")
        if own:
            own([part.stream], [self._rules], [table])
        else:
            super().count(part, table)


def _stack(policy: StackPolicy, stream: Stream, rules: Rules, most: int | None = None) -> Stack:
    return policy.fast_path().stack(stream.n_entries, rules, False) or KeyedStack(policy, rules, most)


def _replay_by_depths(policy: StackPolicy, stream: Stream, limit: int, rules: Rules) -> Outcome:
    from remoe_sim.kernels.stacks import stack_replay

    capacity = min(limit, stream.n_entries)
    found = depths(policy, stream, rules, capacity)
    alike = np.promote_types(found.before.dtype, np.uint16)  # one kernel for most policies
    before = found.before.astype(alike, copy=False)
    after = np.zeros(0, before.dtype) if found.after is None else found.after
    hit, resting, running = empty_outcome(stream)
    evictions = stack_replay(
        stream.offsets, before, after, stream.epochs, capacity, found.absent,
        rules.preload.size, rules.mandatory, hit, resting, running,
    )  # fmt: skip
    return Outcome(hit, evictions, resting * stream.weights[0], running * stream.weights[0])


class OrderedParts(Stack):
    """The stack of a cache whose accesses come in parts, by keys; subclasses supply `keys`.

    held: int64[n_entries], the keys of the entries in the stack.
    """

    def __init__(self, policy: StackPolicy, n_entries: int, rules: Rules) -> None:
        self._policy, self._rules = policy, rules
        self._stack = np.zeros(0, np.int32)
        self.held = np.zeros(n_entries, np.int64)

    def keys(self, part: Part) -> Longs:
        """int64[N]: the keys of the next part. May change those held, but not their order."""
        raise NotImplementedError

    def preload_keys(self, part: Part) -> Longs:
        """int64[1 or epochs, n_entries]: keys of the entries that the epochs of the part start with."""
        return self._policy.preload_keys(part.stream, self._rules.preload, np.int64)

    def depths(self, part: Part) -> Depths:
        from remoe_sim.kernels.keys import latest

        stream, n = part.stream, self.held.size
        keys, epochs = self.keys(part), stream.epochs
        starts = self.preload_keys(part) if self._rules.preload.size else np.zeros((1, n), np.int64)
        dtype: Any = np.uint16 if n < 2**16 else np.int32
        before, after = np.empty(keys.size, dtype), np.empty(keys.size, dtype)
        depth = np.empty(n, np.int32)
        runs = [(epochs, self._rules.preload, starts)]
        if not part.fresh:
            rest = starts[1:] if len(starts) > 1 else starts
            runs = [(epochs[:2], self._stack, self.held[None]), (epochs[1:], self._rules.preload, rest)]
        for some, preload, preload_keys in runs:
            if some.size > 1:
                self._run(stream, keys, some, preload, preload_keys, depth, before, after)
                if preload_keys is starts or preload_keys.base is starts:
                    self.held[preload] = preload_keys[(some.size - 2) % len(preload_keys), preload]
        begin = stream.offsets[epochs[-2]]
        latest(stream.entries[begin:], keys[begin:], self.held)
        self._stack = np.argsort(depth, kind="stable")[: np.count_nonzero(depth < n)].astype(np.int32)
        return Depths(before, after, n)

    def _run(self, stream: Stream, keys: Longs, epochs: Longs, preload: Any, preload_keys: Longs, *out: Any) -> None:
        from remoe_sim.kernels.stacks import ordered_depths

        ordered_depths(
            stream.offsets, stream.entries, keys, epochs, preload, preload_keys, self._rules.mandatory,
            np.int64(np.iinfo(np.int64).max), self.held.size, *out,
        )  # fmt: skip

    def known(self) -> int:
        return self._stack.size
