"""One JSON file per layer, in a folder for each prompt, or one such file alone: routing_L0.json, routing_L1.json, ...

    m4_prompt1_routing/routing_L0.json    {"selected_experts": [[7, 3], [12, 3]], ...}        [token][k]

The number at the end of a name is that of the layer. Fields other than selected_experts (and routing_weights, weights
or router_scores of the same shape) are not read. Phases are not recorded (--phase).
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from remoe_sim.formats.arrays import RequestArrays, trace_of_requests
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import Entry, first_fields, read_json
from remoe_sim.formats.source import Given, Source, as_source, checked_ids
from remoe_sim.trace import Trace
from remoe_sim.util.arrays import Array

_LAYER = re.compile(r"(?:.*[^0-9])?(\d{1,5})\.json(?:\.gz|\.zst)?", re.IGNORECASE)
_IDS, _WEIGHTS = "selected_experts", ("routing_weights", "weights", "router_scores", "scores")


class LayerJson(TraceFormat):
    name = "layer-json"
    summary = "a folder of routing_LN.json, N the layer, with selected_experts [token][k], or one such file"
    layout = __doc__ or ""
    shape = "directory"
    words = ("routing_L", ".json")
    directories = True
    writer = "disk-streaming-moe-engine, `routing_L<l>.json` in a folder for each prompt"
    kept = "ranks, layer numbers, a folder as a request, weights where they are there"
    lost = "phases (`--phase`), forward passes"
    sure = "a page about it"

    def recognises(self, source: Source) -> bool:
        if source.is_dir:
            names = [PurePosixPath(name).name for name in source.members]
            first = next((name for name in source.members if name.endswith(".json")), None)
            if not any(map(_LAYER.fullmatch, names)) or first is None:
                return False
            return "selected_experts" in first_fields(as_source(source.folder / first, Given()))
        fields = first_fields(source)
        return next(iter(fields), "") == "selected_experts" or (
            "selected_experts" in fields and not {"layer", "layer_id", "layer_idx", "record_type"} & fields.keys()
        )

    def read(self, source: Source) -> Trace:
        folders: dict[str, dict[int, Source]] = defaultdict(dict)
        if source.is_dir:
            for name in source.members:
                match = _LAYER.fullmatch(PurePosixPath(name).name)
                if match:
                    layers = folders[str(PurePosixPath(name).parent)]
                    if int(match[1]) in layers:
                        raise source.error(f"{name}: layer {match[1]} of this folder is there twice; remove one")
                    layers[int(match[1])] = as_source(source.folder / name, Given())
        else:
            match = _LAYER.fullmatch(source.file_name)
            if match is None:
                source.note("the layer is numbered 0, because the name of the file does not end in a number")
            folders["."][int(match[1]) if match else 0] = source
        if not folders:
            raise source.error("there is no routing_L<layer>.json in it; give the folder of a recording")
        numbers = sorted(next(iter(folders.values())))
        requests = []
        for name, layers in sorted(folders.items()):
            if sorted(layers) != numbers:
                text = f"{name}: layers {sorted(layers)}, but the first folder has {numbers}"
                raise source.error(f"{text}; copy it again")
            requests.append(_request(source, name, [layers[number] for number in numbers]))
        if len(folders) > 1:
            source.note("each folder is a request, in the order of their names")
        return trace_of_requests(source, requests, numbers=numbers)


def _request(source: Source, name: str, layers: list[Source]) -> RequestArrays:
    parts = [_layer(one) for one in layers]
    shapes = [ids.shape for ids, _ in parts]
    for one, shape in zip(layers, shapes, strict=True):
        if shape != shapes[0]:
            text = f"{shape[0]} tokens with {shape[1]} experts each, but {layers[0].file_name} has {shapes[0]}"
            raise source.error(f"{one.file_name}: {text}; record it again")
    gates = [one for _, one in parts if one is not None]
    weights = np.stack(gates, axis=1) if len(gates) == len(parts) else None
    place = "" if name == "." else f"folder {name}: "
    return RequestArrays(np.stack([ids for ids, _ in parts], axis=1), weights=weights, place=place, empty=True)


def _layer(source: Source) -> tuple[Array, Array | None]:
    """Ids and weights [tokens, k] of a file."""
    value = read_json(source)
    entry = Entry(source, value if isinstance(value, dict) else {})
    ids = checked_ids(entry.array(_IDS, 2), lambda _, text: entry.error(text, _IDS), empty=True)
    name = next((name for name in _WEIGHTS if entry.fields.get(name) is not None), None)
    weights: Any = None if name is None else entry.array(name, 2, "fiu")
    return ids, None if weights is None or weights.shape != ids.shape or (weights < 0).any() else weights
