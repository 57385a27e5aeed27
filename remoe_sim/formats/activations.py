"""Single activations (layer, expert) in the order of the file, without tokens: k of them are a decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from remoe_sim.formats.assemble import Slots, assemble
from remoe_sim.formats.records import records_of_passes

if TYPE_CHECKING:
    from remoe_sim.formats.source import Source
    from remoe_sim.trace.trace import Trace
    from remoe_sim.util.arrays import Ints
    from remoe_sim.util.errors import TraceError


def trace_of_activations(
    source: Source,
    layer: Ints,
    expert: Ints,
    k: int,
    line: Callable[[int], int],
    fault: Callable[[int, str], TraceError],
) -> Trace:
    """The trace of activations: a forward pass begins where the layer number does not rise.

    line: the line of an activation; fault: makes the error of one. Raises what it makes where not k activations of a
    layer follow one another, or a multiple of k.
    """
    begins = np.append(True, layer[1:] != layer[:-1])
    first = np.flatnonzero(begins)
    sizes = np.diff(np.append(first, layer.size))
    broken = np.flatnonzero(sizes % k)
    if broken.size:
        text = f"{sizes[broken[0]]} rows in sequence are not a multiple of {k} experts per token"
        at_end = broken[0] == first.size - 1 and broken.size == 1 and first.size > 1
        raise fault(int(first[broken[0]]), f"{text}; {'the file ends too early' if at_end else 'correct --top-k'}")
    if first.size == 1:
        begins[::k] = True
        source.note("there is one layer only, so each token is taken as a forward pass of its own")
    records = records_of_passes(source, layer[::k], begins[::k], lambda record: line(record * k))
    slots = Slots(np.repeat(np.arange(layer.size // k), k), expert)
    return assemble(source, records, slots, experts=source.experts(int(expert.max())), top_k=k)
