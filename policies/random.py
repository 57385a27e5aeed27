"""A resident drawn at random leaves, each with the same probability.

The sequence is that of xorshift64 from `seed`. Every cache begins it anew, so layers draw the same numbers and a result
can be repeated exactly.
"""

from __future__ import annotations

from remoe_sim.kernels.state import RANGE, draw, first_state
from remoe_sim.policy import CompiledSlotPolicy

_RESIDENTS = 1  # by place; in the extra columns how many there are, and where the random sequence is


class Random(CompiledSlotPolicy):
    name = "random"
    summary = "any one goes, drawn from a seeded sequence: random:seed=0"
    source = "textbook; Belady: A study of replacement algorithms for a virtual-storage computer, 1966 (RAND)"
    state_rows = 2

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @property
    def parameter(self) -> int:
        return first_state(self.seed)

    @staticmethod
    def setup(state, limit):
        n = state.shape[1] - 2
        state[_RESIDENTS, n] = 0
        state[_RESIDENTS, n + 1] = state[0, n]

    @staticmethod
    def victim(state, protected):
        """Drawn again until it is not protected; the last resident takes the free place."""
        n = state.shape[1] - 2
        count = state[_RESIDENTS, n]
        place = 0
        while place < count and protected[state[_RESIDENTS, place]]:
            place += 1
        if place == count:
            return -1
        entry = state[_RESIDENTS, place]
        drawn = False
        while not drawn:
            place = draw(state, _RESIDENTS, n + 1) * count // RANGE
            entry = state[_RESIDENTS, place]
            drawn = not protected[entry]
        state[_RESIDENTS, place] = state[_RESIDENTS, count - 1]
        state[_RESIDENTS, n] = count - 1
        return entry

    @staticmethod
    def insert(state, entry):
        n = state.shape[1] - 2
        state[_RESIDENTS, state[_RESIDENTS, n]] = entry
        state[_RESIDENTS, n] += 1
