"""JSON with a list of routes, one per token: {"meta": {...}, "routes": [{"token_pos", "phase", "layers": {...}}, ...]}.

    {"meta": {"num_moe_layers": 2, "num_experts": 16, "top_k": 2, "prompt_len": 1, "generated_len": 1},
     "routes": [{"token_pos": 0, "token_id": 5, "phase": "prefill",
                 "layers": {"0": {"experts": [7, 3], "weights": [0.6, 0.4]}, "1": {...}}}]}

Keys of layers are the model's own numbers. The last generated token may be missing, because it is not fed back. Some
writers have the smallest weight first; slots are put in the order of weights.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from remoe_sim.formats.assemble import Records, assemble
from remoe_sim.formats.facts import facts_of
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import Entry, first_fields, read_json, shown
from remoe_sim.formats.records import ASSUMED_STEPS, DecisionRows, phase_codes
from remoe_sim.formats.source import Source
from remoe_sim.trace import DECODE, Trace


class RoutesLayers(TraceFormat):
    name = "routes-layers"
    summary = "JSON with meta and routes: for each token its position, phase and layers with experts and weights"
    layout = __doc__ or ""
    shape = "json"
    words = ('"routes"', '"layers"', '"token_pos"')
    writer = "routing.json of jinlong-huo's recordings (vLLM and MLX)"
    kept = "phases, positions, gate weights, token ids"
    lost = "forward passes"
    sure = "files of it"

    def recognises(self, source: Source) -> bool:
        return "routes" in first_fields(source) and '"layers"' in source.head_text

    def read(self, source: Source) -> Trace:
        value = read_json(source)
        entry = Entry(source, value if isinstance(value, dict) else {})
        routes = entry.get("routes")
        if not isinstance(routes, list) or not routes:
            raise entry.error("not a list of routes; record it again", "routes")
        meta = entry.inside("meta") if "meta" in entry.fields else entry
        _check_count(meta, routes)
        rows, columns = DecisionRows(), {name: array("q") for name in ("position", "layer", "token", "id")}
        phases: list[Any] = []
        for number, one in enumerate(routes):
            route = _route(source, number, one)
            layers = route.inside("layers")
            token = route.maybe_whole("token_id")
            for name in layers.fields:
                if not name.isdecimal() or len(name) > 5:
                    raise layers.error(f"'{name}' is not the number of a layer; correct it")
                columns["position"].append(route.whole("token_pos") if "token_pos" in route.fields else number)
                columns["layer"].append(int(name))
                columns["token"].append(number)
                columns["id"].append(-1 if token is None else token)
                chosen = layers.fields[name]
                what = layers.inside(name) if isinstance(chosen, dict) else Entry(source, {"experts": chosen}, 1)
                rows.add_entry(what, "experts", "weights")
            phases.append(route.fields.get("phase"))
        if not len(rows):
            raise source.error("there is no layer in any route; record it again")
        tokens, position = np.array(columns["token"], np.int64), np.array(columns["position"], np.int64)
        ids = np.array(columns["id"], np.int64)
        records = Records(
            np.zeros(tokens.size, np.int64), position, _phases(source, meta, phases, tokens, position),
            np.array(columns["layer"], np.int64), rows.line, None, ids if ids.min() >= 0 else None,
            {"position": "token_pos"},
        )  # fmt: skip
        source.note(ASSUMED_STEPS)
        facts, slots = facts_of(meta.fields), rows.slots()
        experts = source.experts(int(slots.expert.max()), facts.experts)
        return facts.checked(source, assemble(source, records, slots, experts=experts, column="experts"))


def _route(source: Source, number: int, value: Any) -> Entry:
    if not isinstance(value, dict):
        raise source.error(f"route {number}: {shown(value)} is not an object; record it again")
    return Entry(source, value, 1, f"route {number}: ")


def _check_count(meta: Entry, routes: list[Any]) -> None:
    """TraceError where there are neither as many routes as tokens (or as were generated), nor one less."""
    prompt, generated = meta.maybe_whole("prompt_len"), meta.maybe_whole("generated_len")
    if prompt is None or generated is None:
        return
    first = routes[0].get("token_pos") if isinstance(routes[0], dict) else None
    tokens = generated if type(first) is int and first >= prompt else prompt + generated
    if len(routes) not in (tokens, tokens - 1):
        text = f"{len(routes)} routes, but {prompt} tokens of the prompt and {generated} generated ones"
        raise meta.source.error(f"{text}; routes are missing, record it again")


def _phases(source: Source, meta: Entry, phases: list[Any], token: Any, position: Any) -> Any:
    """The phase of every record, by the routes or by the length of the prompt."""
    if any(phase is not None for phase in phases):
        return phase_codes(
            phases, token, lambda row, text: source.error(f"route {int(token[row])}: {text}", column="phase")
        )
    prompt = meta.maybe_whole("prompt_len")
    source.note("phases by the length of the prompt" if prompt else "all tokens are taken as decode")
    return np.where(position < (prompt or 0), 1 - DECODE, DECODE)
