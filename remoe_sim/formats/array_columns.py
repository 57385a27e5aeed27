"""Arrays of any library as NumPy's, and the columns of tokens that follow from where requests and prompts end."""

from __future__ import annotations

from typing import Any

import numpy as np

from remoe_sim.formats.records import ASSUMED_STEPS
from remoe_sim.trace.schedule import steps_of
from remoe_sim.trace.trace import DECODE, PHASES, PREFILL
from remoe_sim.util.arrays import Array, Longs

_WHAT = {"iu": "whole numbers", "f": "real numbers"}


def numpy_of(given: Any, name: str, kinds: str) -> Array:
    """The array that was given, not copied where it is one of numbers in memory; ValueError for another type.

    kinds: of NumPy, `iu` for whole numbers or `f` for real ones.
    """
    if isinstance(given, str | bytes | dict | set) or given is None:
        raise ValueError(f"{name} are of type {type(given).__name__}; give an array or lists of {_WHAT[kinds]}")
    if hasattr(given, "detach"):  # torch
        given = given.detach().cpu()
        given = given.float() if "bfloat16" in str(given.dtype) else given
    try:
        array = np.asarray(given.numpy() if hasattr(given, "cpu") else given)
    except (TypeError, ValueError, RuntimeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} cannot be read as an array ({why}); give lists of the same lengths") from None
    if array.dtype.kind not in kinds and not (kinds == "f" and array.dtype.kind in "iu") and array.size:
        raise ValueError(f"{name} hold {array.dtype}, of type {type(given).__name__}; give {_WHAT[kinds]}")
    return array


def columns_of(tokens: int, offsets: Any, prompt_lengths: Any, phase: Any) -> tuple[dict[str, Any], list[str]]:
    """request, position, phase and step of each token, and what was assumed; ValueError for what does not fit."""
    bounds = _bounds(tokens, offsets)
    lengths = np.diff(bounds)
    request = np.repeat(np.arange(lengths.size, dtype=np.int32), lengths)
    position = (np.arange(tokens) - np.repeat(bounds[:-1], lengths)).astype(np.int32)
    notes = [] if offsets is not None else ["all tokens are taken as one request, because offsets are not given"]
    if phase is not None and prompt_lengths is not None:
        raise ValueError("phase and prompt_lengths both say which tokens are prompts; give one of them")
    if prompt_lengths is not None:
        prompts = _prompts(prompt_lengths, lengths)
        phases = np.where(position < np.repeat(prompts, lengths), PREFILL, DECODE).astype(np.uint8)
    elif phase is not None:
        phases = _phases(phase, tokens)
    else:
        phases = np.full(tokens, DECODE, np.uint8)
        notes.append("all tokens are taken as decode, because lengths of prompts are not given")
    step = steps_of(request, phases)
    return {"request": request, "position": position, "phase": phases, "step": step}, [*notes, ASSUMED_STEPS]


def _bounds(tokens: int, offsets: Any) -> Longs:
    if offsets is None:
        return np.array([0, tokens], np.int64)
    bounds = numpy_of(offsets, "offsets", "iu").astype(np.int64)
    if bounds.ndim != 1 or bounds.size < 2:
        raise ValueError(f"offsets have the shape {bounds.shape}; give where each request begins, and the end")
    if bounds[0] != 0 or bounds[-1] != tokens or (np.diff(bounds) < 0).any():
        raise ValueError(f"offsets must rise from 0 to the {tokens} tokens, but go from {bounds[0]} to {bounds[-1]}")
    return bounds


def _prompts(given: Any, lengths: Longs) -> Longs:
    single = isinstance(given, int | np.integer) and not isinstance(given, bool)
    prompts = numpy_of([given] if single else given, "prompt_lengths", "iu").astype(np.int64)
    if prompts.shape != lengths.shape:
        raise ValueError(f"prompt_lengths have the shape {prompts.shape} for {lengths.size} requests; give one each")
    wrong = np.flatnonzero((prompts < 0) | (prompts > lengths))
    if wrong.size:
        one = int(wrong[0])
        raise ValueError(f"prompt_lengths: {prompts[one]} for request {one}, which has {lengths[one]} tokens")
    return prompts


def _phases(given: Any, tokens: int) -> Array:
    word = isinstance(given, str)
    values = np.atleast_1d(np.asarray(given.detach().cpu().numpy() if hasattr(given, "detach") else given))
    if values.dtype.kind in "UO":
        table = {name: code for code, name in enumerate(PHASES)}
        words, codes = np.unique(values.astype(str), return_inverse=True)
        unknown = [word for word in words.tolist() if word not in table]
        if unknown:
            raise ValueError(f"phase '{unknown[0]}' is not possible; give {' or '.join(PHASES)}")
        values = np.array([table[word] for word in words.tolist()], np.uint8)[codes]
    if word:
        return np.full(tokens, values[0], np.uint8)
    if values.shape != (tokens,) or values.dtype.kind not in "iu" or np.any((values < 0) | (values > 1)):
        raise ValueError(
            f"phase is {values.dtype} of shape {values.shape}; give {PREFILL} (prefill) or {DECODE} (decode), or these "
            f"words, for each of the {tokens} tokens"
        )
    return values.astype(np.uint8)
