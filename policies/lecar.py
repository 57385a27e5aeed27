"""LeCaR: draws between the victims of LRU and LFU, with odds that it learns from the regret for each one's evictions.

Vietri, Rodriguez, Martinez, Lyons, Liu, Rangaswami, Zhao, Narasimhan: Driving cache replacement with ML-based LeCaR,
HotStorage 2018, algorithms 1 and 2: a history of evictions for each of the two, as large as the cache; an expert that
is wanted again t accesses after its eviction raises the odds of the other one by exp(λ d^t), with λ = 0.45 and
d = 0.005^(1/N), where N is how many experts the cache holds. Odds begin at one half. What the paper leaves open is as
in the authors' program (github.com/sylab/LeCaR): odds stay within 0.01 and 0.99, an expert that both would evict enters
neither history, and one that returns from a history keeps its count. Equal counts are told apart by recency.

Draws come from xorshift64, from `seed`; every cache begins the sequence anew. libCacheSim has one history for both,
forgets counts, and draws from a generator of its own, so its results are others.
"""

from __future__ import annotations

import math

from remoe_sim.kernels.frequencies import ROWS, add_counted, clear_counts, count_of, count_use, drop_counted
from remoe_sim.kernels.lists import clear, has_several, oldest, oldest_outside, push_front, remove
from remoe_sim.kernels.state import RANGE, draw, first_state, real, set_real
from remoe_sim.policy import CompiledSlotPolicy

_RECENCY, _HISTORY, _PLACE, _WHEN, _USES, _REAL = 1, 3, 5, 6, 7, 8
_FREQUENCY = 9
_RATE, _DISCOUNT, _LEAST = 0.45, 0.005, 0.01


class LeCar(CompiledSlotPolicy):
    name = "lecar"
    summary = "draws between the victims of LRU and LFU, and learns from what it evicted too early: lecar:seed=0"
    source = "Vietri et al.: Driving cache replacement with ML-based LeCaR, HotStorage 2018, algorithms 1 and 2"
    state_rows = _FREQUENCY + ROWS

    # Rows: two of a list by recency (second extra column: the limit, and N); two of the histories of LRU and LFU, whose
    # heads are the extra columns; which of them an entry is in, 1 or 2 (extra: what they hold); when it was evicted
    # (extra: the clock, the random sequence); how often it was used by then (extra: the newcomer so far); odds of LRU.

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @property
    def parameter(self) -> int:
        return first_state(self.seed)

    @staticmethod
    def setup(state, limit):
        n = state.shape[1] - 2
        clear(state, _RECENCY, n)
        clear(state, _HISTORY, n)
        clear(state, _HISTORY, n + 1)
        clear_counts(state, _FREQUENCY)
        state[_RECENCY, n + 1] = limit
        state[_RECENCY + 1, n + 1] = max(limit * n // state[0, :n].sum(), 1)
        state[_PLACE] = 0
        state[_WHEN, n] = 0
        state[_WHEN, n + 1] = state[0, n]
        state[_USES, n] = 0
        set_real(state, _REAL, n, 0.5)

    @staticmethod
    def hit(state, entry):
        n = state.shape[1] - 2
        state[_WHEN, n] += 1
        remove(state, _RECENCY, entry)
        push_front(state, _RECENCY, n, entry)
        count_use(state, _FREQUENCY, entry)

    @staticmethod
    def admit(state, entry):
        n = state.shape[1] - 2
        state[_WHEN, n] += 1
        state[_USES, n] = 0
        place = state[_PLACE, entry]
        if place == 0:
            return
        remove(state, _HISTORY, entry)
        state[_PLACE, entry] = 0
        state[_PLACE, n + place - 1] -= state[0, entry]
        state[_USES, n] = state[_USES, entry]
        regret = _DISCOUNT ** ((state[_WHEN, n] - state[_WHEN, entry]) / state[_RECENCY + 1, n + 1])
        gain = math.exp(_RATE * regret)
        odds = real(state, _REAL, n)
        lru = odds * gain if place == 2 else odds
        lfu = (1 - odds) * gain if place == 1 else 1 - odds
        set_real(state, _REAL, n, min(max(lru / (lru + lfu), _LEAST), 1 - _LEAST))

    @staticmethod
    def victim(state, protected):
        n = state.shape[1] - 2
        lru = oldest_outside(state, _RECENCY, n, protected)
        if lru < 0:
            return -1
        lfu = oldest_outside(state, _FREQUENCY, n, protected)
        by_lru = draw(state, _WHEN, n + 1) < real(state, _REAL, n) * RANGE
        entry = lru if by_lru else lfu
        if lru != lfu:
            history = 0 if by_lru else 1
            state[_PLACE, entry] = history + 1
            state[_PLACE, n + history] += state[0, entry]
            state[_WHEN, entry] = state[_WHEN, n]
            state[_USES, entry] = count_of(state, _FREQUENCY, entry)
            push_front(state, _HISTORY, n + history, entry)
            while state[_PLACE, n + history] > state[_RECENCY, n + 1] and has_several(state, _HISTORY, n + history):
                forgotten = oldest(state, _HISTORY, n + history)
                remove(state, _HISTORY, forgotten)
                state[_PLACE, forgotten] = 0
                state[_PLACE, n + history] -= state[0, forgotten]
        remove(state, _RECENCY, entry)
        drop_counted(state, _FREQUENCY, entry)
        return entry

    @staticmethod
    def insert(state, entry):
        n = state.shape[1] - 2
        push_front(state, _RECENCY, n, entry)
        add_counted(state, _FREQUENCY, entry, state[_USES, n] + 1)
        state[_USES, n] = 0
