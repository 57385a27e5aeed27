"""What WARP writes with WASTE_DUMP_ROUTE=PATH: a line per token and layer, numbers between blanks.

    0 1 7 3 0.61 0.39 -1 -1

Position, layer, k expert ids, k weights, and k ids of the look-ahead (-1 where there is none): experts of this layer
that its router named at the layer before, or of the next layer, whichever the ids fit better.
Prompts are there, layer by layer. The file is appended to: where positions start again, another run begins.
"""

from __future__ import annotations

from array import array
from dataclasses import replace

import numpy as np

from remoe_sim.formats.assemble import Slots, assemble
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.records import DecisionRows, records_of_passes, runs_of
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace
from remoe_sim.trace.trace import Decisions, InMemory


class WarpNative(TraceFormat):
    name = "warp-native"
    summary = "WARP's WASTE_DUMP_ROUTE: lines 'position layer, k ids, k weights, k ids of the look-ahead'"
    layout = __doc__ or ""
    shape = "text"
    words = ("WASTE_DUMP_ROUTE",)
    writer = "WARP with `WASTE_DUMP_ROUTE`"
    kept = "positions, gate weights, prompts, look-ahead choices"
    lost = "phases by the order of rows"
    sure = "code that writes it"

    def recognises(self, source: Source) -> bool:
        lines = [line for line in source.head_text.splitlines()[:-1][:20] if line.strip()]
        lines = lines or source.head_text.splitlines()
        rows = [_row(line) for line in lines]
        return bool(rows) and all(row is not None for row in rows) and len({len(row[2]) for row in rows if row}) == 1

    def read(self, source: Source) -> Trace:
        rows, looks, positions, layers, k = DecisionRows(), DecisionRows(), array("q"), array("q"), 0
        for line, text in source.lines():
            if not text.strip():
                continue
            row = _row(text)
            if row is None or (k and len(row[2]) != k):
                shape = "position layer, k ids, k weights, k ids"
                raise source.error(f"'{text[:60]}' is not '{shape}' as the lines before; correct the line", line)
            k = len(row[2])
            positions.append(row[0])
            layers.append(row[1])
            rows.add(line, row[2], row[3])
            looks.add(line, row[4])
        if not k:
            raise source.error("there is no row in it; record it again")
        position, layer = np.array(positions, np.int64), np.array(layers, np.int64)
        begins = np.append(True, (np.diff(layer) != 0) | (np.diff(position) != 1))
        records = records_of_passes(source, layer, begins | (np.unique(layer).size == 1), rows.line)
        records = replace(records, position=position, request=runs_of(source, position, layer))
        slots, named = rows.slots(), looks.experts()
        experts = source.experts(max(int(slots.expert.max()), int(named.max())))
        trace = assemble(source, records, slots, experts=experts, top_k=k)
        if (named < 0).all():
            return trace
        apart = replace(source, notes=[])
        foreseen = assemble(apart, records, Slots(slots.record, named, None, None), experts=experts, top_k=k)
        return _with_looks(source, trace, dict(foreseen.layers()))


def _with_looks(source: Source, trace: Trace, named: dict[int, Decisions]) -> Trace:
    """The trace with look-ahead choices `named` (by the layer of their lines) at the layer where they were made."""
    own, following = (
        sum(_shared(named[number], trace.decisions(index + later)) for index, number in enumerate(trace.layer_numbers)
            if number in named and index + later < trace.moe_layers)
        for later in (0, 1)
    )  # fmt: skip
    of = trace.layer_numbers if following > own else trace.layer_numbers[1:]
    source.note(
        f"look-ahead ids are taken as experts of {'the next layer' if following > own else 'their own layer'}, as "
        f"{max(own, following)} of them were chosen there, and {min(own, following)} in the other reading"
    )
    ahead = [named.get(number) for number in of[: trace.moe_layers - 1]]
    assert isinstance(trace.source, InMemory)
    return replace(trace, source=replace(trace.source, all_ahead=[[*ahead, None]]))


def _shared(named: Decisions, chosen: Decisions) -> int:
    """How many experts both have, over all tokens."""
    from remoe_sim.kernels.predictors import count_foreseen

    marks = np.full(int(max(named.experts.max(), chosen.experts.max())) + 1, -1, np.int64)
    wanted, foreseen = np.zeros((2, chosen.experts.shape[1]), np.int64)
    count_foreseen(named.experts, named.mask, chosen.experts, chosen.mask, marks, wanted, foreseen)
    return int(foreseen.sum())


def _row(text: str) -> tuple[int, int, list[int], list[float], list[int]] | None:
    """Position, layer, ids, weights and ids of the look-ahead of a line; None for any other line."""
    cells = text.split()
    k, rest = divmod(len(cells) - 2, 3)
    if rest or k < 1:
        return None
    try:
        position, layer, *ids = map(int, cells[: 2 + k])
        weights = [float(cell) for cell in cells[2 + k : 2 + 2 * k]]
        ahead = [int(cell) for cell in cells[2 + 2 * k :]]
    except ValueError:
        return None
    possible = 0 <= position < 2**31 and 0 <= layer < 2**16 and all(0 <= one < 2**16 for one in ids)
    return (position, layer, ids, weights, ahead) if possible and -1 <= min(ahead) <= max(ahead) < 2**16 else None
