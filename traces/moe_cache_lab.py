"""moe-cache-lab's routing-jsonl, versions 1 and 2: a line of metadata, then a line per token and layer in any order.

    {"record_type": "metadata", "format": "moe-cache-lab.routing-jsonl", "format_version": 1, "model_id": "x",
     "num_experts": 16, "experts_per_token": 2}
    {"record_type": "routing_selection", "phase": "generated", "token_position": 5, "layer": 0,
     "selected_experts": [7, 3], "selected_probabilities": [0.6, 0.4], "token_id": 9}

Records of other types are counted and left out. A second line of metadata begins another request.
"""

from __future__ import annotations

from array import array
from collections import Counter

import numpy as np

from remoe_sim.formats.assemble import Records, assemble
from remoe_sim.formats.facts import StatedFacts, facts_of
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import Entry, first_fields, read_objects, shown
from remoe_sim.formats.records import ASSUMED_STEPS, DecisionRows
from remoe_sim.formats.source import Source
from remoe_sim.trace import DECODE, PREFILL, Trace

_FORMAT = "moe-cache-lab.routing-jsonl"
_PHASES = {"prompt": PREFILL, "prefill": PREFILL, "generated": DECODE, "decode": DECODE}


class MoeCacheLab(TraceFormat):
    name = "moe-cache-lab"
    summary = "moe-cache-lab routing-jsonl (versions 1 and 2): metadata, then records of type routing_selection"
    layout = __doc__ or ""
    shape = "json"
    words = ('"record_type"', '"selected_experts"', '"selected_probabilities"')
    writer = "moe-cache-lab, routing-jsonl versions 1 and 2"
    kept = "phases, positions, probabilities of the chosen, token ids"
    lost = "forward passes; what differs in version 2 beyond these fields"
    sure = "a page about it"

    def recognises(self, source: Source) -> bool:
        fields = first_fields(source)
        return fields.get("format") == _FORMAT or {"record_type", "selected_experts"} <= fields.keys()

    def read(self, source: Source) -> Trace:
        rows, facts, others = DecisionRows(), StatedFacts(), Counter[str]()
        columns = {name: array("q") for name in ("request", "position", "layer", "phase", "token_id")}
        requests, lines = 0, 0
        for entry in read_objects(source):
            kind = entry.get("record_type")
            if kind == "metadata":
                _check_version(entry)
                requests += lines > 0
                facts = facts_of(entry.fields)
            elif kind == "routing_selection":
                lines += 1
                phase = entry.get("phase")
                if not isinstance(phase, str) or phase not in _PHASES:
                    raise entry.error(f"{shown(phase)}, expected prompt or generated; correct it", "phase")
                token = entry.maybe_whole("token_id")
                columns["token_id"].append(-1 if token is None else token)
                columns["phase"].append(_PHASES[phase])
                columns["request"].append(requests)
                columns["position"].append(entry.whole("token_position"))
                columns["layer"].append(entry.whole("layer", most=2**16 - 1))
                rows.add_entry(entry, "selected_experts", "selected_probabilities")
            else:
                others[shown(kind)] += 1
        if not len(rows):
            raise source.error("there is no record of type routing_selection in it; record it again")
        for kind, count in others.items():
            source.note(f"{count} records of type {kind} left out")
        found = {name: np.array(column, np.int64) for name, column in columns.items()}
        token_id = found["token_id"] if found["token_id"].min() >= 0 else None
        records = Records(
            found["request"], found["position"], found["phase"], found["layer"], rows.line, None, token_id,
            {"position": "token_position", "weight": "selected_probabilities"},
        )  # fmt: skip
        source.note(ASSUMED_STEPS)
        slots = rows.slots()
        experts = source.experts(int(slots.expert.max()), facts.experts)
        return facts.checked(source, assemble(source, records, slots, experts=experts, column="selected_experts"))


def _check_version(entry: Entry) -> None:
    version = entry.fields.get("format_version", 1)
    if version not in (1, 2):
        text = f"{shown(version)} is unknown, this release reads 1 and 2; update remoe-sim"
        raise entry.error(text, "format_version")
