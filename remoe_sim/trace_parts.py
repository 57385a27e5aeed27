"""Decisions of a layer that come in parts, some tokens at a time, so that no layer has to be in memory whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from remoe_sim.trace import Decisions, Trace

PART_ROWS = 2**16  # of a large trace that are read at once, a multiple of eight


@runtime_checkable
class PartSource(Protocol):
    """A source of layers that also gives a layer in consecutive parts."""

    def parts(self, index: int) -> Iterator[Decisions]: ...


def parts_of(trace: Trace, index: int) -> Iterator[tuple[slice, Decisions]]:
    """Consecutive rows and their checked decisions at MoE layer `index`; all at once where they are in memory."""
    if trace.source.resident or not isinstance(trace.source, PartSource):
        yield slice(0, trace.tokens), trace.decisions(index)
        return
    at = 0
    for part in trace.source.parts(index):
        here = slice(at, at + len(part.experts))
        trace.check_layer(index, part, here)
        yield here, part
        at = here.stop


def joined(parts: Iterator[Decisions], tokens: int, k: int) -> Decisions:
    """The parts of a layer as one; masks only if some part has them."""
    first = next(parts)
    if len(first.experts) == tokens:
        for _ in parts:  # at its end a source may find that something is wrong
            pass
        return first
    experts = np.zeros((tokens, k), np.uint16)
    valid: npt.NDArray[Any] | None = None
    routed: npt.NDArray[Any] | None = None
    at = 0
    for part in _again(first, parts):
        here = slice(at, at + len(part.experts))
        experts[here] = part.experts
        if part.valid is not None:
            valid = np.ones((tokens, k), np.bool_) if valid is None else valid
            valid[here] = part.valid
        if part.routed is not None:
            routed = np.ones(tokens, np.bool_) if routed is None else routed
            routed[here] = part.routed
        at = here.stop
    return Decisions(experts, valid, routed)


def _again(first: Decisions, rest: Iterator[Decisions]) -> Iterator[Decisions]:
    yield first
    yield from rest
