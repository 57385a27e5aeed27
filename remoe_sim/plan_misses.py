"""Experts that each step misses at each MoE layer, at any limit: from one pass where the policy has an order of
experts, else from a pass per limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.caches import Caches
from remoe_sim.engine import replay_stream
from remoe_sim.holdings import of_replay, of_shared
from remoe_sim.policy import Policy, Rules, StackPolicy
from remoe_sim.streams import Stream
from remoe_sim.threads import map_layers
from remoe_sim.timelines import Counts
from remoe_sim.timing import StepCounts


@dataclass(frozen=True)
class Accesses:
    """The lookups of one cache. needs[N]: a lookup hits at every limit that is as large; None where only a replay
    tells."""

    stream: Stream
    rules: Rules
    layer: int | None
    needs: npt.NDArray[Any] | None

    def hits(self, policy: Policy, limit: int) -> npt.NDArray[np.bool_]:
        """bool[N]: the lookups that hit at a limit."""
        if self.needs is not None:
            return self.needs <= (limit if self.layer is None else min(limit, self.stream.n_entries))
        return replay_stream(policy, self.stream, limit, self.rules)[1].hit


@dataclass(frozen=True)
class Misses:
    """What one policy misses of a trace, at every limit: experts per layer, or bytes in all under scope `global`."""

    caches: Caches
    policy: Policy
    accesses: tuple[Accesses, ...]

    @classmethod
    def of(cls, caches: Caches, policy: Policy) -> Misses:
        def of_layer(index: int) -> Accesses:
            stream, rules = caches.layer_views(index).get(policy.by_last), caches.layer_rules(index)
            needs = None
            if isinstance(policy, StackPolicy):
                before = policy.depths(stream, rules).before
                needs = before.astype(np.uint16 if stream.n_entries < 2**16 - 1 else np.int64) + 1
            return Accesses(stream, rules, index, needs)

        if caches.settings.per_layer:
            return cls(caches, policy, tuple(map_layers(of_layer, caches.trace.moe_layers, of_replay(caches))))
        stream, rules = caches.global_views(True).get(policy.by_last), caches.global_rules()
        needs = policy.needed_bytes(stream, rules) if isinstance(policy, StackPolicy) else None
        return cls(caches, policy, (Accesses(stream, rules, None, needs),))

    def needed(self) -> Counts:
        """uint16[steps, MoE layers]: distinct experts of every group."""
        counts = StepCounts(self.caches.trace, self.caches.tokens, 0)
        for one in self.accesses:
            counts.need(one.stream, one.layer)
        return counts.needed

    def at(self, limit: int) -> Counts:
        """uint16[steps, MoE layers]: those of them that are missing at a limit."""
        counts = StepCounts(self.caches.trace, self.caches.tokens, 1)
        for one in self.accesses:
            counts.miss(0, one.stream, one.hits(self.policy, limit), one.layer)
        return counts.missed[0]

    @property
    def each(self) -> int:
        """Bytes that `at` takes meanwhile, for the largest cache."""
        return max(one.stream.entries.size if one.needs is not None else of_shared(one.stream) for one in self.accesses)

    @property
    def ordered(self) -> bool:
        """Whether a larger cache never misses what a smaller one does not."""
        return all(one.needs is not None for one in self.accesses)

    @cached_property
    def limits(self) -> Sequence[int]:
        """Ascending, from 0 to all experts: every limit at which lookups begin to hit, or where only a replay tells,
        every limit that whole experts can fill: all multiples of what their sizes have in common."""
        model = self.caches.trace.model
        if self.caches.settings.per_layer:
            return range(max(model.experts) + 1)
        assert model.expert_bytes is not None
        total = sum(size * count for size, count in zip(model.expert_bytes, model.experts, strict=True))
        if not self.ordered:
            return range(0, total + 1, math.gcd(*model.expert_bytes))
        needs = np.unique(np.concatenate([one.needs for one in self.accesses if one.needs is not None]))
        limits: list[int] = np.unique(np.append(needs[needs < total], (0, total))).tolist()
        return limits
