"""The .pt files of CECAR's save_routing_logits.py: decode only, many questions in one file.

    {"hf_model_id": ..., "prompt_len": [97, ...], "gen_ids_decode": [...], "eos_pos_in_decode": [-1, ...],
     "routing_decode": [{"type": "topk", "idx": tensor [tokens, 1, layers, k], "val": tensor}, ...]}

or "type": "full_logits" with "logits" [tokens, 1, layers, experts], of which the largest are taken (--top-k N says how
many). Generation does not stop at the end of an answer, so each question is cut at eos_pos_in_decode (-1: it never
ended). The file is read without torch, and nothing but tensors and containers is unpickled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from remoe_sim.formats.arrays import RequestArrays, trace_of_requests
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.logits import largest, softmax
from remoe_sim.formats.source import Source
from remoe_sim.formats.torch_files import read_torch, torch_pickle
from remoe_sim.trace import Trace
from remoe_sim.util.errors import TraceError


class Cecar(TraceFormat):
    name = "cecar"
    summary = "CECAR save_routing_logits.py (.pt): routing_decode, top-k or logits; answers cut at their end"
    layout = __doc__ or ""
    shape = "zip"
    words = ("data.pkl",)
    writer = "CECAR `save_routing_logits.py` (.pt, read without torch)"
    kept = "gate weights, all probabilities of logits"
    lost = "decode only; tokens after the end of an answer are left out"
    sure = "code that writes it"

    def recognises(self, source: Source) -> bool:
        return b"routing_decode" in torch_pickle(source)

    def read(self, source: Source) -> Trace:
        saved = read_torch(source)
        listed = saved.get("routing_decode") if isinstance(saved, dict) else None
        if not isinstance(listed, list) or not listed:
            raise source.error("there is no routing_decode in it; save it with save_routing_logits.py")
        ends = _per_question(source, saved, "eos_pos_in_decode", len(listed), -1)
        prompts = _per_question(source, saved, "prompt_len", len(listed), 0)
        requests, cut = [], 0
        for number, one in enumerate(listed):
            experts, weights, probs = _question(source, number, one)
            kept = len(experts) if ends[number] < 0 else min(ends[number], len(experts))
            cut += len(experts) - kept
            if kept:
                parts = None if probs is None else [probs[:kept, layer] for layer in range(probs.shape[1])]
                requests.append(
                    RequestArrays(experts[:kept], None, prompts[number], weights[:kept], probs=parts, place=_at(number))
                )
        if cut:
            source.note(f"{cut} tokens after the end of their answer left out")
        if not requests:
            raise source.error("every answer ends at its first token; there is nothing to import")
        source.note("positions start after the prompts, which are not recorded")
        experts_in_all = None if requests[0].probs is None else requests[0].probs[0].shape[1]  # type: ignore[union-attr]
        trace = trace_of_requests(source, requests, experts=experts_in_all)
        name = saved.get("hf_model_id")
        return replace(trace, model=replace(trace.model, name=name if isinstance(name, str) else None))


def _at(number: int) -> str:
    return f"question {number}: "


def _per_question(source: Source, saved: dict[str, Any], name: str, count: int, default: int) -> list[int]:
    values = saved.get(name)
    if values is None:
        source.note(f"{name} is not there and taken as {default}")
        return [default] * count
    numbers = np.asarray(values).reshape(-1)
    if numbers.dtype.kind not in "iu" or numbers.size != count:
        raise source.error(f"{name} is not a list of {count} whole numbers, one for each question; save it again")
    if numbers.min() < default or numbers.max() >= 2**31:
        raise source.error(f"{name} holds {numbers.min()} to {numbers.max()}, which is not possible; save it again")
    return [int(one) for one in numbers]


def _question(source: Source, number: int, one: Any) -> tuple[Any, Any, Any]:
    """Experts and weights [tokens, layers, k], and probabilities [tokens, layers, experts] if all are there."""

    def fault(text: str) -> TraceError:
        return source.error(f"{_at(number)}{text}; save it again")

    kind = one.get("type") if isinstance(one, dict) else None
    names = {"topk": ("idx", "val"), "full_logits": ("logits",)}.get(str(kind))
    if names is None:
        raise fault(f"its type is {kind!r}, expected 'topk' or 'full_logits'")
    arrays = [np.asarray(one.get(name)) for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 4 or array.shape[1] != 1 or array.dtype.kind not in ("iu" if name == "idx" else "iuf"):
            raise fault(f"'{name}' is {array.dtype} of shape {array.shape}, expected a tensor [tokens, 1, layers, k]")
    if kind == "topk":
        if arrays[0].shape != arrays[1].shape:
            raise fault(f"'idx' has shape {arrays[0].shape}, 'val' {arrays[1].shape}")
        return arrays[0][:, 0], arrays[1][:, 0], None
    logits, k = arrays[0][:, 0].astype(np.float64), source.given.top_k
    if k is None:
        raise source.error("logits do not say how many experts each token has; pass --top-k N")
    if k > logits.shape[2] or not np.isfinite(logits).all():
        raise fault(f"{logits.shape[2]} logits, some may not be finite, of which {k} cannot be taken")
    experts, probs = largest(logits, k), softmax(logits)
    return experts, np.take_along_axis(probs, experts, axis=2), probs.astype(np.float16)
