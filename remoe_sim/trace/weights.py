"""A trace whose decisions have the largest gate weight first, whatever order their slots had."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.gate_weights import in_order
from remoe_sim.trace import Decisions, Trace

MOVED = "slots put in the order of gate weights (of probabilities where there are none), the largest first"


class Ordered:
    """The layers of a trace with their slots in order of gate weight, or of probability where there are no weights.

    Equal ones keep the order that they have, and so do decisions with unknown weights. moved: whether a slot of any
    layer asked for so far had another place.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace, self.moved = trace, False
        self._kept: dict[int, tuple[Decisions, npt.NDArray[np.float32] | None]] = {}
        self.resident = trace.source.resident

    def decisions(self, index: int) -> Decisions:
        return self._layer(index)[0]

    def weights(self, index: int) -> npt.NDArray[np.float32] | None:
        return self._layer(index)[1]

    def probs(self, index: int) -> npt.NDArray[np.float16] | None:
        return self._trace.source.probs(index)

    def _layer(self, index: int) -> tuple[Decisions, npt.NDArray[np.float32] | None]:
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

    def _keys(self, index: int, before: Decisions, weights: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
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
