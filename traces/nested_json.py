"""Expert ids in lists of lists of lists, [token][layer][k], alone or in a field of an object.

    [[[7, 3], [9, 1]], [[12, 3], [4, 1]]]
    {"experts": [[[7, 3], [9, 1]], ...], "prompt_len": 1, "num_experts": 16}
    {"requests": [{"routing": [[[7, 3], [9, 1]], ...], "prompt_len": 1}, ...]}

Several objects, in a list, in a field of another object or as JSON Lines, are a request each. Other orders of the axes
are told apart by their lengths, or by --axes layers,tokens,k. prompt_len may say how many tokens are of the prompt;
else phases are not recorded (--phase).
"""

from __future__ import annotations

import re
from typing import Any

from remoe_sim.formats.arrays import RequestArrays, trace_of_requests
from remoe_sim.formats.axes import tokens_first
from remoe_sim.formats.columns import SYNONYMS, plain
from remoe_sim.formats.facts import StatedFacts, facts_of
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import Entry, as_array, read_json, read_objects
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace
from remoe_sim.util.errors import TraceError

_FIELDS = (*(one for one in SYNONYMS["experts"] if one != "top_k"), "routing", "routes", "route", "decisions")
_NESTED = re.compile(r'"([^"\\]{1,40})":\[\[\[')
_PROMPT = ("prompt_len", "prompt_length", "prompt_tokens", "num_prompt_tokens")


class NestedJson(TraceFormat):
    name = "nested-json"
    summary = "JSON lists [token][layer][k] of expert ids, alone or in a field such as experts"
    layout = __doc__ or ""
    shape = "json"
    words = ("[[[", '"experts"')
    general = True
    writer = "you, or `json.dump` of an array"
    kept = "ranks, the length of the prompt where it is there"
    lost = "weights, layer numbers, names of requests"
    sure = "files of it"

    def recognises(self, source: Source) -> bool:
        text = "".join(source.head_text[:4096].split())
        if text.startswith("[[["):
            return True
        return any(plain(match[1]) in _FIELDS for match in _NESTED.finditer("".join(source.head_text.split())))

    def read(self, source: Source) -> Trace:
        facts, requests = facts_of({}), []
        for entry in _documents(source):
            name = _field(entry.fields)
            if name is None:
                inside = _objects(entry)
                if not inside:
                    raise entry.error("no field says experts; record it again")
                facts = facts_of(entry.fields)
                requests += [_request(one, _field(one.fields), facts) for one in inside]
                continue
            facts = facts_of(entry.fields) if not requests else facts
            requests.append(_request(entry, name, facts))
        trace = trace_of_requests(source, requests, experts=facts.experts)
        return facts.checked(source, trace)


def _documents(source: Source) -> list[Entry]:
    """All objects of the file; a list of numbers alone is in the field ''."""
    if "".join(source.head_text[:4096].split()).startswith("[[["):
        return [Entry(source, {"": read_json(source)})]
    return list(read_objects(source))


def _objects(entry: Entry) -> list[Entry]:
    """The objects in a field of an object, each with ids of its own."""
    for name, value in entry.fields.items():
        each = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        inside = list(each)
        if inside and all(isinstance(one, dict) and _field(one) for _, one in inside):
            return [Entry(entry.source, one, entry.line, f"{entry.place}{name} {at}: ") for at, one in inside]
    return []


def _request(entry: Entry, name: str | None, facts: StatedFacts) -> RequestArrays:
    assert name is not None

    def fault(text: str) -> TraceError:
        return entry.error(text, name or None)

    ids = as_array(entry.fields[name], 3, "iu", fault)
    prompt = next((entry.whole(one) for one in _PROMPT if type(entry.fields.get(one)) is int), None)
    ids = tokens_first(entry.source, ids, fault, layers=facts.moe_layers)
    if prompt is not None and prompt > len(ids):
        raise entry.error(f"{prompt} tokens of the prompt, but {len(ids)} in all; record it again")
    return RequestArrays(ids, prompt, line=entry.line, place=entry.place, empty=True)


def _field(fields: dict[str, Any]) -> str | None:
    """The field that holds the ids."""
    if "" in fields:
        return ""
    names = {plain(name): name for name, value in fields.items() if isinstance(value, list)}
    return next((names[one] for one in _FIELDS if one in names), None)
