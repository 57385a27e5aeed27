"""2Q: newcomers wait in a FIFO; who returns soon after having left it enters an LRU.

Johnson, Shasha: 2Q: a low overhead high performance buffer management replacement algorithm, VLDB 1994, the full
version: A1in of a quarter of the limit, A1out (experts that are not resident) of half of it, and Am of the rest; a hit
in A1in changes nothing. The shares are libCacheSim's; below four experts it admits nothing, here A1in has room for one.
"""

from __future__ import annotations

from remoe_sim.kernels.lists import clear, has_several, oldest, oldest_outside, push_front, remove
from remoe_sim.policy import CompiledSlotPolicy

_CACHE, _GHOSTS, _PLACE = 1, 3, 5  # two rows of lists each; where an entry is
_IN, _MAIN, _OUT = 1, 2, 3


class TwoQ(CompiledSlotPolicy):
    name = "2q"
    summary = "a FIFO for newcomers, an LRU for those that return soon after they left it"
    source = "Johnson, Shasha: 2Q, VLDB 1994, section 2.2 (full version); libCacheSim TwoQ"
    state_rows = 6

    # A1in and Am share the rows of _CACHE. Extra columns: of _GHOSTS (the second) the limit and whether the newcomer
    # returns from A1out; of _PLACE what A1in and A1out hold.

    @staticmethod
    def setup(state, limit):
        n = state.shape[1] - 2
        clear(state, _CACHE, n)
        clear(state, _CACHE, n + 1)
        clear(state, _GHOSTS, n)
        state[_GHOSTS, n + 1] = limit
        state[_GHOSTS + 1, n + 1] = 0
        state[_PLACE] = 0

    @staticmethod
    def hit(state, entry):
        if state[_PLACE, entry] == _MAIN:
            remove(state, _CACHE, entry)
            push_front(state, _CACHE, state.shape[1] - 1, entry)

    @staticmethod
    def admit(state, entry):
        n = state.shape[1] - 2
        returns = state[_PLACE, entry] == _OUT
        state[_GHOSTS + 1, n + 1] = returns
        if returns:
            remove(state, _GHOSTS, entry)
            state[_PLACE, n + 1] -= state[0, entry]

    @staticmethod
    def victim(state, protected):
        n = state.shape[1] - 2
        limit = state[_GHOSTS, n + 1]
        over = state[_PLACE, n] > limit // 4 and has_several(state, _CACHE, n)
        first = n if over or state[_CACHE, n + 1] == n + 1 else n + 1  # A1in, or Am
        entry = oldest_outside(state, _CACHE, first, protected)
        if entry < 0:
            entry = oldest_outside(state, _CACHE, 2 * n + 1 - first, protected)
        if entry < 0:
            return -1
        remove(state, _CACHE, entry)
        if state[_PLACE, entry] == _MAIN:
            state[_PLACE, entry] = 0
            return entry
        state[_PLACE, n] -= state[0, entry]
        state[_PLACE, n + 1] += state[0, entry]
        state[_PLACE, entry] = _OUT
        push_front(state, _GHOSTS, n, entry)
        while state[_PLACE, n + 1] > limit // 2 and has_several(state, _GHOSTS, n):
            forgotten = oldest(state, _GHOSTS, n)
            remove(state, _GHOSTS, forgotten)
            state[_PLACE, n + 1] -= state[0, forgotten]
            state[_PLACE, forgotten] = 0
        return entry

    @staticmethod
    def insert(state, entry):
        n = state.shape[1] - 2
        if state[_GHOSTS + 1, n + 1]:
            state[_PLACE, entry] = _MAIN
            push_front(state, _CACHE, n + 1, entry)
        else:
            state[_PLACE, entry] = _IN
            state[_PLACE, n] += state[0, entry]
            push_front(state, _CACHE, n, entry)
