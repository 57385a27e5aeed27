"""Gate weights: which numbers can be one, and decisions in their order, the largest first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from remoe_sim.trace.trace import Decisions, Trace
from remoe_sim.util.arrays import Array, Flags, Floats, Singles

EXPECTED = "a gate weight is a finite number, 0 or more"
ORDERED = "slots are put in the order of their gate weights, the largest first, because the file has others"


def wrong_weight(weights: Floats, there: Flags | None = None, *, unknown: bool) -> tuple[int, ...] | None:
    """Find the first number that cannot be a gate weight: a negative or infinite one.

    there: where the slots are that count, all if None; unknown: whether NaN stands for a weight that is not known.
    Returns its place, or None if there is none.
    """
    with np.errstate(invalid="ignore"):
        wrong = (weights < 0) | np.isinf(weights) if unknown else ~((weights >= 0) & np.isfinite(weights))
    if there is not None:
        wrong &= there
    if not wrong.any():
        return None
    return tuple(int(one) for one in np.argwhere(wrong)[0])


def in_order(experts: Array, weights: Floats, there: Flags | None = None) -> tuple[Array, Floats, bool]:
    """Sort the slots of each decision by gate weight, the largest first, and say whether any moved.

    experts, weights: [tokens, k]; there: bool[tokens, k], false for null slots, which keep their place. Equal weights
    keep the order that they have, and so does a decision one of whose weights is NaN, which means not known.
    """
    known = np.isnan(weights) if there is None else np.isnan(weights) & there
    if there is None:
        squeezed, first = weights, None
    else:  # the slots that are there, then the others
        first = np.argsort(~there, axis=1, kind="stable")
        squeezed = np.take_along_axis(np.where(there, weights, -np.inf), first, axis=1)
    rises = (squeezed[:, 1:] > squeezed[:, :-1]).any(axis=1)
    rows = np.flatnonzero(rises & ~known.any(axis=1))
    if not rows.size:
        return experts, weights, False
    order = np.argsort(-squeezed[rows], axis=1, kind="stable")
    results = []
    for values in (experts, weights):
        moved = values.copy()
        if first is None:
            moved[rows] = np.take_along_axis(values[rows], order, axis=1)
        else:
            sorted_ = np.take_along_axis(np.take_along_axis(values[rows], first[rows], axis=1), order, axis=1)
            put = values[rows]
            np.put_along_axis(put, first[rows], sorted_, axis=1)
            moved[rows] = put
        results.append(moved)
    return results[0], results[1], True


MOVED = "slots put in the order of gate weights (of probabilities where there are none), the largest first"


class Ordered:
    """The layers of a trace with their slots in order of gate weight, or of probability where there are no weights.

    Equal ones keep the order that they have, and so do decisions with unknown weights. moved: whether a slot of any
    layer asked for so far had another place.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace, self.moved = trace, False
        self._kept: dict[int, tuple[Decisions, Singles | None]] = {}
        self.resident = trace.source.resident

    def decisions(self, index: int) -> Decisions:
        return self._layer(index)[0]

    def weights(self, index: int) -> Singles | None:
        return self._layer(index)[1]

    def probs(self, index: int) -> npt.NDArray[np.float16] | None:
        return self._trace.source.probs(index)

    @property
    def most_ahead(self) -> int:
        return self._trace.most_ahead

    def ahead(self, index: int, distance: int) -> Decisions | None:
        return self._trace.ahead(index, distance)

    def _layer(self, index: int) -> tuple[Decisions, Singles | None]:
        if index in self._kept:
            return self._kept[index]
        before, weights = self._trace.decisions(index), self._trace.source.weights(index)
        after = before, weights
        keys = self._keys(index, before, weights)
        if keys is not None:
            there = None if before.valid is None else before.valid
            experts, ordered, moved = in_order(before.experts, keys, there)
            self.moved |= moved
            if moved:
                after = Decisions(experts, before.valid, before.routed), None if weights is None else ordered
        if self.resident:
            self._kept[index] = after
        return after

    def _keys(self, index: int, before: Decisions, weights: Array | None) -> Array | None:
        """What the slots [tokens, k] are ordered by; None where there is nothing of that shape."""
        if weights is not None:
            return weights if weights.shape == before.experts.shape else None
        probs = self._trace.source.probs(index)
        if probs is None or probs.shape != (len(before.experts), self._trace.model.experts[index]):
            return None
        return np.take_along_axis(probs, before.experts.astype(np.int64), axis=1)


def with_ordered_slots(trace: Trace) -> tuple[Trace, Ordered]:
    """The same trace with its slots in order, and what says whether any moved."""
    source = Ordered(trace)
    return replace(trace, source=source), source
