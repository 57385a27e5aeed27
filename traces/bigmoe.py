"""The routing trace of BigMoeOnEdge, `--route-trace`: CSV below a preamble of lines that begin with #.

    # route_trace v1
    # model=/path/Qwen3-30B-A3B-Q4_K_M.gguf arch=qwen3moe n_layer=48 n_expert=128 n_expert_used=6
    # layer=0 expert_bytes=3059712 dense_bytes=11953152          (one per layer)
    turn,phase,step,layer,slot,expert,weight,residency,expert_bytes[,dropped]
    0,0,0,0,0,49,0.221297,0,3059712

phase 0 is prefill, 1 decode; step is the position in the context; weight may be nan; dropped 1 marks an expert that the
engine left out of the computation. llama.cpp prunes the last layer in prefill to the last prompt token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from remoe_sim.formats.assemble import Records, Slots, assemble
from remoe_sim.formats.csv_files import WEIGHT_OR_NAN, WHOLE, CsvColumns, read_csv, read_header
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.source import Source
from remoe_sim.trace import DECODE, PREFILL, Trace
from remoe_sim.trace.trace import MOST_LAYERS

_COLUMNS = ("turn", "phase", "step", "layer", "slot", "expert")
_VERSION = re.compile(r"#\s*route_trace\s+(\S+)")
_MODEL = re.compile(r"#\s*model=(.*?)((?:\s+\w+=\S*)*)\s*")
_QUANT = re.compile(
    r"(?<![A-Za-z0-9])(?:I?Q\d_(?:K(?:_[SML])?|[01]|XXS|XS|NL|[SM])|MXFP4|NVFP4|BF16|F16|F32)(?![A-Za-z0-9])", re.I
)


class BigMoeOnEdge(TraceFormat):
    name = "bigmoe"
    summary = "BigMoeOnEdge --route-trace (CSV with a # preamble): sizes, phases, turns as requests, dropped experts"
    layout = __doc__ or ""
    shape = "text"
    words = ("route_trace", *_COLUMNS, "residency")
    writer = "BigMoeOnEdge `--route-trace`"
    kept = "phases, turns, sizes per layer, gate weights, dropped slots"
    lost = "the engine's own hits and reads"
    sure = "files of it"

    def recognises(self, source: Source) -> bool:
        lines = source.head_text.splitlines()
        return bool(lines) and (bool(_VERSION.match(lines[0])) or lines[0].startswith(",".join(_COLUMNS)))

    def read(self, source: Source) -> Trace:
        preamble = _preamble(source)
        names = read_header(source, preamble.header_line, _COLUMNS, "record it with --route-trace of BigMoeOnEdge")
        optional = {name: kind for name, kind in (("weight", WEIGHT_OR_NAN), ("dropped", WHOLE)) if name in names}
        csv = read_csv(source, names, preamble.header_line, dict.fromkeys(_COLUMNS, WHOLE) | optional)
        experts = source.experts(0, preamble.experts)
        expert = _computed(source, csv, experts)
        values = csv.values
        phase = np.where(values["phase"] == 1, DECODE, PREFILL)
        called = {"request": "turn", "position": "step"}
        records = Records(values["turn"], values["step"], phase, values["layer"], csv.line, called=called)
        slots = Slots(np.arange(csv.rows), expert, values["slot"], values.get("weight"))
        trace = assemble(source, records, slots, experts=experts, top_k=preamble.top_k, padded=False)
        source.note("the prompt of each turn is one prefill step, each generated token a decode step of its own")
        _note_cut(source, trace)
        return replace(trace, model=replace(trace.model, **preamble.facts(source, trace)))


@dataclass
class _Preamble:
    """The # lines. sizes: per layer number, expert and dense bytes; header_line: the line of the column names."""

    model: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    header_line: int = 0

    @property
    def experts(self) -> int:
        return self.counts["n_expert"]

    @property
    def top_k(self) -> int:
        return self.counts["n_expert_used"]

    def facts(self, source: Source, trace: Trace) -> dict[str, Any]:
        """The fields of Model that the preamble tells; sizes only where all of them are there."""
        expert_bytes = tuple(self.sizes.get(number, (0, 0))[0] for number in trace.layer_numbers)
        dense_bytes = tuple(self.sizes.get(number, (0, 0))[1] for number in range(self.counts["n_layer"]))
        if not all(expert_bytes):
            lacking = [str(n) for n, size in zip(trace.layer_numbers, expert_bytes, strict=True) if not size]
            source.note(f"expert sizes unknown, because the file has none for layers {', '.join(lacking)}")
        name = re.split(r"[/\\]", self.model)[-1]
        quants = {match.upper() for match in _QUANT.findall(name)}
        return {
            "name": name or None,
            "layers": self.counts["n_layer"],
            "expert_bytes": expert_bytes if all(expert_bytes) else None,
            "dense_bytes": dense_bytes if all(dense_bytes) else None,
            "quant": quants.pop() if len(quants) == 1 else None,
        }


