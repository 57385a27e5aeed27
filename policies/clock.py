"""CLOCK: a queue in order of entry whose oldest expert gets a second chance if it was used since it was last looked at.

Corbató: A paging experiment with the Multics system, 1968. Experts of the running step are passed over without changing
their marks.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.lists import at
from remoe_sim.policy import CompiledSlotPolicy

_QUEUE, _USED = 1, 2  # a ring of n places, the extra columns: where the oldest is, how many there are; used since


class Clock(CompiledSlotPolicy):
    name = "clock"
    summary = "the oldest goes first, but once used it is put back in front instead"
    source = "Corbató: A paging experiment with the Multics system, 1968; libCacheSim Clock with one bit"
    state_rows = 3

    @staticmethod
    def setup(state, limit):
        n = state.shape[1] - 2
        state[_QUEUE, n] = 0
        state[_QUEUE, n + 1] = 0

    @staticmethod
    def hit(state, entry):
        state[_USED, at(entry)] = 1

    @staticmethod
    def victim(state, protected):
        n = state.shape[1] - 2
        first, count = state[_QUEUE, n], state[_QUEUE, n + 1]
        passed = 0  # protected ones, which stay the oldest
        while passed < count:
            place = first + passed
            place -= n if place >= n else 0
            entry = state[_QUEUE, at(place)]
            if protected[at(entry)]:
                passed += 1
                continue
            for _ in range(passed):
                before = place - 1 if place > 0 else n - 1
                state[_QUEUE, at(place)] = state[_QUEUE, at(before)]
                place = before
            first = first + 1 if first + 1 < n else 0
            if state[_USED, at(entry)] == 0:
                state[_QUEUE, n] = first
                state[_QUEUE, n + 1] = count - 1
                return entry
            state[_USED, at(entry)] = 0
            last = first + count - 1
            state[_QUEUE, at(last - n if last >= n else last)] = entry
        return np.int64(-1)

    @staticmethod
    def insert(state, entry):
        n = state.shape[1] - 2
        last = state[_QUEUE, n] + state[_QUEUE, n + 1]
        state[_QUEUE, at(last - n if last >= n else last)] = entry
        state[_QUEUE, n + 1] += 1
        state[_USED, at(entry)] = 0
