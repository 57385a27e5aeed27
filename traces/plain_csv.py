"""Plain CSV: one row per chosen expert, or one row per token and layer with a column for each slot.

    request,position,phase,layer,expert            request,position,phase,layer,e0,e1
    0,0,prefill,0,17                               0,0,prefill,0,17,3
    0,0,prefill,0,3                                0,1,decode,0,17,

The columns may stand in any order; e0, e1, ... may also be called expert_0, expert_1, ... A request is a number or any
text; position counts from 0; phase is prefill or decode; layer is the model's own number. Slots are in the order of the
rows, largest gate weight first, unless there is a column slot. An empty expert (or a negative one) is a slot that was
not computed; a token without any expert at a layer was not routed there. Optional: weight (w0, w1, ... or weight_0,
weight_1, ...), token_id, and step, the forward pass; without step each decode token is a pass of its own and the prompt
of a request is one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.assembling import Records, Slots, assemble
from remoe_sim.csv_columns import TEXT, WEIGHT, WHOLE, CsvColumns, header_names, read_csv, read_header
from remoe_sim.import_source import Source
from remoe_sim.importing import TraceFormat
from remoe_sim.plain import assume_steps, phase_codes, request_ids
from remoe_sim.trace import Trace

_TOKEN = ("request", "position", "phase", "layer")
_OPTIONAL = ("step", "token_id")
_EXPERT, _WEIGHT = re.compile(r"(?:e|expert_)(\d+)"), re.compile(r"(?:w|weight_)(\d+)")


class PlainCsv(TraceFormat):
    name = "csv"
    summary = "plain CSV: request, position, phase, layer and one expert per row, or a column for each slot"
    layout = __doc__ or ""
    shape = "text"
    words = (*_TOKEN, "expert")

    def recognises(self, source: Source) -> bool:
        names = header_names(source)
        experts = "expert" in names or any(map(_EXPERT.fullmatch, names))
        return "layer" in names and experts and ("request" in names or "position" in names)

    def read(self, source: Source) -> Trace:
        wide = _slots(source, _EXPERT, header_names(source))
        advice = f"a plain CSV has the columns {', '.join(_TOKEN)} and expert (or e0, e1, ...)"
        names = read_header(source, 1, _TOKEN if wide else (*_TOKEN, "expert"), advice)
        weights = _slots(source, _WEIGHT, names) if wide else [name for name in ("weight",) if name in names]
        if wide and "expert" in names:
            raise source.error(f"columns 'expert' and '{wide[0]}' are both there; keep one of the two layouts", 1)
        if wide and weights and len(weights) != len(wide):
            raise source.error(f"{len(weights)} columns of weights for {len(wide)} of experts; give one for each", 1)
        experts = wide or ["expert"]
        whole = [
            "position",
            "layer",
            *experts,
            *(name for name in (*_OPTIONAL, *(() if wide else ("slot",))) if name in names),
        ]
        kinds = dict.fromkeys(whole, WHOLE) | dict.fromkeys(("request", "phase"), TEXT) | dict.fromkeys(weights, WEIGHT)
        ignored = [name for name in names if name not in kinds]
        if ignored:
            source.note(f"columns not imported: {', '.join(ignored)}")
        table = read_csv(source, names, 1, kinds, may_be_empty=[*experts, *weights])
        return self._assemble(source, table, experts, weights)

    def _assemble(self, source: Source, table: CsvColumns, experts: list[str], weights: list[str]) -> Trace:
        values = table.values
        records = Records(
            request_ids(source, table.texts["request"])[values["request"]],
            values["position"],
            phase_codes(table.texts["phase"], values["phase"], lambda row, text: table.error(row, "phase", text)),
            values["layer"],
            table.line,
            values.get("step"),
            values.get("token_id"),
        )
        assume_steps(source, records)
        slots = Slots(
            np.repeat(np.arange(table.rows), len(experts)),
            _flat(values, experts),
            values.get("slot") if "expert" in values else np.tile(np.arange(len(experts)), table.rows),
            _flat(values, weights) if weights else None,
        )
        column = experts[0] if len(experts) == 1 else f"{experts[0]} to {experts[-1]}"
        return assemble(source, records, slots, experts=source.experts(int(slots.expert.max())), column=column)


def _slots(source: Source, pattern: re.Pattern[str], names: Sequence[str]) -> list[str]:
    """The columns of slots 0, 1, ... in that order; TraceError if one is left out."""
    found = {int(match[1]): match[0] for match in map(pattern.fullmatch, names) if match}
    missing = set(range(len(found))) - set(found)
    if missing:
        given = ", ".join(found.values())
        raise source.error(f"slot {min(missing)} has no column (there are {given}); number them from 0 without gaps", 1)
    return [found[slot] for slot in range(len(found))]


def _flat(values: Any, names: list[str]) -> npt.NDArray[Any]:
    """Columns side by side, row by row."""
    return np.stack([values[name] for name in names], axis=1).reshape(-1)
