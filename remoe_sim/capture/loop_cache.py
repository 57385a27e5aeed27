"""A cache that is used while a model runs: one policy, one layer, one step after the other."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.policy import SlotPolicy, StackPolicy
from remoe_sim.policy.drive import check_drivable, recency_of
from remoe_sim.policy.find import find_policy
from remoe_sim.policy.slot import VERBS, CompiledSlotPolicy, plain_verbs
from remoe_sim.trace.accesses import DECODE_LOOKUP, Stream

if TYPE_CHECKING:
    from remoe_sim.util.arrays import Longs


class LoopCache:
    """The experts of one layer that are resident, under mandatory admission; `use` is called once per step.

    resident: bool[experts], what is there before the next step.
    """

    def __init__(self, capacity: int, experts: int) -> None:
        self.capacity, self.resident = capacity, np.zeros(experts, np.bool_)
        self.steps = 0

    def use(self, chosen: npt.NDArray[np.int64]) -> tuple[int, int]:
        """Look up what a step needs, int64[lookups] in order, repetitions included; return lookups and hits, of
        distinct experts."""
        group = list(dict.fromkeys(chosen.tolist()))
        hits = int(self.resident[group].sum()) if group else 0
        if group:
            self._touch(group, list(dict.fromkeys(reversed(chosen.tolist())))[::-1])
            self.steps += 1
        return len(group), hits

    def _touch(self, first: list[int], last: list[int]) -> None:
        """Take the distinct experts of a step in, in order of first and of last appearance."""
        raise NotImplementedError


def loop_caches(policy: str, capacity: int, experts: Sequence[int]) -> list[LoopCache]:
    """Make an empty cache of `capacity` experts for every layer; ValueError for a policy that cannot run in a loop."""
    made = find_policy(policy)
    check_drivable(made, "a model that runs")
    if not made.online:
        raise ValueError(f"policy '{made.label}' looks ahead, which a model that runs cannot; take one such as lru")
    if "mandatory" not in made.admissions:
        raise ValueError(f"policy '{made.label}' does not admit every expert, as the loop does; take one such as lru")
    kind = _Keyed if isinstance(made, StackPolicy) else _Slots
    return [kind(deepcopy(made), capacity, count) for count in experts]


class _Keyed(LoopCache):
    """A stack policy: the members of the group first, the smallest keys of each."""

    def __init__(self, policy: StackPolicy, capacity: int, experts: int) -> None:
        super().__init__(capacity, experts)
        self._policy, self._by_recency = policy, recency_of(policy) == 1
        self._last = np.zeros(experts, np.int64)  # the number of each expert's last lookup
        self._size = 0
        self._offsets, self._entries = np.zeros(2, np.int64), np.zeros(1, np.int32)

    def _touch(self, first: list[int], last: list[int]) -> None:
        begin, self._size = self._size, self._size + len(last)
        self._last[last] = np.arange(begin, self._size)
        keys = self._keys(begin, last)
        members = set(last)
        others = [expert for expert in np.flatnonzero(self.resident).tolist() if expert not in members]
        kept = [*sorted(last, key=keys.__getitem__), *sorted(others, key=keys.__getitem__)][: self.capacity]
        self.resident[:] = False
        self.resident[kept] = True

    def _keys(self, begin: int, group: list[int]) -> list[tuple[Any, int]]:
        """The key of every expert after the lookups of a group, ties by number. A policy's keys are comparable only
        among themselves, so it is asked for those of all lookups so far."""
        keys = -self._last
        if not self._by_recency:
            self._entries = _grown(self._entries, self._size)
            self._entries[begin : self._size] = group
            self._offsets = _grown(self._offsets, self.steps + 2)
            self._offsets[self.steps + 1] = self._size
            stream = _stream(self._offsets[: self.steps + 2], self._entries[: self._size], self.resident.size)
            keys = self._policy.keys(stream)[self._last]
        return list(zip(keys.tolist(), range(keys.size), strict=True))


def _grown(values: Any, size: int) -> Any:
    return values if values.size >= size else np.concatenate([values, np.zeros(max(size, values.size), values.dtype)])


def _stream(offsets: Longs, entries: npt.NDArray[np.int32], experts: int) -> Stream:
    groups = offsets.size - 1
    return Stream(
        offsets, entries, np.full(entries.size, DECODE_LOOKUP, np.uint8), np.arange(groups, dtype=np.int32),
        np.array([0, groups]), np.ones(experts, np.int64),
    )  # fmt: skip


class _Slots(LoopCache):
    """A slot policy: what `remoe_sim.kernels.slots.slot_replay` does for one step, by the policy's verbs."""

    def __init__(self, policy: Any, capacity: int, experts: int) -> None:
        super().__init__(capacity, experts)
        stream = _stream(np.zeros(1, np.int64), np.zeros(0, np.int32), experts)
        by_hand = isinstance(policy, SlotPolicy)
        verbs = policy._verbs(stream) if by_hand else plain_verbs(type(policy), policy.fast)
        self._verbs: dict[str, Any] = dict(zip(VERBS, verbs, strict=True))
        self._trims = policy._trims
        self._state = policy._state(stream) if isinstance(policy, CompiledSlotPolicy) else np.zeros((1, 2), np.int64)
        self._name = policy.label or policy.name
        self._verbs["setup"](self._state, capacity)

    def _touch(self, first: list[int], last: list[int]) -> None:
        self._state[0, -1] = self.steps
        protected = np.zeros(self.resident.size, np.uint8)
        protected[first] = 1
        held = int(self.resident.sum())
        for expert in first:
            if self.resident[expert]:
                self._verbs["hit"](self._state, expert)
                while self._trims and (leaving := int(self._verbs["surplus"](self._state, protected))) >= 0:
                    self._evict(leaving)
                    held -= 1
            elif self.capacity:
                self._verbs["admit"](self._state, expert)
                if held == self.capacity:
                    leaving = int(self._verbs["victim"](self._state, protected))
                    if leaving < 0:
                        leaving = int(self._verbs["victim"](self._state, np.zeros_like(protected)))
                    self._evict(leaving)
                    held -= 1
                self._verbs["insert"](self._state, expert)
                self.resident[expert] = True
                held += 1

    def _evict(self, expert: int) -> None:
        if not 0 <= expert < self.resident.size or not self.resident[expert]:
            raise ValueError(f"policy '{self._name}' chose a victim that is not resident; correct its victim()")
        self.resident[expert] = False
