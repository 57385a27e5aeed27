"""The router trace of lattice: JSON Lines, one object per token and layer.

    {"layer_idx": 0, "token_idx": 0, "selected_ids": [17, 3], "gate_weights": [0.7, 0.3]}

gate_weights may be missing, other fields are not read, and empty lines are skipped. Rows may be in any order.
"""

from __future__ import annotations

from array import array

import numpy as np

from remoe_sim.formats.assemble import Records, assemble
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import first_fields, read_objects
from remoe_sim.formats.records import DecisionRows
from remoe_sim.formats.source import Source
from remoe_sim.trace import DECODE, Trace


class Lattice(TraceFormat):
    name = "lattice"
    summary = "lattice JSON Lines: objects with layer_idx, token_idx, selected_ids, gate_weights"
    layout = __doc__ or ""
    shape = "json"
    words = ('"layer_idx"', '"token_idx"', '"selected_ids"')
    writer = "lattice router trace JSON Lines"
    kept = "gate weights"
    lost = "phases, requests: one, all decode"
    sure = "code that reads it"

    def recognises(self, source: Source) -> bool:
        return {"layer_idx", "selected_ids"} <= first_fields(source).keys()

    def read(self, source: Source) -> Trace:
        rows, layers, tokens = DecisionRows(), array("q"), array("q")
        for entry in read_objects(source):
            layers.append(entry.whole("layer_idx"))
            tokens.append(entry.whole("token_idx"))
            rows.add_entry(entry, "selected_ids", "gate_weights")
        if not len(rows):
            raise source.error("there is no object in it; record it again")
        nothing = np.zeros(len(rows), np.int64)
        called = {"position": "token_idx", "layer": "layer_idx"}
        records = Records(
            nothing, np.array(tokens, np.int64), nothing + DECODE, np.array(layers, np.int64), rows.line, called=called
        )
        source.note("no phases and requests are recorded: each token is a decode step of its own, of one request")
        slots = rows.slots()
        return assemble(source, records, slots, experts=source.experts(int(slots.expert.max())), column="selected_ids")
