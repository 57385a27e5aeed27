"""ClassLRU, the replacement of llama.cpp's cache of experts since release b12170.

Every expert has a use count that halves within `half_life` tokens and outlives an eviction. Its class is the whole part
of the count's binary logarithm as of its last use, at most `classes` - 1, and every class is an LRU list. Among the
oldest experts of each list the one with the largest age / 2^class leaves. A step is taken for one token, which decode
steps of one request are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.compile import kernel
from remoe_sim.kernels.lists import clear, oldest_outside, push_front, remove
from remoe_sim.kernels.state import real, set_real
from remoe_sim.policy import CompiledSlotPolicy, Stream

_COUNT, _LAST, _CLASS, _RECENCY = 1, 2, 3, 4  # rows 4 and 5: lists, one per class, from the most recently used on
_FADED = 6  # what is left of a use after 0 to n - 1 steps, which takes long to compute


class ClassLru(CompiledSlotPolicy):
    name = "class-lru"
    summary = "LRU lists by decayed use count; the oldest of a list goes by the largest age / 2^class"
    source = "llama.cpp, src/llama-moe-cache.cpp from release b12170 on (pull request 31233)"
    state_rows = 7
    inclusive = True  # who leaves is told by uses alone

    def __init__(self, half_life: float = 128.0, classes: int = 8) -> None:
        if not (half_life > 0 and np.isfinite(half_life)):
            raise ValueError(f"half_life={half_life} of policy '{self.name}' is not possible; give a number above 0")
        if not 1 <= classes <= 32:
            raise ValueError(f"classes={classes} of policy '{self.name}' are not possible; give 1 to 32")
        self.half_life, self.classes = half_life, classes

    def _state(self, stream: Stream) -> npt.NDArray[np.int64]:
        """As in the base class, but with a list head per class, and behind them two columns of scalars: where the heads
        begin, how many classes there are, `half_life`; and the running step."""
        n = stream.n_entries
        state = np.zeros((self.state_rows, n + self.classes + 2), np.int64)
        behind = n + self.classes
        state[0, behind], state[_CLASS, behind] = n, self.classes
        state[_COUNT].view(np.float64)[behind] = self.half_life
        return state

    @staticmethod
    def setup(state, limit):
        behind = state.shape[1] - 2
        for head in range(state[0, behind], behind):
            clear(state, _RECENCY, head)
        for entry in range(state[0, behind]):
            state[_COUNT, entry] = 0
            state[_LAST, entry] = 0
            set_real(state, _FADED, entry, 2.0 ** (-entry / real(state, _COUNT, behind)))

    @staticmethod
    def hit(state, entry):
        remove(state, _RECENCY, entry)
        count_use(state, entry)
        push_front(state, _RECENCY, state[0, state.shape[1] - 2] + state[_CLASS, entry], entry)

    @staticmethod
    def admit(state, entry):
        count_use(state, entry)

    @staticmethod
    def victim(state, protected):
        behind = state.shape[1] - 2
        now, classes = state[0, behind + 1], state[_CLASS, behind]
        best, worst = -1, -1
        for of in range(classes):
            entry = oldest_outside(state, _RECENCY, state[0, behind] + of, protected)
            if entry >= 0:
                scaled = (now - state[_LAST, entry]) << (classes - 1 - of)
                if scaled > worst:
                    best, worst = entry, scaled
        if best >= 0:
            remove(state, _RECENCY, best)
        return best

    @staticmethod
    def insert(state, entry):
        push_front(state, _RECENCY, state[0, state.shape[1] - 2] + state[_CLASS, entry], entry)


@kernel
def count_use(state, entry):
    """Decay the count of an entry to the running step, add a use, and set its class."""
    behind = state.shape[1] - 2
    now = state[0, behind + 1]
    passed = now - state[_LAST, entry]
    if passed < state[0, behind]:
        faded = real(state, _FADED, passed)
    else:
        faded = 2.0 ** (-passed / real(state, _COUNT, behind))
    count = 1.0 + real(state, _COUNT, entry) * faded
    set_real(state, _COUNT, entry, count)
    state[_LAST, entry] = now
    of, bound = 0, 2.0
    while of < state[_CLASS, behind] - 1 and count >= bound:
        of += 1
        bound *= 2.0
    state[_CLASS, entry] = of
