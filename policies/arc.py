"""ARC: one list for experts used once of late, one for those used again; ghosts of both say which deserves more room.

Megiddo, Modha: ARC: a self-tuning, low overhead replacement cache, FAST 2003, figure 4. The target p of the first list
is a real number, as in libCacheSim. With sizes, lists are compared by what their entries take of the limit, and p moves
by the size of the expert that returned times the ratio of the ghost lists.
"""

from __future__ import annotations

from remoe_sim.kernels.lists import clear, oldest, oldest_outside, push_front, remove
from remoe_sim.kernels.state import real, set_real
from remoe_sim.policy import CompiledSlotPolicy

_CACHE, _GHOSTS, _PLACE, _HELD, _REAL = 1, 3, 5, 6, 8  # two rows of lists each; where; what the lists hold; reals
_T1, _T2, _B1, _B2 = 1, 2, 3, 4


class Arc(CompiledSlotPolicy):
    name = "arc"
    summary = "two LRU lists, used once and used again, whose ghosts shift room between them"
    source = "Megiddo, Modha: ARC: a self-tuning, low overhead replacement cache, FAST 2003; libCacheSim ARC"
    state_rows = 9

    # T1 and T2 share the rows of _CACHE, B1 and B2 those of _GHOSTS. Extra columns: of _PLACE the ghost list that the
    # newcomer was in and its size until it is inserted; of _HELD what T1 and T2 hold, in the row below B1 and B2; of
    # _REAL p and the limit.

    @staticmethod
    def setup(state, limit):
        n = state.shape[1] - 2
        for head in (n, n + 1):
            clear(state, _CACHE, head)
            clear(state, _GHOSTS, head)
            state[_HELD, head] = 0
            state[_HELD + 1, head] = 0
        state[_PLACE] = 0
        set_real(state, _REAL, n, 0.0)
        state[_REAL, n + 1] = limit

    @staticmethod
    def hit(state, entry):
        n = state.shape[1] - 2
        remove(state, _CACHE, entry)
        push_front(state, _CACHE, n + 1, entry)
        if state[_PLACE, entry] == _T1:
            state[_PLACE, entry] = _T2
            state[_HELD, n] -= state[0, entry]
            state[_HELD, n + 1] += state[0, entry]

    @staticmethod
    def admit(state, entry):
        n = state.shape[1] - 2
        size = state[0, entry]
        ghost = state[_PLACE, entry]
        state[_PLACE, n] = ghost
        state[_PLACE, n + 1] = size
        if ghost == 0:
            return
        p, limit = real(state, _REAL, n), float(state[_REAL, n + 1])
        b1, b2 = float(state[_HELD + 1, n]), float(state[_HELD + 1, n + 1])
        if ghost == _B1:
            set_real(state, _REAL, n, min(p + max(b2 / b1, 1.0) * size, limit))
        else:
            set_real(state, _REAL, n, max(p - max(b1 / b2, 1.0) * size, 0.0))
        state[_HELD + 1, n + ghost - _B1] -= size
        remove(state, _GHOSTS, entry)

    @staticmethod
    def victim(state, protected):
        n = state.shape[1] - 2
        limit, ghost = state[_REAL, n + 1], state[_PLACE, n]
        t1, t2 = state[_HELD, n], state[_HELD, n + 1]
        p = real(state, _REAL, n)
        recent = t1 + state[_PLACE, n + 1]
        side = 0 if t2 == 0 or (t1 > 0 and (t1 > p or (t1 == p and ghost == _B2))) else 1
        leaves_ghost = True
        if ghost == 0:  # a full miss: first make room among the ghosts
            trimmed, most = 0, limit - recent
            if recent + state[_HELD + 1, n] <= limit:
                trimmed, most = 1, 2 * limit - recent - t2 - state[_HELD + 1, n]
            elif state[_HELD + 1, n] == 0 and oldest_outside(state, _CACHE, n, protected) >= 0:
                side, leaves_ghost = 0, False
            while state[_HELD + 1, n + trimmed] > max(most, 0):
                forgotten = oldest(state, _GHOSTS, n + trimmed)
                remove(state, _GHOSTS, forgotten)
                state[_HELD + 1, n + trimmed] -= state[0, forgotten]
                state[_PLACE, forgotten] = 0
        entry = oldest_outside(state, _CACHE, n + side, protected)
        if entry < 0:
            side = 1 - side
            entry = oldest_outside(state, _CACHE, n + side, protected)
        if entry < 0:
            return -1
        size = state[0, entry]
        remove(state, _CACHE, entry)
        state[_HELD, n + side] -= size
        state[_PLACE, entry] = 0
        if leaves_ghost:
            push_front(state, _GHOSTS, n + side, entry)
            state[_HELD + 1, n + side] += size
            state[_PLACE, entry] = _B1 + side
        return entry

    @staticmethod
    def insert(state, entry):
        n = state.shape[1] - 2
        side = 0 if state[_PLACE, n] == 0 else 1
        state[_PLACE, n + 1] = 0
        state[_PLACE, entry] = _T1 + side
        state[_HELD, n + side] += state[0, entry]
        push_front(state, _CACHE, n + side, entry)
