"""Laws of routing: fit them to a trace, and draw layers from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.state import first_state
from remoe_sim.kernels.synthesis import (
    ABSENT_TOKEN,
    DECODE_TOKEN,
    FIRST_TOKEN,
    PREFILL_TOKEN,
    STRATA,
    count_depths,
    draw_decisions,
)
from remoe_sim.trace.trace import Decisions, InMemory
from remoe_sim.util.threads import map_layers

if TYPE_CHECKING:
    from remoe_sim.util.arrays import Flags, Int32s, Longs, Reals

Kinds = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Law:
    """How one layer routes. top_k: experts per decision; popularity: float64[E]; pull: float64[3, E + 1], by kind of
    token and by depth in the stack of experts by recency, the last for experts that were never used."""

    top_k: int
    popularity: Reals
    pull: Reals

    @property
    def experts(self) -> int:
        """How many experts there are to choose from."""
        return self.popularity.size

    def tilted(self, by: float) -> Law:
        """The same, with the odds of the experts that the token before used multiplied by e to the power `by`."""
        pull = self.pull.copy()
        pull[PREFILL_TOKEN:, : self.top_k] *= np.exp(by)
        return replace(self, pull=pull)


def plain_law(experts: int, top_k: int, skew: float, seed: int) -> Law:
    """A law that nothing was fitted to.

    Popularity falls as rank to the power −skew (Zipf), in an order of experts that the seed decides; the pull of depth
    d is 1 / (1 + d / k), about what real traces show beyond the experts of the token before.
    """
    ranks = np.random.RandomState(seed % 2**32).permutation(experts) + 1.0
    pull = np.ones((3, experts + 1))
    pull[PREFILL_TOKEN:] = 1 / (1 + np.arange(experts + 1) / top_k)
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
        self._pull = np.ascontiguousarray(law.pull)  # a kernel is compiled for one layout

    def draw(self, kinds: Kinds) -> npt.NDArray[np.uint16]:
        """uint16[tokens, k]: the decisions of the next tokens, which are of these kinds."""
        experts = np.empty((kinds.size, self.law.top_k), np.uint16)
        self._used = draw_decisions(
            kinds, self.law.popularity, self._pull, self._stack, self._used, self._state, self._strata, experts,
            self.counts, self.uses,
        )  # fmt: skip
        return experts


ROUNDS = 24
ROUND_TOKENS = 2**13  # tokens that are drawn in a round: the same again and again if there are fewer
GROWTH = 1.15  # how much wider each class of depths is than the one before it
STEP, LAST_STEP = 0.8, 0.3  # exponents of a correction, in the last rounds a smaller one
TRIES = 16
CLOSE = 0.0005  # of reuse


def fit_law(decisions: Decisions, kinds: Kinds, experts: int, seed: int, shape: tuple[int, int] | None = None) -> Law:
    """The law by which decisions like these are drawn: as popular experts, and as often at each depth of the stack.

    decisions: of tokens in the order in which they follow one another; kinds: uint8[tokens], as
    `remoe_sim.kernels.synthesis` has them. shape: other numbers of experts and of experts per token to draw with: uses
    and depths that are aimed at are then those at the same share of the experts. Depths beyond 2k are taken together in
    classes that grow by GROWTH.
    """
    k = decisions.experts.shape[1]
    counts, uses, exposed = _counted(decisions, kinds, experts)
    if shape is not None and shape != (experts, k):
        counts, exposed = (_stretched(one, k, *shape) for one in (counts, exposed))
        edges = np.interp(np.linspace(0, experts, shape[0] + 1), np.arange(experts + 1), np.append(0, np.cumsum(uses)))
        uses, (experts, k) = np.diff(edges), shape
    classes = _classes(experts, k)
    depths, room = _by_class(counts, classes), _by_class(exposed, classes)
    pull = (depths + 0.25) / (room + 0.25 * experts / k)
    pull[FIRST_TOKEN] = 1
    share = (uses + 0.25) / (uses + 0.25).sum()
    popularity = np.sqrt(share / share.mean())  # the pull of what was used lately does the rest
    kinds = kinds[:ROUND_TOKENS]
    repeats = -(-ROUND_TOKENS // max(kinds.size, 1))
    warm = repeats == 1  # what is drawn of a long trace must not have all of its first uses
    compared = slice(-1) if warm else slice(None)
    for number in range(ROUNDS):
        law = Law(k, popularity, pull[:, classes])
        drawn = [Drawing(law, seed + number * repeats + at, warm) for at in range(repeats)]
        for one in drawn:
            one.draw(kinds)
        step = STEP if number < ROUNDS - 4 else LAST_STEP
        of_depths = _by_class(sum((one.counts for one in drawn), np.zeros_like(counts)), classes)
        for kind in (PREFILL_TOKEN, DECODE_TOKEN):
            if depths[kind].any():
                wanted, drawn_so = depths[kind, compared], of_depths[kind, compared]
                pull[kind, compared] *= _correction(wanted, drawn_so, step)
        popularity = popularity * _correction(share, sum((one.uses for one in drawn), np.zeros(uses.size)), step)
    return Law(k, popularity / popularity.mean(), pull[:, classes])


def _stretched(counts: Longs, k: int, experts: int, top_k: int) -> Longs:
    """Counts by depth for other numbers of experts: up to k spread over up to top_k, the rest over the rest."""
    known = counts.shape[1] - 1
    edges = np.append(np.linspace(0, k, top_k + 1), np.linspace(k, known, experts - top_k + 1)[1:])
    summed = np.cumsum(np.pad(counts[:, :-1], ((0, 0), (1, 0))), axis=1)
    parts = np.stack([np.diff(np.interp(edges, np.arange(known + 1), one)) for one in summed])
    spread: Longs = np.append(parts, counts[:, -1:], axis=1)
    return spread


def _correction(wanted: Reals, drawn: Reals | Longs, step: float) -> Reals:
    """Factors that bring frequencies nearer to the wanted ones; two more of each make rare ones change less."""
    corrected: Reals = ((wanted * (drawn.sum() / wanted.sum()) + 2) / (drawn + 2)) ** step
    return corrected


def _classes(experts: int, k: int) -> Longs:
    """int64[E + 1]: the class of each depth; the last is that of experts that were never used."""
    bounds = list(range(min(2 * k, experts) + 1))
    while bounds[-1] < experts:
        bounds.append(min(experts, max(bounds[-1] + 1, int(bounds[-1] * GROWTH))))
    return np.append(np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)), len(bounds) - 1)


def _by_class(counts: Longs, classes: Longs) -> Reals:
    return np.stack([np.bincount(classes, of_kind, classes[-1] + 1) for of_kind in counts])


def _counted(decisions: Decisions, kinds: Kinds, experts: int) -> tuple[Longs, Longs, Longs]:
    counts, uses, exposed = (np.zeros(shape, np.int64) for shape in ((3, experts + 1), experts, (3, experts + 1)))
    count_depths(decisions.experts, decisions.mask, kinds, np.arange(experts), counts, uses, exposed)
    return counts, uses, exposed


def tilt_to(law: Law, target: float, measure: Callable[[Law], float]) -> tuple[Law, float]:
    """The law, tilted so that `measure`, its adjacent reuse, comes nearest to `target`; and what it then is.

    The odds of reuse rise about as fast as what they are multiplied with, so a few corrections are enough.
    """
    by, best, nearest = 0.0, law, measure(law)
    now = nearest
    for _ in range(TRIES):
        if abs(nearest - target) <= CLOSE:
            break
        by = float(np.clip(by + odds(target) - odds(now), -30, 30))
        tilted = law.tilted(by)
        now = measure(tilted)
        if abs(now - target) < abs(nearest - target):
            best, nearest = tilted, now
    return best, nearest


def odds(share: float) -> float:
    """The logarithm of share / (1 - share), finite also at 0 and 1."""
    share = min(max(share, 1e-6), 1 - 1e-6)
    return float(np.log(share / (1 - share)))


@dataclass(frozen=True)
class DrawnLayers:
    """laws, seeds: one per MoE layer; kinds: uint8[tokens], as `remoe_sim.kernels.synthesis` has them; rows: the token
    of the other trace that each token copies, and absent: per layer, bool[its tokens], where it had no decision."""

    laws: Sequence[Law]
    seeds: Sequence[int]
    kinds: Kinds
    rows: Int32s | None = None
    absent: Sequence[Flags | None] = ()
    resident = False

    def decisions(self, index: int) -> Decisions:
        return self._draw(index, self.drawing(index), slice(None))

    def drawing(self, index: int) -> Drawing:
        """A drawing of that layer from its beginning."""
        return Drawing(self.laws[index], self.seeds[index])

    def kinds_at(self, index: int, here: slice) -> Kinds:
        """The kinds of some tokens at a layer."""
        kinds = self.kinds[here]
        absent = self.absent[index] if self.absent else None
        if absent is None or self.rows is None:
            return kinds
        return np.where(absent[self.rows[here]], np.uint8(ABSENT_TOKEN), kinds)

    def _draw(self, index: int, drawing: Drawing, here: slice) -> Decisions:
        kinds = self.kinds_at(index, here)
        experts = drawing.draw(kinds)
        routed = kinds != ABSENT_TOKEN
        if routed.all():
            return Decisions(experts)
        return Decisions(experts, np.repeat(routed[:, None], experts.shape[1], axis=1), routed)

    def blocks(self, rows: int) -> Iterator[InMemory]:
        """All layers of `rows` tokens after the other; the same decisions as whole layers have."""
        drawings = [self.drawing(index) for index in range(len(self.laws))]
        for at in range(0, max(self.kinds.size, 1), rows):
            here = slice(at, at + rows)
            yield InMemory(list(map_layers(partial(self._next, drawings, here), len(drawings))))

    def _next(self, drawings: Sequence[Drawing], here: slice, index: int) -> Decisions:
        return self._draw(index, drawings[index], here)

    def weights(self, index: int) -> None:
        return None

    def probs(self, index: int) -> None:
        return None
