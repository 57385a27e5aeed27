"""A trace in blocks of rows, all layers of some tokens at a time, for traces that do not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from remoe_sim.trace import Decisions, InMemory, LayerSource, Trace

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
    for at in range(0, max(tokens, 1), rows):
        here = slice(at, at + rows)
        yield InMemory([_cut(layer, here) for layer in whole], _cut_all(weights, here), _cut_all(probs, here))


def _cut(decisions: Decisions, here: slice) -> Decisions:
    return Decisions(
        decisions.experts[here],
        None if decisions.valid is None else decisions.valid[here],
        None if decisions.routed is None else decisions.routed[here],
    )


def _cut_all(layers: Sequence[npt.NDArray[Any] | None], here: slice) -> list[npt.NDArray[Any] | None]:
    return [None if layer is None else layer[here] for layer in layers]
