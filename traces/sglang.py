"""What SGLang returns with return_routed_experts (server: --enable-return-routed-experts), saved as JSON.

    {"text": ..., "meta_info": {"prompt_tokens": 2, "completion_tokens": 4, "routed_experts": "<base64>"}}   /generate
    {"choices": [{..., "sgl_ext": {"routed_experts": "<base64>"}}], "usage": {"prompt_tokens": 2, ...}}        OpenAI

An object, a list of objects, or JSON Lines. The base64 text is [tokens, layers, k] without its shape, in the type that
routed_experts_dtype names (int32, uint16 or uint8; without it, the widest in which the ids are possible): tokens are
prompt and completion without the last, which is never fed back, from routed_experts_start_len on (0 without it), and
--top-k N says what k is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from remoe_sim.formats.arrays import RequestArrays, trace_of_requests
from remoe_sim.formats.assemble import find_repeated
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import Entry, decoded, first_fields, flat_array, read_objects, shown
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace
from remoe_sim.trace.trace import MOST_EXPERTS
from remoe_sim.util.arrays import Ints

_TYPES = ("int32", "uint16", "uint8", "int64", "int16")
_MOST = 1024  # experts of a layer, as far as models are known: two ids of uint8 make a larger one of uint16


class SgLang(TraceFormat):
    name = "sglang"
    summary = "SGLang responses with routed_experts (base64) in meta_info or sgl_ext; needs --top-k"
    layout = __doc__ or ""
    shape = "json"
    words = ('"meta_info"', '"routed_experts"')
    writer = "SGLang `return_routed_experts`: saved `/generate` or OpenAI responses"
    kept = "prompt and generation apart, `routed_experts_start_len`"
    lost = "k is not in a response (`--top-k`)"
    sure = "code that writes it"

    def recognises(self, source: Source) -> bool:
        fields = first_fields(source)
        return "meta_info" in fields or ("choices" in fields and '"sgl_ext"' in source.head_text)

    def read(self, source: Source) -> Trace:
        found = [(entry, response) for entry in read_objects(source) for response in _responses(entry)]
        if not found:
            raise source.error("there is no response in it; record it again")
        return trace_of_requests(source, [_request(source, entry, *parts) for entry, parts in found])


def _responses(entry: Entry) -> Iterator[tuple[Entry, Entry]]:
    """What holds the array, and what holds the counts of tokens, of each completion."""
    if "meta_info" in entry.fields:
        meta = entry.inside("meta_info")
        yield meta, meta
        return
    usage = entry.inside("usage")
    choices = entry.get("choices")
    if not isinstance(choices, list) or len(choices) != 1:
        count = len(choices) if isinstance(choices, list) else 0
        text = f"{count} completions, but tokens are counted for all of them together; ask for one per response"
        raise entry.error(text, "choices")
    choice = entry.inside("choices", choices[0])
    yield (choice if "sgl_ext" in choice.fields else entry).inside("sgl_ext"), usage


def _request(source: Source, entry: Entry, holder: Entry, counts: Entry) -> RequestArrays:
    if holder.fields.get("routed_experts") is None:
        text = (
            "null or missing; ask for return_routed_experts, and start the server with --enable-return-routed-experts"
        )
        raise holder.error(text, "routed_experts")
    start = _start(entry, holder)
    prompt, completion = counts.whole("prompt_tokens"), counts.whole("completion_tokens")
    tokens = prompt + completion - 1 - start
    flat = _ids(source, entry, holder, max(tokens, 1))
    if tokens < 1 or flat.size % tokens:
        text = f"{flat.size} ids are not a whole number for each of {tokens} tokens ({prompt} of the prompt and "
        text += f"{completion} generated, without the last and the first {start}); record it again"
        raise holder.error(text, "routed_experts")
    per_token = flat.reshape(tokens, -1)
    k = source.given.top_k
    if k is None:
        raise source.error(
            f"the response does not say how many experts each token has; pass --top-k N{_likely(per_token)}"
        )
    if per_token.shape[1] % k:
        raise holder.error(f"{per_token.shape[1]} ids per token are not a multiple of {k}; correct --top-k")
    return RequestArrays(per_token.reshape(tokens, -1, k), prompt, start, line=entry.line, place=entry.place)


def _ids(source: Source, entry: Entry, holder: Entry, tokens: int) -> Ints:
    """The ids in one dimension, in the type that the response names, else in the widest in which they are possible."""
    for one in (holder, entry):
        dtype = one.fields.get("routed_experts_dtype")
        if dtype is not None:
            name = str(dtype).removeprefix("torch.").removeprefix("numpy.")
            if name not in _TYPES:
                raise one.error(f"{shown(dtype)} is not one of {', '.join(_TYPES)}; correct it", "routed_experts_dtype")
            return flat_array(holder, "routed_experts", np.dtype(name).newbyteorder("<").str)
    raw, k = decoded(holder, "routed_experts"), source.given.top_k
    most = source.given.experts or MOST_EXPERTS
    for name in ("int32", "uint16", "uint8"):
        size = np.dtype(name).itemsize
        if raw and not len(raw) % (size * tokens * (k or 1)):
            ids = np.frombuffer(raw, np.dtype(name).newbyteorder("<")).astype(np.int64)
            repeated = k is not None and find_repeated(np.where(ids == 0, -1, ids).reshape(-1, k)) is not None
            if ids.min() >= 0 and ids.max() < min(most, _MOST if size == 2 else most) and not repeated:
                if name != "int32":
                    source.note(f"the ids are taken as {name}, because the response does not name their type")
                return ids
    return flat_array(holder, "routed_experts")


def _start(entry: Entry, holder: Entry) -> int:
    """The position of the first token that has experts."""
    for one in (holder, entry):
        start = one.maybe_whole("routed_experts_start_len")
        if start is not None:
            return start
    return 0


def _likely(per_token: Ints) -> str:
    """The largest k for which no decision holds an expert twice, in brackets."""
    width = per_token.shape[1]
    fitting = (k for k in range(min(width, 64), 1, -1) if width % k == 0)
    sample = np.where(per_token == 0, -1, per_token)[:256]  # dense layers are all 0
    k = next((k for k in fitting if find_repeated(sample.reshape(-1, k)) is None), None)
    return "" if k is None or len(per_token) < 8 else f" ({k} looks right: the most with which no token has one twice)"
