"""Plain npz: NumPy arrays, one entry per token in execution order.

    numpy.savez("t.npz", experts=ids, offsets=[0, 511, 612], prompt_lengths=[97, 40])

experts: whole numbers [tokens, layers, k], largest gate weight first; negative where a slot was not computed, all
negative where a token was not routed at the layer. All other arrays are optional:
offsets [requests + 1] bounds of the requests, else there is one; prompt_lengths [requests] tokens of the prompt, one
prefill step, else phase [tokens] (0 or prefill, 1 or decode), else all is decode; step [tokens] the forward pass, else
each decode token is one; positions [tokens]; token_id [tokens]; weights [tokens, layers, k], nan where unknown;
layer_numbers [layers], else 0, 1, ...; top_k [layers], how many slots each has, else up to the last that any token
uses; n_experts; n_layers, of the whole model; expert_bytes and dense_bytes, one or per layer; name; quant;
meta: JSON text, a list with one object per request; first_token_index is the position of its first token, and
import --where chooses requests by all else in it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.arrays import layer_tables
from remoe_sim.formats.axes import tokens_first
from remoe_sim.formats.format import ExportFormat, TraceFormat, has_weights, slots_there
from remoe_sim.formats.npz_files import NpzArrays
from remoe_sim.formats.records import ASSUMED_STEPS, phase_codes
from remoe_sim.formats.source import Source
from remoe_sim.trace import DECODE, PHASES, PREFILL, Model, Trace
from remoe_sim.trace.schedule import steps_of
from remoe_sim.trace.sources import block_rows, blocks_of
from remoe_sim.util.arrays import Ints

_KNOWN = (
    "experts", "offsets", "prompt_lengths", "phase", "step", "positions", "token_id", "weights", "layer_numbers",
    "top_k", "n_experts", "n_layers", "expert_bytes", "dense_bytes", "name", "quant", "meta",
)  # fmt: skip


class PlainNpz(TraceFormat):
    name = "npz"
    summary = "plain npz: an array experts [tokens, layers, k], with offsets of requests and more if it is known"
    layout = __doc__ or ""
    shape = "zip"
    words = ("experts.npy",)
    writer = "you: the plain layout below"
    kept = "all that is there"
    lost = "forward passes, requests and phases where arrays for them are missing"
    sure = "you say it"

    def recognises(self, source: Source) -> bool:
        return "experts.npy" in source.members

    def read(self, source: Source) -> Trace:
        arrays = NpzArrays(source)
        experts = arrays.get("experts", "iu", "whole numbers")
        if experts is None:
            raise source.error(f"array 'experts' is missing (there are {', '.join(arrays.names)}); add it")
        if experts.ndim != 3 or not experts.size:
            raise arrays.error("experts", f"shape {experts.shape}, expected [tokens, layers, k]")
        experts = tokens_first(
            source,
            experts,
            lambda text: arrays.error("experts", text),
            tokens=_stated_tokens(arrays),
            layers=_stated_layers(arrays),
        )
        columns = _token_columns(source, arrays, len(experts))
        unknown = [name for name in arrays.names if name not in _KNOWN]
        if unknown:
            source.note(f"arrays not imported: {', '.join(unknown)}")
        return _trace(source, arrays, experts, columns)


def _stated_tokens(arrays: NpzArrays) -> int | None:
    """How many tokens there are, by the arrays that have one entry for each."""
    offsets = arrays.whole("offsets")
    if offsets is not None and offsets.ndim == 1 and offsets.size:
        return int(offsets[-1])
    for name in ("phase", "step", "positions", "token_id"):
        array = arrays.get(name, "iuU", "an entry for each token")
        if array is not None and array.ndim == 1:
            return int(array.size)
    return None


def _stated_layers(arrays: NpzArrays) -> int | None:
    """How many layers there are, by the arrays that have one entry for each."""
    for name in ("layer_numbers", "top_k"):
        array = arrays.get(name, "iu", "an entry for each layer")
        if array is not None and array.ndim == 1:
            return int(array.size)
    return None


def _trace(source: Source, arrays: NpzArrays, experts: Ints, columns: dict[str, Any]) -> Trace:
    """The trace of all layers that have an expert at all, in ascending order of their numbers."""
    count = source.experts(int(experts.max()), arrays.count("n_experts"))
    weights = arrays.get("weights", "fiu", "numbers", experts.shape)
    numbers = arrays.whole("layer_numbers", (experts.shape[1],))
    if numbers is None:
        numbers = np.arange(experts.shape[1])
        source.note("layers are numbered from 0")
    if np.unique(numbers).size < numbers.size:
        raise arrays.error("layer_numbers", "a number is there twice")
    tables = layer_tables(
        source,
        experts,
        weights,
        numbers.tolist(),
        count,
        lambda row, text: arrays.error("experts", text, row),
        unknown=True,
        widths=arrays.whole("top_k", (experts.shape[1],), least=1, most=experts.shape[2]),
    )
    in_all = arrays.count("n_layers")
    return Trace(
        **columns,
        layer_numbers=tables.numbers,
        model=Model(
            experts=(count,) * len(tables.kept),
            top_k=tables.top_k,
            name=arrays.text("name"),
            layers=in_all,
            expert_bytes=_sizes(arrays, "expert_bytes", len(numbers), tables.kept),
            dense_bytes=_sizes(arrays, "dense_bytes", in_all or _layers(arrays, numbers)),
            quant=arrays.text("quant"),
        ),
        source=tables.in_memory(),
    )


def _layers(arrays: NpzArrays, numbers: Ints) -> int:
    """How many layers there are sizes of: all up to the last that is numbered, or just those in the array."""
    sizes = arrays.get("dense_bytes", "iu", "whole numbers")
    most = int(numbers.max()) + 1
    return most if sizes is not None and sizes.shape == (most,) else len(numbers)


def _token_columns(source: Source, arrays: NpzArrays, tokens: int) -> dict[str, Any]:
    """The columns of a trace that describe tokens."""
    lengths = _request_lengths(source, arrays, tokens)
    request = np.repeat(np.arange(lengths.size), lengths)
    index = np.arange(tokens) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    position = arrays.whole("positions", (tokens,))
    if position is None:
        position = index + _first_positions(source, arrays, lengths.size)[request]
    phase = _phases(source, arrays, request, index, lengths)
    step = arrays.whole("step", (tokens,))
    source.note(ASSUMED_STEPS if step is None else "forward passes as the array 'step' gives them")
    token_id = arrays.whole("token_id", (tokens,))
    return {
        "request": request.astype(np.int32),
        "position": position.astype(np.int32),
        "phase": phase,
        "step": steps_of(request, phase) if step is None else step.astype(np.int32),
        "token_id": None if token_id is None else token_id.astype(np.int32),
    }


def _request_lengths(source: Source, arrays: NpzArrays, tokens: int) -> Ints:
    offsets = arrays.whole("offsets")
    if offsets is None:
        source.note("all tokens are of one request, because there is no array 'offsets'")
        return np.array([tokens])
    if (
        offsets.ndim != 1
        or offsets.size < 2
        or offsets[0] != 0
        or offsets[-1] != tokens
        or (np.diff(offsets) < 0).any()
    ):
        raise arrays.error("offsets", f"bounds of requests must rise from 0 to the number of tokens ({tokens})")
    return np.diff(offsets)


def _phases(source: Source, arrays: NpzArrays, request: Ints, index: Ints, lengths: Ints) -> npt.NDArray[np.uint8]:
    """`phase` or `prompt_lengths` of the file, else decode for all tokens."""
    phase = arrays.get("phase", "iuU", "0 and 1, or prefill and decode", request.shape)
    prompts = arrays.whole("prompt_lengths", lengths.shape)
    if phase is not None and prompts is not None:
        raise arrays.error("prompt_lengths", "array 'phase' says the same thing; keep one of them")
    if phase is not None:
        words, codes = np.unique(phase, return_inverse=True)
        named = [PHASES[int(word)] if str(word) in ("0", "1") else word for word in words]
        return phase_codes(named, codes, lambda row, text: arrays.error("phase", text, row))
    if prompts is not None:
        long = np.flatnonzero(prompts > lengths)
        if long.size:
            text = f"{prompts[long[0]]} tokens of prompt in a request of {lengths[long[0]]} tokens"
            raise arrays.error("prompt_lengths", text, int(long[0]))
        return np.where(index < prompts[request], PREFILL, DECODE).astype(np.uint8)
    source.note("all tokens are taken as decode, because there is no array 'phase' or 'prompt_lengths'")
    return np.full(request.size, DECODE, np.uint8)


def _first_positions(source: Source, arrays: NpzArrays, requests: int) -> Ints:
    """Where each request starts: `first_token_index` of the objects in `meta`, else 0."""
    text = arrays.text("meta")
    if text is None:
        return np.zeros(requests, np.int64)
    try:
        entries = json.loads(text)
        first = [entry["first_token_index"] for entry in entries]
    except (ValueError, TypeError, KeyError):
        source.note("array 'meta' not imported, because it is not a list of objects with first_token_index")
        return np.zeros(requests, np.int64)
    if len(first) != requests or not all(type(one) is int and 0 <= one < 2**31 for one in first):
        raise arrays.error("meta", f"expected {requests} objects, one per request, with first_token_index from 0")
    source.note("positions start at first_token_index of array 'meta'; the prompts before it are not recorded")
    source.describe_requests(entries)
    return np.array(first)


def _sizes(arrays: NpzArrays, name: str, layers: int, kept: tuple[int, ...] | None = None) -> tuple[int, ...] | None:
    sizes = arrays.whole(name, (), (layers,), least=0, most=2**62)
    if sizes is None:
        return None
    chosen = np.broadcast_to(sizes, (layers,))[np.arange(layers) if kept is None else list(kept)]
    if not chosen.all():
        raise arrays.error(name, "a size of 0; leave the array out if sizes are unknown")
    return tuple(int(size) for size in chosen)


class NpzWriter(ExportFormat):
    name = "npz"
    suffix = ".npz"
    summary = "plain npz, an array experts [tokens, layers, k]; 'import' reads it"
    lost = "the numbers of requests, which are counted from 0, and router probabilities"

    def write(self, trace: Trace, path: Path) -> None:
        turns = np.flatnonzero(np.diff(trace.request)) + 1
        if trace.tokens and turns.size + 1 != trace.requests:
            raise trace.error("its requests interleave, and an npz has them one after the other; export it as csv")
        if len(set(trace.model.experts)) > 1:
            raise trace.error("its layers have different numbers of experts, and an npz has one; export it as csv")
        shape = (trace.tokens, trace.moe_layers, max(trace.model.top_k))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            _member(file, "experts", np.int32, shape, lambda: _experts(trace, shape))
            if has_weights(trace):
                _member(file, "weights", np.float32, shape, lambda: (_weights(part, shape) for part in _parts(trace)))
            for name, values in _facts(trace, turns).items():
                array = np.asarray(values)
                _member(file, name, array.dtype, array.shape, lambda a=array: iter([a]))  # type: ignore[misc]


def _parts(trace: Trace) -> Iterator[Trace]:
    return blocks_of(trace, block_rows(12 * sum(trace.model.top_k)))


def _member(
    file: zipfile.ZipFile,
    name: str,
    dtype: Any,
    shape: tuple[int, ...],
    parts: Callable[[], Iterator[npt.NDArray[Any]]],
) -> None:
    """One array of the file, written part by part."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with file.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for part in parts():
            member.write(np.ascontiguousarray(part, dtype).tobytes())


