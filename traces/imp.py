"""The diagnostics.moe_expert_trace of imp: decode only, one record [layer, e0, e1, ...] per token and layer.

[[0, 17, 3], [1, 4, 9], [0, 17, 22], ...]                a list of records, or
[0, 17, 3, 1, 4, 9, 0, 17, 22, ...]                      all in one list, where top_k or --top-k N says what k is
{"trace": [...], "top_k": 2}                             either of them in a field trace, entries or data
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from remoe_sim.formats.assemble import Slots, assemble
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import Entry, as_array, first_fields, read_json, shown
from remoe_sim.formats.records import records_of_passes
from remoe_sim.formats.source import Source
from remoe_sim.trace import DECODE, Trace
from remoe_sim.util.arrays import Ints

_FIELDS = ("trace", "entries", "data")
_NUMBERS = re.compile(r"\s*(?:\[\s*){1,2}\d")


class Imp(TraceFormat):
    name = "imp"
    summary = "imp diagnostics.moe_expert_trace: JSON records [layer, e0, e1, ...], decode only"
    layout = __doc__ or ""
    shape = "json"
    words = ('"trace"', '"top_k"')
    writer = "imp `diagnostics.moe_expert_trace` JSON"
    kept = "ids in the order of the file"
    lost = "decode only, one request; k of a flat list (`--top-k`)"
    sure = "code that reads it"

    def recognises(self, source: Source) -> bool:
        text = source.head_text
        if first_fields(source).keys() & set(_FIELDS):
            return bool(re.search(r'"(?:trace|entries|data)"\s*:\s*(?:\[\s*){1,2}\d', text))
        return bool(_NUMBERS.match(text))

    def read(self, source: Source) -> Trace:
        value, k = read_json(source), source.given.top_k
        if isinstance(value, dict):
            entry = Entry(source, value)
            name = next((name for name in _FIELDS if name in value), _FIELDS[0])
            k = entry.maybe_whole("top_k") if k is None else k
            value = entry.get(name)
        table = _records(source, value, k)
        layer = table[:, 0]
        if layer.min() < 0 or layer.max() >= 1 << 16:
            raise source.error(f"record {int(np.abs(layer).argmax())}: a layer number that is not possible; correct it")
        wrong = np.argwhere((table < 0) | (table >= 1 << 16))
        if wrong.size:
            text = f"record {wrong[0][0]}: expert {table[tuple(wrong[0])]} is not possible"
            raise source.error(f"{text}; correct it")
        phase = np.full(len(table), DECODE)
        records = records_of_passes(source, layer, np.ones(len(table), bool), lambda record: 1, phase)
        source.note("the trace has decode tokens only, of one request; prompts are not recorded")
        experts = table[:, 1:]
        slots = Slots(np.repeat(np.arange(len(table)), experts.shape[1]), experts.reshape(-1))
        return assemble(source, records, slots, experts=source.experts(int(experts.max())))


def _records(source: Source, value: Any, k: int | None) -> Ints:
    """[records, 1 + k]: the layer, then its experts."""
    if not isinstance(value, list) or not value:
        raise source.error(f"{shown(value)} is not a list of records; record it again")
    if isinstance(value[0], list):
        table = as_array(value, 2, "iu", lambda text: source.error(f"records: {text}"))
        if table.shape[1] < 2:
            raise source.error("records of one number have no experts; record it again")
        return table
    flat = as_array(value, 1, "iu", source.error)
    if not k:
        raise source.error("one list without top_k does not say how many experts each token has; pass --top-k N")
    if flat.size % (k + 1):
        text = f"{flat.size} numbers are not records of 1 layer and {k} experts"
        raise source.error(f"{text}; the file is truncated, or --top-k is not right")
    return flat.reshape(-1, k + 1)
