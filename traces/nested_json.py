"""Expert ids in lists of lists of lists, [token][layer][k], alone or in a field of an object.

    [[[7, 3], [9, 1]], [[12, 3], [4, 1]]]
    {"experts": [[[7, 3], [9, 1]], ...], "prompt_len": 1, "num_experts": 16}

Other orders of the axes are told apart by their lengths, or by --axes layers,tokens,k. prompt_len may say how many
tokens are of the prompt; else phases are not recorded (--phase).
"""

from __future__ import annotations

from typing import Any

from remoe_sim.formats.arrays import RequestArrays, trace_of_requests
from remoe_sim.formats.axes import tokens_first
from remoe_sim.formats.columns import SYNONYMS, plain
from remoe_sim.formats.facts import facts_of
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import Entry, as_array, first_fields, read_json
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace
from remoe_sim.util.errors import TraceError

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
    lost = "requests (one), weights, layer numbers"
    sure = "files of it"

    def recognises(self, source: Source) -> bool:
        text = "".join(source.head_text[:4096].split())
        if text.startswith("[[["):
            return True
        name = _field(first_fields(source))
        return name is not None and f'"{name}":[[[' in "".join(source.head_text.split())

    def read(self, source: Source) -> Trace:
        value = read_json(source)
        fields = value if isinstance(value, dict) else {}
        name = _field(fields)
        if isinstance(value, dict) and name is None:
            raise source.error("no field says experts; record it again")

        def fault(text: str) -> TraceError:
            return source.error(text, column=name)

        ids = as_array(fields[name] if name else value, 3, "iu", fault)
        entry = Entry(source, fields)
        prompt = next((entry.whole(one) for one in _PROMPT if type(fields.get(one)) is int), None)
        facts = facts_of(fields)
        ids = tokens_first(source, ids, fault, layers=facts.moe_layers)
        if prompt is not None and prompt > len(ids):
            raise source.error(f"{prompt} tokens of the prompt, but {len(ids)} in all; record it again")
        trace = trace_of_requests(source, [RequestArrays(ids, prompt, empty=True)], experts=facts.experts)
        return facts.checked(source, trace)


def _field(fields: dict[str, Any]) -> str | None:
    """The field that holds the ids."""
    names = {plain(name): name for name in fields}
    return next((names[one] for one in SYNONYMS["experts"] if one in names and one != "top_k"), None)
