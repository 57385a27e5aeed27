"""Requests of a synthetic trace, copied from those of a real one: which token each of its tokens stands for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.drawing import DECODE, FIRST, PREFILL
from remoe_sim.routing_laws import Kinds
from remoe_sim.trace import DECODE as DECODE_PHASE
from remoe_sim.trace import Trace


def by_request(real: Trace) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Rows with the tokens of a request together, requests in order of appearance, and where each request begins."""
    turns = np.flatnonzero(np.diff(real.request)) + 1
    if turns.size + 1 == real.requests:
        return np.arange(real.tokens, dtype=np.int32), np.concatenate([[0], turns, [real.tokens]])
    _, first, inverse = np.unique(real.request, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[inverse]
    order = np.lexsort((real.position, rank)).astype(np.int32)
    return order, np.concatenate([[0], np.cumsum(np.bincount(rank))])


def requests_like(
    bounds: npt.NDArray[np.int64], tokens: int | None, seed: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """For every token its place in the order of the real trace and its request: the same requests, or, if another
    number of tokens is wanted, requests drawn at random, the last cut where it is too long."""
    lengths = np.diff(bounds)
    if tokens is None or tokens == bounds[-1]:
        return np.arange(bounds[-1], dtype=np.int32), np.repeat(np.arange(lengths.size, dtype=np.int32), lengths)
    rng = np.random.RandomState(seed % 2**32)
    drawn = np.zeros(0, np.int64)
    while (short := tokens - int(lengths[drawn].sum())) > 0:
        drawn = np.append(drawn, rng.randint(lengths.size, size=int(short // lengths.mean()) + 1))
    ends = np.cumsum(lengths[drawn])
    drawn = drawn[: int(np.searchsorted(ends, tokens)) + 1]
    request = np.repeat(np.arange(drawn.size, dtype=np.int32), lengths[drawn])[:tokens]
    shift = (bounds[drawn] - (ends[: drawn.size] - lengths[drawn])).astype(np.int32)
    return np.arange(tokens, dtype=np.int32) + shift[request], request


def kinds_of(request: npt.NDArray[np.int32], phase: npt.NDArray[np.uint8]) -> Kinds:
    """uint8[tokens]: the kinds that `remoe_sim.kernels.drawing` tells apart."""
    kinds = np.where(phase == DECODE_PHASE, np.uint8(DECODE), np.uint8(PREFILL))
    kinds[1:][request[1:] != request[:-1]] = FIRST
    kinds[:1] = FIRST
    return kinds
