"""The routing CSV of kimi-linear-48b-ssd-streaming: one row per token and layer, without column names.

    phase,tokens in the micro-batch,layer,token in the micro-batch,e0,e1,...
    decode,1,14,0,37,254,51,11,109,197,90,212

phase is prefill (or prompt) or decode. The last layer has only the last token of each micro-batch of a prompt.
"""

from __future__ import annotations

import re
from array import array

import numpy as np

from remoe_sim.formats.assemble import assemble
from remoe_sim.formats.columns import SYNONYMS, plain
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.records import DecisionRows, records_of_passes
from remoe_sim.formats.source import Source
from remoe_sim.trace import DECODE, PREFILL, Trace

_ROW = re.compile(r"(prefill|prompt|decode),(\d{1,9}),(\d{1,5}),(\d{1,9})((?:,\d{1,5})+)\s*")


class KimiLinear(TraceFormat):
    name = "kimi-linear"
    summary = "kimi-linear-48b-ssd-streaming CSV: rows 'phase,tokens,layer,token,e0,e1,...'"
    layout = __doc__ or ""
    shape = "text"
    words = ("decode,1,",)
    writer = "kimi-linear-48b-ssd-streaming CSV"
    kept = "phases, prompts cut at the last layer"
    lost = "requests found by phase"
    sure = "files of it"

    def recognises(self, source: Source) -> bool:
        lines = [line for line in source.head_text.splitlines()[:20] if line.strip()]
        rows = [match for match in map(_ROW.fullmatch, lines[:2]) if match]
        in_range = bool(rows) and int(rows[0][4]) < int(rows[0][2])
        return in_range and (bool(_ROW.fullmatch(lines[0])) or _names(lines[0]))

    def read(self, source: Source) -> Trace:
        rows, phases = DecisionRows(), array("b")
        tokens, layers, indexes = array("q"), array("q"), array("q")
        for line, text in source.lines():
            if not text.strip() or (line == 1 and _names(text)):
                continue
            match = _ROW.fullmatch(text)
            if match is None:
                shape = "phase,tokens,layer,token,e0,e1,..."
                raise source.error(f"'{text[:60]}' is not '{shape}'; correct the line", line)
            phases.append(DECODE if match[1] == "decode" else PREFILL)
            for column, value in zip((tokens, layers, indexes), match.groups()[1:4], strict=True):
                column.append(int(value))
            if indexes[-1] >= tokens[-1]:
                raise source.error(f"token {indexes[-1]} of a micro-batch of {tokens[-1]}; correct it", line)
            rows.add(line, [int(one) for one in match[5][1:].split(",")])
        if not len(rows):
            raise source.error("there is no row in it; record it again")
        layer, index, phase = (np.array(one, np.int64) for one in (layers, indexes, phases))
        begins = np.append(True, (np.diff(layer) != 0) | (np.diff(index) <= 0) | (np.diff(phase) != 0))
        records = records_of_passes(source, layer, begins, rows.line, phase)
        slots = rows.slots()
        return assemble(source, records, slots, experts=source.experts(int(slots.expert.max())))


def _names(line: str) -> bool:
    """Whether a line has the column names of copies; other tables have the position in the second column."""
    cells = [plain(cell) for cell in line.split(",")]
    return "e0" in cells and cells[0] == "phase" and cells[1] not in SYNONYMS["position"]
