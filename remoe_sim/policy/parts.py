"""Stack policies on accesses that come in parts: what a policy knows goes on from one part to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.policy.outcome import Depths, Part, Rules, Stack

if TYPE_CHECKING:
    from remoe_sim.policy.stack import StackPolicy
    from remoe_sim.trace.accesses import Stream
    from remoe_sim.util.arrays import Longs

NEVER = 2**62  # as the place of a lookup: there is none, for entry e given as NEVER + e


class OrderedParts(Stack):
    """The stack of a policy that keeps the smallest keys; subclasses supply `keys`.

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
