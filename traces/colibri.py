"""The ROUTE_TRACE of colibri: one line per token and layer.

    <call> <row> <layer> <expert>:<gate> <expert>:<gate> ...
    0 0 1 14:0.31 34:0.12

Neighbouring lines of the same call and layer are one batch, and row is the token in it. Calls count 0, 1, 2, ... A
forward pass begins where the layer number does not rise, one of several tokens is a prompt.
"""

from __future__ import annotations

import re
from array import array

import numpy as np

from remoe_sim.formats.assemble import assemble
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.records import DecisionRows, records_of_passes
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan"
_LINE = re.compile(rf"(\d{{1,9}}) (\d{{1,9}}) (\d{{1,5}})((?: \d{{1,5}}:(?:{_NUMBER}))+)\s*")


class Colibri(TraceFormat):
    name = "colibri"
    summary = "colibri ROUTE_TRACE: lines 'call row layer expert:gate expert:gate ...'"
    layout = __doc__ or ""
    shape = "text"
    words = ("0 0 ",)
    writer = "colibri `ROUTE_TRACE`"
    kept = "gate weights, passes"
    lost = "requests found by pass size"
    sure = "its document"

    def recognises(self, source: Source) -> bool:
        return bool(_LINE.fullmatch(source.head_text.lstrip().split("\n", 1)[0]))

    def read(self, source: Source) -> Trace:
        rows, calls, batch, layers = DecisionRows(), array("q"), array("q"), array("q")
        for line, text in source.lines():
            if not text.strip():
                continue
            match = _LINE.fullmatch(text)
            if match is None:
                shape = "<call> <row> <layer> <expert>:<gate> ..."
                raise source.error(f"'{text[:60]}' is not '{shape}'; the line is truncated or broken", line)
            pairs = [pair.split(":") for pair in match[4].split()]
            rows.add(line, [int(expert) for expert, _ in pairs], [float(gate) for _, gate in pairs])
            for column, value in zip((calls, batch, layers), match.groups(), strict=False):
                column.append(int(value))
        if not len(rows):
            raise source.error("there is no line in it; record it again")
        call, row, layer = (np.array(one, np.int64) for one in (calls, batch, layers))
        begins = np.append(True, (np.diff(call) != 0) | (np.diff(layer) != 0))
        self._check(source, rows, call, row, begins)
        records = records_of_passes(source, layer, begins, rows.line)
        slots = rows.slots()
        return assemble(source, records, slots, experts=source.experts(int(slots.expert.max())))

    def _check(self, source: Source, rows: DecisionRows, call: np.ndarray, row: np.ndarray, begins: np.ndarray) -> None:
        step = np.diff(call, prepend=-1)
        wrong = np.flatnonzero((step < 0) | (step > 1))
        if wrong.size:
            before = call[wrong[0] - 1] if wrong[0] else "nothing"
            text = f"call {call[wrong[0]]} after {before}, but calls count 0, 1, 2, ..."
            raise source.error(f"{text}; lines are missing, record it again", rows.line(int(wrong[0])))
        first = np.flatnonzero(begins)
        expected = np.arange(row.size) - np.repeat(first, np.diff(np.append(first, row.size)))
        wrong = np.flatnonzero(row != expected)
        if wrong.size:
            text = f"row {row[wrong[0]]} where {expected[wrong[0]]} is expected"
            raise source.error(f"{text}; lines are missing, record it again", rows.line(int(wrong[0])))
