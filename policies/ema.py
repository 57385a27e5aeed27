"""Decayed use counts with swaps every few steps, as forks of llama.cpp rebalance their hot experts.

Every expert has a use count that halves within `half_life` steps. A missing expert takes the place of the resident with
the lowest count only in every `every`-th step, and only if its own count is more than `hysteresis` times as high; all
other misses are served without entering. While there is room, every miss enters.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.compile import kernel
from remoe_sim.kernels.state import real, set_real
from remoe_sim.policy import CompiledSlotPolicy, Stream

_SCORE, _RESIDENT = 1, 2  # row 1: log2 of the count, raised by what all others fade; scalars are in the columns behind


class Ema(CompiledSlotPolicy):
    name = "ema"
    summary = "lowest decayed use count goes, in every N-th step and for a clearly hotter expert"
    source = "llama.cpp forks that rebalance hot experts: decay, hysteresis, swaps between decode steps"
    admissions = ("bypass",)
    state_rows = 3

    def __init__(self, half_life: float = 256.0, every: int = 60, hysteresis: float = 2.0) -> None:
        for name, value, fits, allowed in (
            ("half_life", half_life, half_life >= 1e-3, "0.001 or more"),
            ("every", every, every >= 1, "a whole number from 1"),
            ("hysteresis", hysteresis, hysteresis > 0, "a number above 0"),
        ):
            if not (fits and np.isfinite(value)):
                raise ValueError(f"{name}={value} of policy '{self.name}' is not possible; give {allowed}")
        self.half_life, self.every, self.hysteresis = half_life, every, hysteresis

    def _state(self, stream: Stream) -> npt.NDArray[np.int64]:
        """As in the base class, with two columns more: in row 0 `every`; in row 1 `half_life` and log2 of `hysteresis`;
        in row 2 the newcomer."""
        n = stream.n_entries
        state = np.zeros((self.state_rows, n + 3), np.int64)
        state[0, n] = self.every
        state[_SCORE].view(np.float64)[n : n + 2] = self.half_life, np.log2(self.hysteresis)
        return state

    @staticmethod
    def setup(state, limit):
        n = state.shape[1] - 3
        for entry in range(n):
            set_real(state, _SCORE, entry, -np.inf)
            state[_RESIDENT, entry] = 0
        state[_RESIDENT, n] = -1

    @staticmethod
    def hit(state, entry):
        count_up(state, entry)

    @staticmethod
    def admit(state, entry):
        count_up(state, entry)

    @staticmethod
    def victim(state, protected):
        n = state.shape[1] - 3
        newcomer, now = state[_RESIDENT, n], state[0, n + 2]
        lowest, least = -1, np.inf
        for entry in range(n):
            score = real(state, _SCORE, entry)
            if state[_RESIDENT, entry] and not protected[entry] and entry != newcomer and (lowest < 0 or score < least):
                lowest, least = entry, score
        chosen = lowest
        if newcomer >= 0 and not protected[newcomer]:
            swaps = now % state[0, n] == 0 and real(state, _SCORE, newcomer) > least + real(state, _SCORE, n + 1)
            if lowest < 0 or not swaps:
                chosen = newcomer
                state[_RESIDENT, n] = -1
        if chosen >= 0:
            state[_RESIDENT, chosen] = 0
        return chosen

    @staticmethod
    def insert(state, entry):
        state[_RESIDENT, entry] = 1
        state[_RESIDENT, state.shape[1] - 3] = entry


@kernel
def count_up(state, entry):
    """Add a use in the running step to the count of an entry."""
    n = state.shape[1] - 3
    now = state[0, n + 2] / real(state, _SCORE, n)
    known = real(state, _SCORE, entry)
    set_real(state, _SCORE, entry, now + np.log2(1.0 + 2.0 ** (known - now)))
