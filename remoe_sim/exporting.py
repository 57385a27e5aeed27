"""Traces to other programs' files: what an export format is, and `export`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from remoe_sim.registry import find_plugin, plugins
from remoe_sim.trace import Decisions, InMemory, Trace
from remoe_sim.units import parse_count

PACKAGE = "remoe_sim.exports"


class ExportFormat:
    """One format. `name` is what `--format` takes, `suffix` that of its files, `summary` one line, lost: what of a
    trace its files cannot hold."""

    kind: ClassVar[str] = "export format"
    name: ClassVar[str]
    suffix: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    lost: ClassVar[str] = ""

    def write(self, trace: Trace, path: Path) -> None:
        """Write the file; TraceError if this trace cannot be written so."""
        raise NotImplementedError(f"export format '{self.name}' must define write(trace, path)")


def has_weights(trace: Trace) -> bool:
    """Whether any layer has gate weights."""
    return any(trace.source.weights(index) is not None for index in range(trace.moe_layers))


def slots_there(part: Trace, index: int, first: int, name: str) -> npt.NDArray[np.bool_]:
    """Where the slots [tokens, k] of a layer have an expert.

    part: rows from `first` on of a trace. Raises TraceError where a token was routed but has no expert, which `name`
    cannot tell from a token that was not routed.
    """
    decisions = part.source.decisions(index)
    there = np.ones(decisions.experts.shape, np.bool_) if decisions.valid is None else decisions.valid
    routed = np.ones(len(there), np.bool_) if decisions.routed is None else decisions.routed
    lost = np.flatnonzero(routed & ~there.any(axis=1))
    if lost.size:
        text = f"all slots of this decision are null, and {name} cannot tell it from a token that was not routed there"
        place = f"row {first + int(lost[0])}, column '{part.column(index)}'"
        raise part.error(f"{place}: {text}; replay the trace as it is, or leave the row out")
    return there & routed[:, None]


def export(
    trace: Trace | str | os.PathLike[str],
    path: str | os.PathLike[str],
    format: str | None = None,
    layer: int | str | None = None,
) -> ExportFormat:
    """Write a trace as plain CSV, plain npz, or libCacheSim's oracleGeneral; the file appears whole or not at all.

    format: `csv`, `npz` or `oracle-general`; by the suffix of the path (.csv, .npz, .oracleGeneral) if not given.
    layer: the model's own number of the one layer to write; all without it. Returns the format. Raises ValueError for
    an unknown format, TraceError for a layer that is not there and for a trace that the format cannot hold.
    """
    from remoe_sim.file_writing import replacing
    from remoe_sim.trace_reader import read_trace

    chosen = _format(Path(path), format)
    trace = trace if isinstance(trace, Trace) else read_trace(trace)
    if layer is not None:
        trace = _one_layer(trace, parse_count(layer, "layer"))
    with replacing(path) as beside:
        chosen.write(trace, beside)
    return chosen


def _format(path: Path, name: str | None) -> ExportFormat:
    found: ExportFormat
    if name is not None:
        found = find_plugin(PACKAGE, ExportFormat, name)()
        return found
    known = plugins(PACKAGE, ExportFormat)
    for format in known.values():
        if path.suffix.lower() == format.suffix.lower():
            found = format()
            return found
    suffixes = ", ".join(format.suffix for format in known.values())
    raise ValueError(f"'{path}' has no suffix of a format ({suffixes}); give one, or name the format with --format")


def _one_layer(trace: Trace, number: int) -> Trace:
    if number not in trace.layer_numbers:
        numbers = ", ".join(map(str, trace.layer_numbers))
        raise trace.error(f"there is no MoE layer {number}; its layers are {numbers}")
    index = trace.layer_numbers.index(number)
    decisions: Decisions = trace.decisions(index)
    model = trace.model
    sizes = None if model.expert_bytes is None else (model.expert_bytes[index],)
    return replace(
        trace,
        layer_numbers=(number,),
        model=replace(model, experts=(model.experts[index],), top_k=(model.top_k[index],), expert_bytes=sizes),
        source=InMemory([decisions], [trace.source.weights(index)]),
    )
