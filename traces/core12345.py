"""The files of core12345/MoE_expert_selection_trace: a JSON list with one object per forward pass.

    [{"0": null, "1": [[106], [89], [76]], "2": null, "3": [[31], [7], [120]]},   the prompt: a list of tokens per layer
     {"0": null, "1": [[68]], "2": null, "3": [[31]]}, ...]                       one generated token each

Keys are layer numbers; null stands for a layer without experts. Each file is one request; some end before the 128
generated tokens that most have.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from remoe_sim.formats.arrays import RequestArrays, trace_of_requests
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import as_array, first_fields, read_json, shown
from remoe_sim.formats.source import Source, checked_ids
from remoe_sim.trace import Trace
from remoe_sim.util.arrays import Ints


class Core12345(TraceFormat):
    name = "core12345"
    summary = "core12345/MoE_expert_selection_trace: JSON list of forward passes, layer -> tokens -> experts"
    layout = __doc__ or ""
    shape = "json"
    words = ('[{"0":',)
    writer = "core12345/MoE_expert_selection_trace"
    kept = "prompt and generation apart, null layers"
    lost = "forward passes beyond the prompt and a token each; weights"
    sure = "files of it"

    def recognises(self, source: Source) -> bool:
        fields = first_fields(source)
        return bool(re.match(r"\s*\[", source.head_text) and fields) and all(name.isdecimal() for name in fields)

    def read(self, source: Source) -> Trace:
        value = read_json(source)
        if not isinstance(value, list) or not value or not isinstance(value[0], dict):
            raise source.error("not a list of objects, one per forward pass; record it again")
        steps = [_step(source, number, one) for number, one in enumerate(value)]
        numbers = sorted({layer for step in steps for layer in step})
        if not numbers:
            raise source.error("all layers are null in every forward pass; there is nothing to import")
        k = max(array.shape[1] for step in steps for array in step.values())
        parts = [_aligned(source, index, step, numbers, k) for index, step in enumerate(steps)]
        experts = np.concatenate(parts)
        return trace_of_requests(source, [RequestArrays(experts, len(parts[0]), empty=True)], numbers=numbers)


def _step(source: Source, index: int, value: Any) -> dict[int, Ints]:
    """Layer number to ids[tokens, k]."""
    if not isinstance(value, dict) or not all(name.isdecimal() and len(name) < 6 for name in value):
        raise source.error(f"forward pass {index}: {shown(value)} is not an object of layer numbers; record it again")

    def layer(name: str, tokens: Any) -> Ints:
        place = f"forward pass {index}, layer {name}"
        ids = as_array(tokens, 2, "iu", lambda text: source.error(f"{place}: {text}"))
        return checked_ids(ids, lambda at, text: source.error(f"{place}, token {at[0]}: {text}"))

    return {int(name): layer(name, tokens) for name, tokens in value.items() if tokens is not None}


def _aligned(source: Source, index: int, step: dict[int, Ints], numbers: list[int], k: int) -> Ints:
    """ids[tokens, layers, k] of a forward pass, -1 at layers that are null in it."""
    counts = {layer: len(ids) for layer, ids in step.items()}
    if not counts:
        raise source.error(f"forward pass {index}: all layers are null; remove it")
    tokens = max(counts.values())
    for layer, count in counts.items():
        if count != tokens:
            text = f"{count} tokens, but other layers have {tokens}; record it again"
            raise source.error(f"forward pass {index}, layer {layer}: {text}")
    if index and tokens != 1:
        raise source.error(f"forward pass {index}: {tokens} tokens, but only the first may have more than one")
    table = np.full((tokens, len(numbers), k), -1, np.int64)
    for layer, ids in step.items():
        table[:, numbers.index(layer), : ids.shape[1]] = ids
    return table
