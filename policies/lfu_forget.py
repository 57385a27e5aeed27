"""Least frequently used among the residents: the count of an expert dies when it is evicted."""

from __future__ import annotations

from remoe_sim.kernels.lists import clear, push_front, remove
from remoe_sim.policy import CompiledSlotPolicy

_COUNT, _RECENCY = 1, 2  # row 1: uses since insertion; rows 2 and 3: a list from the most to the least recently used


class LfuForget(CompiledSlotPolicy):
    name = "lfu-forget"
    summary = "least often used since it entered goes first, ties by recency; eviction forgets the count"
    source = "libCacheSim LFU"
    state_rows = 4

    @staticmethod
    def setup(state, limit):  # type: ignore[no-untyped-def,override]
        clear(state, _RECENCY, state.shape[1] - 2)

    @staticmethod
    def hit(state, entry):  # type: ignore[no-untyped-def,override]
        state[_COUNT, entry] += 1
        remove(state, _RECENCY, entry)
        push_front(state, _RECENCY, state.shape[1] - 2, entry)

    @staticmethod
    def admit(state, entry):  # type: ignore[no-untyped-def,override]
        pass

    @staticmethod
    def victim(state, protected):  # type: ignore[no-untyped-def,override]
        head = state.shape[1] - 2
        best = -1
        entry = state[_RECENCY + 1, head]
        while entry != head:
            if not protected[entry] and (best < 0 or state[_COUNT, entry] < state[_COUNT, best]):
                best = entry
            entry = state[_RECENCY + 1, entry]
        if best >= 0:
            remove(state, _RECENCY, best)
        return best

    @staticmethod
    def insert(state, entry):  # type: ignore[no-untyped-def,override]
        state[_COUNT, entry] = 1
        push_front(state, _RECENCY, state.shape[1] - 2, entry)
