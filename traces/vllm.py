"""What vLLM returns with --enable-return-routed-experts: an array [tokens, layers, k] for each request.

    routing.npy                routed_experts of one request: the prompt and all generated tokens but the last
    routing.npz                routed_experts [generated tokens, layers, k] and prompt_routed_experts, or all in one
    {"id": ..., "num_prompt_tokens": 2, "experts_shape": [5, 4, 2], "experts_b64": "..."}           JSON Lines, int32
    {"prompt_token_ids": [...], "prompt_routed_experts": ..., "outputs": [{"token_ids": [...], "routed_experts": ...}]}

The last is a saved request output, or a response of the OpenAI server with choices in place of outputs; an object, a
list, or JSON Lines. There an array is a nested list, base64 of a .npy file, or {"data": base64, "dtype", "shape"}.
The last generated token is never fed back, so it has no experts; -1 is a slot without one. "start" in such an object
(or routed_experts_prompt_start) is the position of the first row; rows must be prompt + generated - 1 - start, or those
of what was generated. Several completions of a prompt become requests of their own, each with the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from remoe_sim.formats.arrays import RequestArrays, trace_of_requests
from remoe_sim.formats.axes import tokens_first
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import Entry, first_fields, flat_array, npy_array, read_objects, routed_array, shaped
from remoe_sim.formats.npz_files import NpzArrays
from remoe_sim.formats.source import Source, checked_ids
from remoe_sim.trace import Trace
from remoe_sim.util.arrays import Ints
from remoe_sim.util.errors import TraceError

_NPY = b"\x93NUMPY"


class Vllm(TraceFormat):
    name = "vllm"
    summary = "vLLM routed_experts arrays [tokens, layers, k]: npy, npz, JSON Lines with base64, saved outputs"
    layout = __doc__ or ""
    shape = "json"
    words = ("routed_experts",)
    writer = "vLLM `--enable-return-routed-experts`: .npy, .npz, saved outputs or responses, JSON Lines with base64"
    kept = "prompt and generation apart, token ids where they are there"
    lost = "forward passes; a single array says nothing of the prompt"
    sure = "code that writes it"

    def recognises(self, source: Source) -> bool:
        if source.head.startswith(_NPY):
            return b"'descr': '<f" not in source.head[:128]
        if "routed_experts.npy" in source.members:
            return True
        fields = first_fields(source)
        if "experts_b64" in fields:
            return True
        holder = {"outputs", "choices", "routed_experts", "prompt_routed_experts"} & fields.keys()
        others = "meta_info" in fields or '"sgl_ext"' in source.head_text
        return bool(holder) and 'routed_experts"' in source.head_text and not others

    def read(self, source: Source) -> Trace:
        if source.head.startswith(_NPY):
            with source.open() as stream:
                ids = npy_array(stream.read(), source.error)
            requests = [RequestArrays(tokens_first(source, ids, source.error), empty=True)]
        elif source.members:
            requests = [_from_npz(source)]
        else:
            requests = [one for entry in read_objects(source) for one in _of_entry(entry)]
        if any(one.prompt is None for one in requests):
            source.note("the length of a prompt is not recorded, and its tokens are taken as decode")
        return trace_of_requests(source, requests)


def _from_npz(source: Source) -> RequestArrays:
    arrays = NpzArrays(source)
    parts = [arrays.get(name, "iu", "whole numbers") for name in ("prompt_routed_experts", "routed_experts")]
    for name, part in zip(("prompt_routed_experts", "routed_experts"), parts, strict=True):
        if part is not None and (part.ndim != 3 or not part.size):
            raise arrays.error(name, f"shape {part.shape}, expected [tokens, layers, k]")
    prompt, routed = parts
    if routed is None:
        raise source.error(f"array 'routed_experts' is missing (there are {', '.join(arrays.names)}); add it")
    if prompt is None:
        count = arrays.count("num_prompt_tokens")
        ids = tokens_first(source, routed, lambda text: arrays.error("routed_experts", text), certain=count is not None)
        return RequestArrays(ids, count, empty=True)
    if prompt.shape[1:] != routed.shape[1:]:
        raise arrays.error("routed_experts", f"shape {routed.shape}, but prompt_routed_experts has {prompt.shape}")
    return RequestArrays(_one_below_the_other([prompt, routed], source.error), len(prompt), empty=True)


def _one_below_the_other(parts: Sequence[Ints], fault: Callable[[str], TraceError]) -> Ints:
    """The ids of a prompt and of what was generated, which may be of other types."""
    return np.concatenate([checked_ids(part, lambda _, text: fault(text), empty=True) for part in parts])


def _of_entry(entry: Entry) -> Iterator[RequestArrays]:
    if "experts_b64" in entry.fields:
        flat = flat_array(entry, "experts_b64")
        experts = shaped(entry, "experts_shape", flat, entry.get("experts_shape"))
        for axis, name in enumerate(("num_layers", "topk"), 1):
            stated = entry.maybe_whole(name)
            if stated is not None and stated != experts.shape[axis]:
                raise entry.error(f"{stated}, but experts_shape has {experts.shape[axis]}; record it again", name)
        prompt, generated = entry.maybe_whole("num_prompt_tokens"), entry.maybe_whole("num_output_tokens")
        first, prompt = _placed(entry, "experts_b64", len(experts), _Lengths(prompt, generated, 0))
        yield RequestArrays(experts, prompt, first, line=entry.line, place=entry.place, empty=True)
        return
    holder = next((name for name in ("outputs", "choices") if name in entry.fields), None)
    if holder is None:
        yield _completion(entry, entry, entry.place, 1)
        return
    completions = entry.get(holder)
    if not isinstance(completions, list) or not completions:
        raise entry.error("not a list of completions; record it again", holder)
    for completion in completions:
        yield _completion(entry, entry.inside(holder, completion), entry.place, len(completions))


@dataclass(frozen=True)
class _Lengths:
    """How many tokens a prompt and what was generated have, None if that is not recorded, and how many rows at the
    head of the prompt are not there (None: that is not said); cached: how many were taken from the prefix cache."""

    prompt: int | None
    generated: int | None
    start: int | None
    cached: int = 0


def _completion(entry: Entry, completion: Entry, place: str, completions: int) -> RequestArrays:
    """One completion with its prompt; the prompt's array is at the response, or at the head of the completion's."""
    prompt = routed_array(entry, "prompt_routed_experts")
    routed = routed_array(completion, "routed_experts")
    if routed is None and prompt is None:
        text = "null or missing; start vLLM with --enable-return-routed-experts"
        raise completion.error(text, "routed_experts")
    if prompt is not None and routed is not None and prompt.shape[1:] != routed.shape[1:]:
        text = f"shape {routed.shape}, but prompt_routed_experts has {prompt.shape}; record it again"
        raise completion.error(text, "routed_experts")
    parts = [part for part in (prompt, routed) if part is not None]
    experts = _one_below_the_other(parts, lambda text: completion.error(text, "routed_experts"))
    lengths = _lengths(entry, completion, completions, "routed_experts" if prompt is None else "prompt_routed_experts")
    if prompt is None:
        first, length = _placed(completion, "routed_experts", len(experts), lengths)
    else:
        first, length = _below_prompt(entry, completion, len(prompt), len(experts) - len(prompt), lengths)
    ids = _token_ids(entry, completion, first, len(experts))
    return RequestArrays(experts, length, first, token_ids=ids, line=entry.line, place=place, empty=True)


def _lengths(entry: Entry, completion: Entry, completions: int, array: str) -> _Lengths:
    start = next((one for one in (_start(where, array) for where in (completion, entry)) if one is not None), None)
    return _Lengths(_prompt_length(entry), _generated(entry, completion, completions), start, _cached(entry))


def _cached(entry: Entry) -> int:
    """How many tokens of the prompt were taken from the prefix cache, as far as the response says it."""
    details = entry.inside("usage").fields.get("prompt_tokens_details") if "usage" in entry.fields else None
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return cached if type(cached) is int and cached > 0 else 0


def _start(entry: Entry, array: str) -> int | None:
    """The position of the first row of an array: next to it, or in its own object."""
    for name in ("routed_experts_prompt_start", "routed_experts_start_len", "routed_experts_start"):
        if entry.fields.get(name) is not None:
            return entry.whole(name)
    value = entry.fields.get(array)
    return entry.inside(array).maybe_whole("start") if isinstance(value, dict) else None


def _generated(entry: Entry, completion: Entry, completions: int) -> int | None:
    """How many tokens a completion has."""
    if completion.fields.get("token_ids") is not None:
        return len(completion.list_of("token_ids", int, "whole numbers"))
    if completions == 1 and isinstance(entry.fields.get("usage"), dict):
        return entry.inside("usage").maybe_whole("completion_tokens")
    return entry.maybe_whole("num_output_tokens") if completions == 1 else None


def _placed(entry: Entry, name: str, rows: int, lengths: _Lengths) -> tuple[int, int | None]:
    """The position of the first row of a whole request, and the length of its prompt; the last token that was generated
    is not fed back. Without the rows of the prompt, the first row is the first token that was generated.

    TraceError where the rows are neither.
    """
    start, prompt, generated = lengths.start or 0, lengths.prompt, lengths.generated
    if prompt is None or generated is None:
        return start, prompt
    expected = prompt + generated - 1 - start
    if rows == expected:
        return start, prompt
    if lengths.start in (None, 0) and rows in (generated, generated - 1):
        entry.source.note("only what was generated is recorded, and nothing of the prompt")
        return prompt, prompt
    if lengths.start in (None, 0) and 0 < lengths.cached < prompt and rows == expected - lengths.cached:
        entry.source.note("tokens of prompts that were taken from the prefix cache are not recorded, and not there")
        return lengths.cached, prompt
    text = f"{rows} rows, but {prompt} tokens of the prompt and {generated} generated ones, without the last"
    text += f" and the first {start}" if start else ""
    raise entry.error(f"{text}, are {expected}; rows are missing, record it again", name)


def _below_prompt(
    entry: Entry, completion: Entry, prompt: int, generated: int, lengths: _Lengths
) -> tuple[int, int | None]:
    """The same where the prompt has an array of its own, of `prompt` rows, above `generated` rows."""
    start = lengths.start or 0
    if lengths.prompt is not None and prompt + start != lengths.prompt:
        text = f"{prompt} rows, but the prompt has {lengths.prompt} tokens"
        text += f", without the first {start}" if start else ""
        raise entry.error(f"{text}; rows are missing, record it again", "prompt_routed_experts")
    if lengths.generated is not None and generated not in (lengths.generated - 1, lengths.generated):
        text = f"{generated} rows, but {lengths.generated} generated tokens without the last are"
        raise completion.error(f"{text} {lengths.generated - 1}; record it again", "routed_experts")
    return start, prompt + start


def _prompt_length(entry: Entry) -> int | None:
    if entry.fields.get("prompt_token_ids") is not None:
        return len(entry.list_of("prompt_token_ids", int, "whole numbers"))
    if isinstance(entry.fields.get("usage"), dict):
        return entry.inside("usage").maybe_whole("prompt_tokens")
    return entry.maybe_whole("num_prompt_tokens")


def _token_ids(entry: Entry, completion: Entry, first: int, tokens: int) -> Ints | None:
    """Ids of the tokens that were fed in, where the file has those of the prompt and of the completion."""
    parts = [(entry, "prompt_token_ids"), (completion, "token_ids")]
    if any(where.fields.get(name) is None for where, name in parts):
        return None
    ids = [one for where, name in parts for one in where.list_of(name, int, "whole numbers")]
    if min(ids) < 0 or max(ids) >= 2**31:
        raise completion.error("a token id below 0 or too large; record it again", "token_ids")
    return np.array(ids[first : first + tokens], np.int64)
