"""Least frequently used among the residents: the count of an expert dies when it is evicted."""

from __future__ import annotations

from remoe_sim.kernels.frequencies import ROWS, add_counted, clear_counts, count_use, drop_counted
from remoe_sim.kernels.lists import oldest_outside
from remoe_sim.policy import CompiledSlotPolicy

_USES = 1  # the first of the rows of `frequencies`


class LfuForget(CompiledSlotPolicy):
    name = "lfu-forget"
    summary = "least often used since it entered goes first, ties by recency; eviction forgets the count"
    source = "libCacheSim LFU"
    state_rows = 1 + ROWS

    @staticmethod
    def setup(state, limit):
        clear_counts(state, _USES)

    @staticmethod
    def hit(state, entry):
        count_use(state, _USES, entry)

    @staticmethod
    def admit(state, entry):
        pass

    @staticmethod
    def victim(state, protected):
        entry = oldest_outside(state, _USES, state.shape[1] - 2, protected)
        if entry >= 0:
            drop_counted(state, _USES, entry)
        return entry

    @staticmethod
    def insert(state, entry):
        add_counted(state, _USES, entry, 1)
