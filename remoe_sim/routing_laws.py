"""By what law a layer of a synthetic trace routes: how popular experts are, and how recent use pulls."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.drawing import PREFILL, STRATA, draw_decisions
from remoe_sim.kernels.draws import first_state

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Kinds = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Law:
    """How one layer routes. top_k: experts per decision; popularity: float64[E]; pull: float64[3, E + 1], by kind of
    token and by depth in the stack of experts by recency, the last for experts that were never used."""

    top_k: int
    popularity: Floats
    pull: Floats

    @property
    def experts(self) -> int:
        """How many experts there are to choose from."""
        return self.popularity.size

    def tilted(self, by: float) -> Law:
        """The same, with the odds of the experts that the token before used multiplied by e to the power `by`."""
        pull = self.pull.copy()
        pull[PREFILL:, : self.top_k] *= np.exp(by)
        return replace(self, pull=pull)


def plain_law(experts: int, top_k: int, skew: float, seed: int) -> Law:
    """A law that nothing was fitted to.

    Popularity falls as rank to the power −skew (Zipf), in an order of experts that the seed decides; the pull of depth
    d is 1 / (1 + d / k), about what real traces show beyond the experts of the token before.
    """
    ranks = np.random.RandomState(seed % 2**32).permutation(experts) + 1.0
    pull = np.ones((3, experts + 1))
    pull[PREFILL:] = 1 / (1 + np.arange(experts + 1) / top_k)
    return Law(top_k, np.power(ranks, -skew, dtype=np.float64), pull)


class Drawing:
    """Decisions drawn by a law, some tokens at a time; a seed gives the same ones however they are cut.

    warm: all experts count as used before. counts: int64[3, E + 1], by kind of token how often each depth was chosen;
    uses: int64[E], each expert.
    """

    def __init__(self, law: Law, seed: int, warm: bool = False) -> None:
        n = law.experts
        self.law = law
        self.counts, self.uses = np.zeros((3, n + 1), np.int64), np.zeros(n, np.int64)
        self._stack, self._used = np.arange(n), n if warm else 0
        self._state = np.array([[first_state(seed), 0]], np.int64)
        self._strata = np.zeros((law.top_k, STRATA), np.uint8)

    def draw(self, kinds: Kinds) -> npt.NDArray[np.uint16]:
        """uint16[tokens, k]: the decisions of the next tokens, which are of these kinds."""
        experts = np.empty((kinds.size, self.law.top_k), np.uint16)
        self._used = draw_decisions(
            kinds, self.law.popularity, self.law.pull, self._stack, self._used, self._state, self._strata, experts,
            self.counts, self.uses,
        )  # fmt: skip
        return experts
