"""Fits the law of a layer to recorded decisions: it is drawn from, and corrected by what differs, a few times."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from remoe_sim.kernels.drawing import DECODE, FIRST, PREFILL, count_depths
from remoe_sim.routing_laws import Drawing, Floats, Kinds, Law, Longs
from remoe_sim.trace import Decisions

ROUNDS = 24
ROUND_TOKENS = 2**13  # tokens that are drawn in a round: the same again and again if there are fewer
GROWTH = 1.15  # how much wider each class of depths is than the one before it
STEP, LAST_STEP = 0.8, 0.3  # exponents of a correction, in the last rounds a smaller one
TRIES = 16
CLOSE = 0.0005  # of reuse


def fit_law(decisions: Decisions, kinds: Kinds, experts: int, seed: int) -> Law:
    """The law by which decisions like these are drawn: as popular experts, and as often at each depth of the stack.

    decisions: of tokens in the order in which they follow one another; kinds: uint8[tokens], as
    `remoe_sim.kernels.drawing` has them. Depths beyond 2k are taken together in classes that grow by GROWTH.
    """
    k = decisions.experts.shape[1]
    classes = _classes(experts, k)
    counts, uses, exposed = _counted(decisions, kinds, experts)
    depths, room = _by_class(counts, classes), _by_class(exposed, classes)
    pull = (depths + 0.25) / (room + 0.25 * experts / k)
    pull[FIRST] = 1
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
        for kind in (PREFILL, DECODE):
            if depths[kind].any():
                wanted, drawn_so = depths[kind, compared], of_depths[kind, compared]
                pull[kind, compared] *= _correction(wanted, drawn_so, step)
        popularity = popularity * _correction(share, sum((one.uses for one in drawn), np.zeros_like(uses)), step)
    return Law(k, popularity / popularity.mean(), pull[:, classes])


def _correction(wanted: Floats, drawn: Floats | Longs, step: float) -> Floats:
    """Factors that bring frequencies nearer to the wanted ones; two more of each make rare ones change less."""
    corrected: Floats = ((wanted * (drawn.sum() / wanted.sum()) + 2) / (drawn + 2)) ** step
    return corrected


def _classes(experts: int, k: int) -> Longs:
    """int64[E + 1]: the class of each depth; the last is that of experts that were never used."""
    bounds = list(range(min(2 * k, experts) + 1))
    while bounds[-1] < experts:
        bounds.append(min(experts, max(bounds[-1] + 1, int(bounds[-1] * GROWTH))))
    return np.append(np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)), len(bounds) - 1)


def _by_class(counts: Longs, classes: Longs) -> Floats:
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
