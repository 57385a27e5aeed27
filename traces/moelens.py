"""The JSON of MoELens: the tokens of one prompt, with the whole distribution of every router.

{"prompt": ..., "model_id": ..., "num_layers": 28, "num_experts": 64, "top_k_experts": 6, "dense_layer_indices": [0],
 "tokens": [{"index": 0, "text": "The"}, ...],
 "layers": [{"layer": 0, "is_dense": true, "tokens": null},
            {"layer": 1, "tokens": [{"token_index": 0, "top_experts": [14, ...], "top_weights": [...],
                                     "all_probs": [64 numbers]}, ...]}]}
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.arrays import RequestArrays, trace_of_requests
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import Entry, first_fields, read_objects
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace
from remoe_sim.util.arrays import Ints

_FIELDS = {"model_id", "num_layers", "num_experts", "top_k_experts", "layers"}


class MoeLens(TraceFormat):
    name = "moelens"
    summary = "MoELens JSON: one prompt, with gate weights and all router probabilities"
    layout = __doc__ or ""
    shape = "json"
    words = ('"top_k_experts"', '"num_experts"', '"model_id"')
    writer = "MoELens JSON"
    kept = "gate weights, all router probabilities"
    lost = "one prompt, nothing generated"
    sure = "files of it"

    def recognises(self, source: Source) -> bool:
        return len(_FIELDS & first_fields(source).keys()) >= 3

    def read(self, source: Source) -> Trace:
        read = list(read_objects(source))
        if len(read) != 1:
            raise source.error(
                f"{len(read)} objects, but a file of MoELens is one; cut it into files and import them all"
            )
        entry = read[0]
        experts = entry.whole("num_experts", least=1)
        k = entry.whole("top_k_experts", least=1, most=experts)
        layers = [layer for layer in _layers(entry, k, experts) if layer is not None]
        if not layers:
            raise entry.error("no layer has tokens; there is nothing to import", "layers")
        request = RequestArrays(
            np.stack([layer.experts for layer in layers], axis=1),
            len(layers[0].experts),
            weights=np.stack([layer.weights for layer in layers], axis=1),
            probs=[layer.probs for layer in layers],
        )
        source.note("the prompt is one prefill step; nothing is generated")
        numbers = [layer.number for layer in layers]
        trace = trace_of_requests(source, [request], numbers=numbers, experts=experts, steps_noted=True)
        name = entry.fields.get("model_id")
        facts: dict[str, Any] = {
            "layers": entry.whole("num_layers", least=1),
            "name": name if isinstance(name, str) else None,
        }
        return replace(trace, model=replace(trace.model, **facts))


@dataclass(frozen=True)
class _Layer:
    number: int
    experts: Ints
    weights: npt.NDArray[np.float64]
    probs: npt.NDArray[np.float16] | None


def _layers(entry: Entry, k: int, experts: int) -> list[_Layer | None]:
    tokens = len(entry.list_of("tokens", dict, "objects"))
    return [
        _layer(Entry(entry.source, one, place=f"layers, entry {index}: "), k, experts, tokens)
        for index, one in enumerate(entry.list_of("layers", dict, "objects"))
    ]


def _layer(entry: Entry, k: int, experts: int, tokens: int) -> _Layer | None:
    """One layer; None if it is dense."""
    number = entry.whole("layer")
    if entry.fields.get("tokens") is None:
        return None
    listed = [
        Entry(entry.source, one, place=f"layer {number}, token {index}: ")
        for index, one in enumerate(entry.list_of("tokens", dict, "objects"))
    ]
    if len(listed) != tokens:
        raise entry.error(f"{len(listed)} tokens, but the prompt has {tokens}; record it again", "tokens")
    for index, one in enumerate(listed):
        if one.whole("token_index") != index:
            raise one.error(f"{one.fields['token_index']} where {index} is expected; record it again", "token_index")
    columns: dict[str, Any] = {}
    for name, width, kinds in (("top_experts", k, "iu"), ("top_weights", k, "fiu"), ("all_probs", experts, "fiu")):
        if name == "all_probs" and any(one.fields.get(name) is None for one in listed):
            entry.source.note("router probabilities left out at layers where tokens lack them")
            columns[name] = None
            continue
        rows = [one.array(name, 1, kinds) for one in listed]
        for one, row in zip(listed, rows, strict=True):
            if len(row) != width:
                raise one.error(f"{len(row)} numbers, expected {width}; record it again", name)
            if name == "all_probs" and not 0 <= row.min() <= row.max() <= 1:
                raise one.error("a probability outside 0 to 1; correct it", name)
        columns[name] = np.stack(rows)
    probs = columns["all_probs"]
    return _Layer(
        number, columns["top_experts"], columns["top_weights"], None if probs is None else probs.astype(np.float16)
    )
