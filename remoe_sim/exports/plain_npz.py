"""Plain npz, as the importer of that name reads it: an array experts [tokens, layers, k] and the rest in others."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.blocks import block_rows, blocks_of
from remoe_sim.exporting import ExportFormat, has_weights, slots_there
from remoe_sim.trace import Trace


class PlainNpz(ExportFormat):
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
