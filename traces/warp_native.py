"""What WARP writes with WASTE_DUMP_ROUTE=PATH: a line per token and layer, numbers between blanks.

    0 1 7 3 0.61 0.39 -1 -1

Position, layer, k expert ids, k weights, and k ids of the look-ahead (-1 where there is none), which are not imported.
Prompts are there, layer by layer. The file is appended to: where positions start again, another run begins.
"""

from __future__ import annotations

from array import array
from dataclasses import replace

import numpy as np

from remoe_sim.formats.assemble import assemble
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.records import DecisionRows, records_of_passes, runs_of
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace


class WarpNative(TraceFormat):
    name = "warp-native"
    summary = "WARP's WASTE_DUMP_ROUTE: lines 'position layer, k ids, k weights, k ids of the look-ahead'"
    layout = __doc__ or ""
    shape = "text"
    words = ("WASTE_DUMP_ROUTE",)
    writer = "WARP with `WASTE_DUMP_ROUTE`"
    kept = "positions, gate weights, prompts"
    lost = "look-ahead ids; phases by the order of rows"
    sure = "code that writes it"

    def recognises(self, source: Source) -> bool:
        lines = [line for line in source.head_text.splitlines()[:-1][:20] if line.strip()]
        lines = lines or source.head_text.splitlines()
        rows = [_row(line) for line in lines]
        return bool(rows) and all(row is not None for row in rows) and len({len(row[2]) for row in rows if row}) == 1

    def read(self, source: Source) -> Trace:
        rows, positions, layers, k = DecisionRows(), array("q"), array("q"), 0
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
        if not k:
            raise source.error("there is no row in it; record it again")
        position, layer = np.array(positions, np.int64), np.array(layers, np.int64)
        begins = np.append(True, (np.diff(layer) != 0) | (np.diff(position) != 1))
        records = records_of_passes(source, layer, begins | (np.unique(layer).size == 1), rows.line)
        records = replace(records, position=position, request=runs_of(source, position, layer))
        source.note("ids of the look-ahead are not imported")
        slots = rows.slots()
        return assemble(source, records, slots, experts=source.experts(int(slots.expert.max())), top_k=k)


def _row(text: str) -> tuple[int, int, list[int], list[float]] | None:
    """Position, layer, ids and weights of a line; None for any other line."""
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
    return (position, layer, ids, weights) if possible and min(ahead) >= -1 else None
