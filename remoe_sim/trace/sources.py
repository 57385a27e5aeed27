"""Where layers come from: parts of a layer, and blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from remoe_sim.trace.trace import Decisions, InMemory, LayerSource, Trace
from remoe_sim.trace.views import ahead_of, most_ahead
from remoe_sim.util.progress import stage

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


BLOCK_BYTES = 2**28
_LARGEST, _SMALLEST = 2**20, 2**14


@runtime_checkable
class BlockSource(Protocol):
    """A source of layers that also gives all of them for a few rows, without reading any layer whole."""

    def blocks(self, rows: int) -> Iterator[InMemory]:
        """Consecutive blocks of `rows` tokens; the last may have fewer."""
        ...


def block_rows(row_bytes: int) -> int:
    """How many rows a block may have, a power of two, where one row takes so many bytes."""
    rows = _LARGEST
    while rows > _SMALLEST and rows * row_bytes > BLOCK_BYTES:
        rows //= 2
    return rows


def blocks_of(trace: Trace, rows: int) -> Iterator[Trace]:
    """The parts of a trace, each of at most `rows` tokens, with checked decisions; at least one.

    Raises TraceError with the row in the whole trace.
    """
    at = 0
    for block in source_blocks(trace.source, trace.tokens, trace.moe_layers, rows):
        here = slice(at, at + len(block.layers[0].experts))
        for index, decisions in enumerate(block.layers):
            trace.check_layer(index, decisions, here)
        yield replace(
            trace,
            request=trace.request[here],
            position=trace.position[here],
            step=trace.step[here],
            phase=trace.phase[here],
            token_id=None if trace.token_id is None else trace.token_id[here],
            source=block,
        )
        at = here.stop


def source_blocks(source: LayerSource, tokens: int, layers: int, rows: int) -> Iterator[InMemory]:
    """Blocks of any source; where it gives whole layers only, all of them are read and cut."""
    if isinstance(source, BlockSource):
        yield from source.blocks(rows)
        return
    whole = [source.decisions(index) for index in range(layers)]
    weights, probs = ([read(index) for index in range(layers)] for read in (source.weights, source.probs))
    ahead = [
        [ahead_of(source, index, distance) for index in range(layers - distance)] + [None] * distance
        for distance in range(1, min(most_ahead(source), layers - 1) + 1)
    ]
    wanted = [ahead_of(source, index, 0) for index in range(layers)]
    for at in range(0, max(tokens, 1), rows):
        here = slice(at, at + rows)
        yield InMemory(
            [_cut(layer, here) for layer in whole],
            _cut_all(weights, here),
            _cut_all(probs, here),
            [[None if layer is None else _cut(layer, here) for layer in one] for one in ahead],
            [None if layer is None else _cut(layer, here) for layer in wanted],
        )


def _cut(decisions: Decisions, here: slice) -> Decisions:
    return Decisions(
        decisions.experts[here],
        None if decisions.valid is None else decisions.valid[here],
        None if decisions.routed is None else decisions.routed[here],
    )


def _cut_all(layers: Sequence[npt.NDArray[Any] | None], here: slice) -> list[npt.NDArray[Any] | None]:
    return [None if layer is None else layer[here] for layer in layers]


@contextmanager
def layers_stage(what: str, trace: Trace, reads: int = 1) -> Iterator[None]:
    """A stage in which every layer of a trace is gone through, in memory or as it is read, so many times then."""
    by_rows = isinstance(trace.source, PartSource) and not trace.source.resident
    total = trace.moe_layers * (trace.tokens * reads if by_rows else 1)
    with stage(what, total, "rows" if by_rows else "layers"):
        yield
