"""First in, first out: the expert that entered the cache longest ago goes first; hits change nothing."""

from __future__ import annotations

from remoe_sim.kernels.lists import clear, oldest_outside, push_front, remove
from remoe_sim.policy import CompiledSlotPolicy

_QUEUE = 1  # rows 1 and 2: a list from the newest to the oldest


class Fifo(CompiledSlotPolicy):
    name = "fifo"
    summary = "the one that entered first goes first"
    source = "textbook; libCacheSim FIFO"
    state_rows = 3

    @staticmethod
    def setup(state, limit):
        clear(state, _QUEUE, state.shape[1] - 2)

    @staticmethod
    def victim(state, protected):
        entry = oldest_outside(state, _QUEUE, state.shape[1] - 2, protected)
        if entry >= 0:
            remove(state, _QUEUE, entry)
        return entry

    @staticmethod
    def insert(state, entry):
        push_front(state, _QUEUE, state.shape[1] - 2, entry)
