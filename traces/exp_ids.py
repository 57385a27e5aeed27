"""Results of the routing analysis of OLMoE (allenai/analysis_olmoe, analysis_mixtral): JSON Lines.

    {"input_ids": [2048 ids], "predicted_token_ids": [...], "exp_ids": [token][slot][layer]}

Note the order of the axes: the layer comes last. Each line is one request of teacher-forced tokens.
"""

from __future__ import annotations

from remoe_sim.formats.arrays import RequestArrays, trace_of_requests
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import first_fields, read_objects
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace


class ExpIds(TraceFormat):
    name = "exp-ids"
    summary = "exp_ids of allenai/analysis_olmoe and analysis_mixtral (JSON Lines, [token, k, layer])"
    layout = __doc__ or ""
    shape = "json"
    words = ('"exp_ids"', '"input_ids"')
    writer = "allenai/analysis_olmoe, analysis_mixtral JSON Lines"
    kept = "token ids"
    lost = "teacher-forced: each token a step"
    sure = "code that writes it"

    def recognises(self, source: Source) -> bool:
        return {"exp_ids", "input_ids"} <= first_fields(source).keys() or '"exp_ids"' in source.head_text[:16]

    def read(self, source: Source) -> Trace:
        requests = []
        for entry in read_objects(source):
            experts = entry.array("exp_ids", 3).transpose(0, 2, 1)
            ids = entry.array("input_ids", 1) if entry.fields.get("input_ids") is not None else None
            if ids is not None and len(ids) != len(experts):
                text = f"{len(experts)} tokens, but input_ids has {len(ids)}; the axes are [token, k, layer]"
                raise entry.error(text, "exp_ids")
            if ids is not None and (ids.min() < 0 or ids.max() >= 2**31):
                raise entry.error("a token id below 0 or too large; correct it", "input_ids")
            requests.append(RequestArrays(experts, token_ids=ids, line=entry.line, place=entry.place))
        source.note("each teacher-forced token is a decode step of its own, and each line a request")
        return trace_of_requests(source, requests, steps_noted=True)