def _experts(trace: Trace, shape: tuple[int, ...]) -> Iterator[npt.NDArray[np.int32]]:
    """The ids of all blocks, -1 where a slot was not computed or a token was not routed."""
    first = 0
    for part in _parts(trace):
        ids = np.full((part.tokens, *shape[1:]), -1, np.int32)
        for index, k in enumerate(part.model.top_k):
            there = slots_there(part, index, first, "an npz")
            ids[:, index, :k] = np.where(there, part.source.decisions(index).experts.astype(np.int32), -1)
        first += part.tokens
        yield ids


def _weights(part: Trace, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    values = np.zeros((part.tokens, *shape[1:]), np.float32)
    for index, k in enumerate(part.model.top_k):
        found = part.source.weights(index)
        values[:, index, :k] = np.nan if found is None else found
    return values


def _facts(trace: Trace, turns: npt.NDArray[np.int64]) -> dict[str, Any]:
    """All other arrays."""
    model = trace.model
    known = {
        "token_id": trace.token_id,
        "n_layers": model.layers,
        "expert_bytes": model.expert_bytes,
        "dense_bytes": model.dense_bytes,
        "name": model.name,
        "quant": model.quant,
    }
    return {
        "offsets": np.concatenate([[0], turns, [trace.tokens]]),
        "phase": trace.phase,
        "step": trace.step,
        "positions": trace.position,
        "layer_numbers": np.array(trace.layer_numbers),
        "top_k": np.array(model.top_k),
        "n_experts": model.experts[0],
    } | {name: value for name, value in known.items() if value is not None}
