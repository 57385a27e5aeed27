"""The JSON files of GPT-OSS-MoE-ExpertFingerprinting, one request each.

    {"row_index": 27999, "dataset": "gpqa_diamond", "has_repetition": false, ..., "generated_only": [...],
     "router_data": [{"token_217": {"layer_0": {"selected_experts": [31, 4, 0, 7], "selected_probs": [0.51, ...]},
                                    "layer_1": ...}}, ...]}

Only generated tokens are recorded, from the position in the first key on, which is the length of the prompt. The last
generated token is never fed back. has_repetition marks a request that ends in a loop, which is noted; import --where
chooses requests by it, or by anything else that is not a list.
"""

from __future__ import annotations

import re
from typing import Any

from remoe_sim.formats.arrays import RequestArrays, trace_of_requests
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import Entry, as_array, first_fields, read_objects, shown
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace

_TOKEN, _LAYER = re.compile(r"token_(\d{1,9})"), re.compile(r"layer_(\d{1,5})")
_FIELDS = {"row_index", "original_prompt", "full_text", "generated_only", "router_data", "has_repetition"}


class GptOss(TraceFormat):
    name = "gpt-oss"
    summary = "GPT-OSS-MoE-ExpertFingerprinting JSON (router_data): generated tokens with gate weights"
    layout = __doc__ or ""
    shape = "json"
    words = ('"router_data"', '"has_repetition"', '"row_index"')
    writer = "GPT-OSS-MoE-ExpertFingerprinting JSON"
    kept = "gate weights, positions"
    lost = "prompts; `has_repetition` is noted, and `--where` chooses by it"
    sure = "files of it"

    def recognises(self, source: Source) -> bool:
        fields = first_fields(source).keys()
        return "router_data" in fields or len(_FIELDS & fields) >= 3

    def read(self, source: Source) -> Trace:
        read = [(_request(entry), entry) for entry in read_objects(source)]
        if not read:
            raise source.error("there is no request in it; record it again")
        numbers = read[0][0][1]
        for (_, others), entry in read:
            if others != numbers:
                raise entry.error("its layers differ from the first request's; record it again", "router_data")
        source.describe_requests(
            [{name: said for name, said in entry.fields.items() if not isinstance(said, list)} for _, entry in read]
        )
        source.note("positions start at the first generated token; the prompts before it are not recorded")
        return trace_of_requests(source, [request for (request, _), _ in read], numbers=numbers)


def _request(entry: Entry) -> tuple[RequestArrays, list[int]]:
    """One request and the numbers of its layers."""
    data = entry.get("router_data")
    if not isinstance(data, list) or not data:
        raise entry.error(f"{shown(data)} is not a list of tokens; record it again", "router_data")
    tokens = [_token(entry, one) for one in data]
    first = tokens[0][0]
    for index, (position, _) in enumerate(tokens):
        if position != first + index:
            text = f"token_{position} where token_{first + index} is expected; record it again"
            raise entry.error(text, "router_data")
    numbers = list(tokens[0][1])
    for position, layers in tokens:
        if list(layers) != numbers:
            raise entry.error(f"token_{position} has other layers than token_{first}; record it again", "router_data")
    experts, probs = (
        as_array(
            [[layers[number].get(name) for number in numbers] for _, layers in tokens],
            3,
            kinds,
            lambda text: entry.error(f"selected_experts or selected_probs: {text}", "router_data"),
        )
        for name, kinds in (("selected_experts", "iu"), ("selected_probs", "fiu"))
    )
    if probs.shape != experts.shape:
        raise entry.error(f"{probs.shape[2]} selected_probs for {experts.shape[2]} selected_experts", "router_data")
    return RequestArrays(experts, None, first, probs, line=entry.line, place=entry.place), numbers


def _token(entry: Entry, value: Any) -> tuple[int, dict[int, dict[str, Any]]]:
    """Position of a token, and what is recorded of each layer."""
    key = next(iter(value), "") if isinstance(value, dict) else ""
    match = _TOKEN.fullmatch(key)
    layers = value[key] if match else None
    if match is None or len(value) != 1 or not isinstance(layers, dict):
        raise entry.error(
            f'{shown(value)} is not one token, such as {{"token_217": ...}}; record it again', "router_data"
        )
    read = {}
    for name, one in layers.items():
        number = _LAYER.fullmatch(name)
        if number is None or not isinstance(one, dict):
            raise entry.error(f"{key}: '{name}' is not a layer, such as layer_0; record it again", "router_data")
        read[int(number[1])] = one
    return int(match[1]), read
