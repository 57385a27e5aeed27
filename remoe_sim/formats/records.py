"""Forward passes found again in recordings that list decisions layer by layer, without numbers of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.assembling import Ints, Records
from remoe_sim.import_source import Source
from remoe_sim.trace import DECODE, PREFILL


def records_of_passes(
    source: Source,
    layer: Ints,
    begins: npt.NDArray[np.bool_],
    line: Callable[[int], int],
    phase: Ints | None = None,
) -> Records:
    """Records of decisions in the order of the file: layer[rows], begins[rows] true where a batch begins (the tokens
    of one pass at one layer), phase[rows] if it is recorded.

    A pass begins where the layer number does not rise. Where it has fewer tokens at its last layers, those are its last
    tokens: llama.cpp computes the end of a prompt only as far as it is needed. Without phases a pass of several
    tokens is prefill. A prefill pass after a decode pass begins a request. Each pass is a step.
    Raises TraceError with the line of a batch that has more tokens than the layer before it.
    """
    first = np.flatnonzero(begins)
    sizes = np.diff(np.append(first, layer.size))
    at = layer[first]
    new_pass = np.ones(first.size, bool)
    new_pass[1:] = at[1:] <= at[:-1]
    if phase is not None:
        new_pass[1:] |= phase[first][1:] != phase[first][:-1]
    more = np.flatnonzero(~new_pass[1:] & (sizes[1:] > sizes[:-1])) + 1
    if more.size:
        text = f"{sizes[more[0]]} tokens at layer {at[more[0]]}, but the layer before it has {sizes[more[0] - 1]}"
        raise source.error(f"{text}; rows are missing, record it again", line(int(first[more[0]])))
    of_batch = np.cumsum(new_pass) - 1
    tokens = sizes[new_pass]
    if phase is None:
        phases = np.where(tokens > 1, PREFILL, DECODE)
        source.note("passes of several tokens are taken as prefill, those of one token as decode")
    else:
        phases = phase[first][new_pass]
    begin_request = (phases == PREFILL) & (np.append(DECODE, phases[:-1]) == DECODE)
    begin_request[0] = True
    request = np.cumsum(begin_request) - 1
    before = np.cumsum(tokens) - tokens
    start = before - before[begin_request][request]
    source.note("forward passes and requests are found by the order of rows")
    index = np.arange(layer.size) - np.repeat(first, sizes) + np.repeat(tokens[of_batch] - sizes, sizes)
    pass_of: Any = np.repeat(of_batch, sizes)
    return Records(request[pass_of], start[pass_of] + index, phases[pass_of], layer, line, pass_of)