def _preamble(source: Source) -> _Preamble:
    found = _Preamble()
    lines = source.head_text.splitlines()
    version = _VERSION.match(lines[0])
    if version is None:
        raise source.error(
            "the preamble ('# route_trace v1' and the lines after it) is missing; keep the lines with #", 1
        )
    if version[1] != "v1":
        raise source.error(
            f"version '{version[1]}' of route_trace is unknown, this release reads v1; update remoe-sim", 1
        )
    for number, line in enumerate(lines, 1):
        if not line.startswith("#"):
            found.header_line = number
            break
        fields = dict(part.split("=", 1) for part in line[1:].split() if "=" in part)
        try:
            if line[1:].lstrip().startswith("model="):
                match = _MODEL.fullmatch(line)
                found.model = match[1].strip() if match else ""
                found.counts = {name: int(fields[name]) for name in ("n_layer", "n_expert", "n_expert_used")}
            elif "layer" in fields:
                found.sizes[int(fields["layer"])] = int(fields["expert_bytes"]), int(fields.get("dense_bytes", 0))
        except (KeyError, ValueError) as error:
            raise source.error(
                f"this line of the preamble cannot be understood ({error}); correct it", number
            ) from None
    if not found.counts:
        raise source.error("the preamble has no line '# model=… n_layer=… n_expert=… n_expert_used=…'; add it")
    if min(found.counts.values()) < 1:
        raise source.error("n_layer, n_expert and n_expert_used must all be 1 or more; correct the preamble", 2)
    if found.counts["n_layer"] > MOST_LAYERS:
        raise source.error(f"n_layer is {found.counts['n_layer']}, at most {MOST_LAYERS} are possible; correct it", 2)
    if found.top_k > found.experts:
        raise source.error(
            f"n_expert_used is {found.top_k}, but there are {found.experts} experts; correct the preamble", 2
        )
    if not found.header_line:
        raise source.error(
            f"there is nothing below the preamble; expected column names ({','.join(_COLUMNS)},…) and rows"
        )
    return found


def _computed(source: Source, csv: CsvColumns, experts: int) -> Any:
    """The expert of every row, -1 where it was dropped; TraceError for values that the format does not have."""
    values = csv.values
    for name, least, most in (("phase", 0, 1), ("dropped", 0, 1), ("expert", 0, experts - 1)):
        if name in values:
            wrong = np.flatnonzero((values[name] < least) | (values[name] > most))
            if wrong.size:
                given = values[name][wrong[0]]
                raise csv.error(int(wrong[0]), name, f"{given} is not possible, expected {least} to {most}; correct it")
    dropped = values.get("dropped")
    if dropped is None or not dropped.any():
        return values["expert"]
    source.note(f"{int(dropped.sum())} slots were dropped by the engine (not computed) and are null")
    return np.where(dropped == 1, -1, values["expert"])


def _note_cut(source: Source, trace: Trace) -> None:
    """Notes that the last generated token is not there at layers where others are: the capture ended within it."""
    decode = trace.phase == DECODE
    routed = {number: trace.source.decisions(index).routed for index, number in enumerate(trace.layer_numbers)}
    partly = {number: there for number, there in routed.items() if there is not None and there[decode].any()}
    lacking = [number for number, there in partly.items() if not there[-1]]
    if decode[-1] and lacking:
        where = f"{len(lacking)} layers from {lacking[0]} on"
        source.note(f"the last token has no experts at {where}; the capture ends within it")
