"""LFRU, the frequency-recency mix of the expert caches proposed for llama.cpp and vLLM."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.compile import kernel
from remoe_sim.kernels.lists import clear, push_front, remove
from remoe_sim.policy import CompiledSlotPolicy, Stream

_COUNT, _LAST, _RECENCY = 1, 2, 3  # rows 3 and 4: lists, one per range of counts, from the most recently used on


class Lfru(CompiledSlotPolicy):
    """The lowest count / age goes first; of equal ones the less recently used.

    count: uses since the expert entered (history=0), or in the whole history, also while it was not resident
    (history=1). age: 1 + how many times anything else in this cache was touched or inserted since its last use. As
    ages grow the scores of two experts cross without a use of either, so there is no order that a stack could keep.
    """

    name = "lfru"
    summary = "lowest count / age goes first: uses since it entered over time since its last use"
    source = "llama.cpp pull request 21609 and vLLM 37190, as in tinyserve; history=1: arXiv 2608.07911, section 2.3"
    state_rows = 5

    def __init__(self, history: int = 0) -> None:
        if history not in (0, 1):
            raise ValueError(f"history={history} of policy '{self.name}' is not possible; give 0 or 1")
        self.history = history

    def _state(self, stream: Stream) -> npt.NDArray[np.int64]:
        """As in the base class, but with a list head per range of counts, and behind them two columns of scalars:
        where the heads begin and `history`; the running step, the highest range in use, and the clock."""
        n, ranges = stream.n_entries, int(count_range(stream.steps.size + 1)) + 1
        state = np.zeros((self.state_rows, n + ranges + 2), np.int64)
        state[0, n + ranges], state[_COUNT, n + ranges] = n, self.history
        return state

    @staticmethod
    def setup(state, limit):
        behind = state.shape[1] - 2
        for head in range(state[0, behind], behind):
            clear(state, _RECENCY, head)
        state[_COUNT, : state[0, behind]] = 0
        state[_COUNT, behind + 1] = 0
        state[_LAST, behind + 1] = 0

    @staticmethod
    def hit(state, entry):
        state[_COUNT, entry] += 1
        remove(state, _RECENCY, entry)
        touch(state, entry)

    @staticmethod
    def admit(state, entry):
        state[_COUNT, entry] = state[_COUNT, entry] * state[_COUNT, state.shape[1] - 2] + 1

    @staticmethod
    def victim(state, protected):
        """Within a range of counts only those can be worse that are about as old as the worst so far, or older."""
        heads, behind = state[0, state.shape[1] - 2], state.shape[1] - 1
        now = state[_LAST, behind] + 1
        best, best_count, best_age = -1, 0, 0
        for of in range(1, state[_COUNT, behind] + 1):
            least = of if of < 16 else (8 + of % 8) << (of // 8 - 1)
            entry = state[_RECENCY + 1, heads + of]
            while entry != heads + of:
                count, age = state[_COUNT, entry], now - state[_LAST, entry]
                if best >= 0 and least * best_age > best_count * age:
                    break
                mine, theirs = count * best_age, best_count * age
                if not protected[entry] and (best < 0 or mine < theirs or (mine == theirs and age > best_age)):
                    best, best_count, best_age = entry, count, age
                entry = state[_RECENCY + 1, entry]
        if best >= 0:
            remove(state, _RECENCY, best)
        return best

    @staticmethod
    def insert(state, entry):
        state[_COUNT, entry] = max(state[_COUNT, entry], 1)  # what the cache starts with was never admitted
        touch(state, entry)


@kernel
def count_range(count):
    """The range that a count is in: itself below 16, eight to every doubling above."""
    shift = 0
    while count >> shift >= 16:
        shift += 1
    return 8 * shift + (count >> shift)


@kernel
def touch(state, entry):
    """Put an entry that is in no list in front of the one of its count."""
    behind = state.shape[1] - 1
    of = count_range(state[_COUNT, entry])
    state[_COUNT, behind] = max(state[_COUNT, behind], of)
    state[_LAST, behind] += 1
    state[_LAST, entry] = state[_LAST, behind]
    push_front(state, _RECENCY, state[0, behind - 1] + of, entry)
