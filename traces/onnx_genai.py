"""onnxruntime-genai's moe_expert_trace.json: for each prompt the experts of its prefill and of its decode steps.

    {"model": "x", "num_layers": 2, "num_experts": 16, "top_k": 2,
     "prompts": {"code": {"prompt_len": 1, "prefill": [[[7, 3], [9, 1]]], "decode": [[[12, 3], [4, 1]]]}}}

Both are [token][layer][k], the largest gate weight first. Each prompt is a request.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from remoe_sim.formats.arrays import RequestArrays, trace_of_requests
from remoe_sim.formats.facts import facts_of
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import Entry, first_fields, read_json
from remoe_sim.formats.source import Source, checked_ids
from remoe_sim.trace import Trace


class OnnxGenai(TraceFormat):
    name = "onnx-genai"
    summary = "onnx-genai moe_expert_trace.json: prompts with prefill and decode [token][layer][k]"
    layout = __doc__ or ""
    shape = "json"
    words = ('"prompts"', '"prefill"', '"decode"', '"prompt_len"')
    writer = "onnx-genai `moe_expert_trace.json`"
    kept = "prompts as requests, phases, ranks"
    lost = "weights, forward passes, layer numbers"
    sure = "files of it"

    def recognises(self, source: Source) -> bool:
        there = '"prefill"' in source.head_text or '"decode"' in source.head_text
        return "prompts" in first_fields(source) and there

    def read(self, source: Source) -> Trace:
        value = read_json(source)
        entry = Entry(source, value if isinstance(value, dict) else {})
        prompts = entry.inside("prompts")
        layers, requests = entry.maybe_whole("num_layers"), []
        for name in prompts.fields:
            one = prompts.inside(name)
            parts = [_part(one, part) for part in ("prefill", "decode")]
            there = [part for part in parts if part is not None]
            if not there:
                raise one.error("neither prefill nor decode is there; record it again")
            stated, prefill = one.maybe_whole("prompt_len"), parts[0]
            if prefill is not None and stated is not None and len(prefill) != stated:
                raise one.error(f"{len(prefill)} tokens, but prompt_len is {stated}; record it again", "prefill")
            for part in there:
                if part.shape[1:] != there[0].shape[1:] or (layers is not None and part.shape[1] != layers):
                    text = f"{part.shape[1]} layers of {part.shape[2]} experts, but {there[0].shape[1:]} before"
                    text += "" if layers is None else f" and num_layers is {layers}"
                    raise one.error(f"{text}; record it again")
            first = (stated or 0) if prefill is None else 0
            prompt = stated if prefill is None else len(prefill)
            requests.append(RequestArrays(np.concatenate(there), prompt, first, place=f"prompt '{name}': ", empty=True))
        facts = facts_of(entry.fields)
        return facts.checked(source, trace_of_requests(source, requests, experts=facts.experts))


def _part(entry: Entry, name: str) -> Any:
    """ids[tokens, layers, k] of a phase; None if it is empty or not there."""
    if not entry.fields.get(name):
        return None
    return checked_ids(entry.array(name, 3), lambda _, text: entry.error(text, name), empty=True)
