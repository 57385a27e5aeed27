"""The routing dumps of WARP (WASTE): JSON Lines, one object per generated token.

    {"tok": 0, "layers": [[3, 7], [1, 9]]}

layers: one list of expert ids for each MoE layer, in ascending order of the ids, so that ranks are lost. Prompts,
weights and the numbers of layers are not recorded. Where tok starts again, another run begins.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.formats.arrays import RequestArrays, trace_of_requests
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import Entry, as_array, first_fields, read_objects
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace
from remoe_sim.util.arrays import Longs


class Warp(TraceFormat):
    name = "warp"
    summary = "WARP / WASTE JSON Lines: tok and layers, a list of experts for each MoE layer; decode only"
    layout = __doc__ or ""
    shape = "json"
    words = ('"tok"', '"layers"')
    writer = "WARP / WASTE routing dumps (JSON Lines)"
    kept = "the experts of each generated token"
    lost = "prompts, weights, layer numbers; ranks where ids are sorted"
    sure = "files of it"

    def recognises(self, source: Source) -> bool:
        fields = first_fields(source)
        return {"tok", "layers"} <= fields.keys() and isinstance(fields["layers"], list | None)

    def read(self, source: Source) -> Trace:
        runs: list[list[Longs]] = []
        starts: list[int] = []
        before, shape = 0, None
        for entry in read_objects(source):
            token, ids = entry.whole("tok"), _layers(entry)
            if shape is None:
                shape = ids.shape
            if ids.shape != shape:
                text = f"{ids.shape[0]} layers of {ids.shape[1]} experts, but the first token has {shape}"
                raise entry.error(f"{text}; record it again", "layers")
            if not runs or token <= before:
                runs.append([])
                starts.append(token)
            elif token != before + 1:
                raise entry.error(f"{token} follows {before}; tokens are missing, record it again", "tok")
            runs[-1].append(ids)
            before = token
        if not runs:
            raise source.error("there is no token in it; record it again")
        if len(runs) > 1:
            source.note(f"tok starts again {len(runs) - 1} times: each run is a request")
        source.note("only generated tokens are recorded")
        requests = [RequestArrays(np.stack(one), 0, start, empty=True) for one, start in zip(runs, starts, strict=True)]
        return trace_of_requests(source, requests)


def _layers(entry: Entry) -> Longs:
    """ids[layers, k] of a token; -1 where a layer has no list."""
    value = entry.get("layers")
    there = [one for one in value if one] if isinstance(value, list) else value
    table = as_array(there, 2, "iu", lambda text: entry.error(text, "layers"))
    if len(table) == len(value):
        return table
    whole = np.full((len(value), table.shape[1]), -1, np.int64)
    whole[[index for index, one in enumerate(value) if one]] = table
    return whole
