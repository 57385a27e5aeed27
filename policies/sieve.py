"""SIEVE: one queue in order of entry and a hand that moves from old to new; who was used since it last passed stays.

Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is simpler than LRU, NSDI 2024, algorithm 1. The hand passes over the experts
of the running step without changing their marks.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.lists import at, clear, oldest, push_front, remove
from remoe_sim.policy import CompiledSlotPolicy

_QUEUE, _USED = 1, 3  # rows 1 and 2: a list from the newest to the oldest; row 3: used since the hand passed


class Sieve(CompiledSlotPolicy):
    name = "sieve"
    summary = "a hand moves from old to new and evicts the first one not used since it last passed"
    source = "Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is simpler than LRU, NSDI 2024; libCacheSim Sieve"
    state_rows = 4  # the extra columns of row 3: where the hand is, the head for "at the oldest"; how many residents

    @staticmethod
    def setup(state, limit):
        n = state.shape[1] - 2
        clear(state, _QUEUE, n)
        state[_USED, n] = n
        state[_USED, n + 1] = 0

    @staticmethod
    def hit(state, entry):
        state[_USED, at(entry)] = 1

    @staticmethod
    def victim(state, protected):
        n = state.shape[1] - 2
        entry = state[_USED, n]
        for _ in range(2 * state[_USED, n + 1]):  # in two rounds it finds one, or all are protected
            if entry == n:
                entry = oldest(state, _QUEUE, n)
            newer = state[_QUEUE + 1, at(entry)]
            used, stays = state[_USED, at(entry)], np.int64(protected[at(entry)])
            if used | stays == 0:  # one branch, for nobody can foresee either
                state[_USED, n] = newer
                state[_USED, n + 1] -= 1
                remove(state, _QUEUE, entry)
                return entry
            state[_USED, at(entry)] = used & stays
            entry = newer
        return np.int64(-1)

    @staticmethod
    def insert(state, entry):
        n = state.shape[1] - 2
        state[_USED, at(entry)] = 0
        state[_USED, n + 1] += 1
        push_front(state, _QUEUE, n, entry)
