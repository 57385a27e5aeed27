"""S3-FIFO: a small FIFO filters out experts used once, a main FIFO gives those in use another round, ghosts return.

Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023, algorithm 1. As in
libCacheSim: small has a tenth of the limit, ghosts nine tenths; two uses in small lead to main; until the first
eviction main takes what small has no room for. Below 20 experts libCacheSim hits nothing; here small has room for one.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.lists import clear, has_several, oldest, oldest_outside, push_front, remove
from remoe_sim.policy import CompiledSlotPolicy

_CACHE, _GHOSTS, _PLACE, _USES = 1, 3, 5, 6  # two rows of lists each; where an entry is; uses, of which 3 count in main
_SMALL, _MAIN, _GHOST = 1, 2, 3
_PROMOTED = 2  # uses in small


class S3Fifo(CompiledSlotPolicy):
    name = "s3fifo"
    summary = "a small FIFO for newcomers, a main one in which uses earn another round, ghosts that return to main"
    source = "Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023; libCacheSim"
    state_rows = 7

    # Small and main share the rows of _CACHE. Extra columns: of _GHOSTS (the second) the limit and whether the newcomer
    # was a ghost; of _PLACE what small and main hold; of _USES what the ghosts take and whether anything was evicted.

    @staticmethod
    def setup(state, limit):
        n = state.shape[1] - 2
        clear(state, _CACHE, n)
        clear(state, _CACHE, n + 1)
        clear(state, _GHOSTS, n)
        state[_GHOSTS, n + 1] = limit
        state[_GHOSTS + 1, n + 1] = 0
        state[_PLACE] = 0
        state[_USES] = 0

    @staticmethod
    def hit(state, entry):
        state[_USES, entry] += 1

    @staticmethod
    def admit(state, entry):
        n = state.shape[1] - 2
        returns = state[_PLACE, entry] == _GHOST
        state[_GHOSTS + 1, n + 1] = returns
        if returns:
            remove(state, _GHOSTS, entry)
            state[_USES, n] -= state[0, entry]

    @staticmethod
    def victim(state, protected):
        n = state.shape[1] - 2
        limit = state[_GHOSTS, n + 1]
        entry = np.int64(-1)
        if state[_PLACE, n + 1] > limit - limit // 10:
            entry = oldest_outside(state, _CACHE, n + 1, protected)
        if entry < 0:
            small = oldest_outside(state, _CACHE, n, protected)
            while small >= 0:
                size = state[0, small]
                remove(state, _CACHE, small)
                state[_PLACE, n] -= size
                if state[_USES, small] < _PROMOTED:
                    state[_USES, n + 1] = 1
                    state[_USES, n] += size
                    state[_PLACE, small] = _GHOST
                    push_front(state, _GHOSTS, n, small)
                    while state[_USES, n] > limit * 9 // 10 and has_several(state, _GHOSTS, n):
                        forgotten = oldest(state, _GHOSTS, n)
                        remove(state, _GHOSTS, forgotten)
                        state[_USES, n] -= state[0, forgotten]
                        state[_PLACE, forgotten] = 0
                    return small
                state[_USES, small] = 0
                state[_PLACE, small] = _MAIN
                state[_PLACE, n + 1] += size
                push_front(state, _CACHE, n + 1, small)
                small = oldest_outside(state, _CACHE, n, protected)
            entry = oldest_outside(state, _CACHE, n + 1, protected)
        if entry < 0:
            return -1
        state[_USES, n + 1] = 1
        while state[_USES, entry] > 0:
            state[_USES, entry] = min(state[_USES, entry], 3) - 1
            remove(state, _CACHE, entry)
            push_front(state, _CACHE, n + 1, entry)
            entry = oldest_outside(state, _CACHE, n + 1, protected)
        remove(state, _CACHE, entry)
        state[_PLACE, n + 1] -= state[0, entry]
        state[_PLACE, entry] = 0
        return entry

    @staticmethod
    def insert(state, entry):
        n = state.shape[1] - 2
        small = state[_PLACE, n]
        full = small > 0 and small >= state[_GHOSTS, n + 1] // 10
        to_main = state[_GHOSTS + 1, n + 1] or (full and not state[_USES, n + 1])
        state[_USES, entry] = 0
        state[_PLACE, entry] = _MAIN if to_main else _SMALL
        state[_PLACE, n + 1 if to_main else n] += state[0, entry]
        push_front(state, _CACHE, n + 1 if to_main else n, entry)
