"""Plain CSV: one row per chosen expert, or one row per token and layer with a column for each slot.

    request,position,phase,layer,expert            request,position,phase,layer,e0,e1
    0,0,prefill,0,17                               0,0,prefill,0,17,3
    0,0,prefill,0,3                                0,1,decode,0,17,

The columns may stand in any order; e0, e1, ... may also be called expert_0, expert_1, ... A request is a number or any
text; position counts from 0; phase is prefill or decode; layer is the model's own number. Slots are in the order of the
rows, largest gate weight first, unless there is a column slot. An empty expert (or a negative one) is a slot that was
not computed; a token without any expert at a layer was not routed there. Optional: weight (w0, w1, ... or weight_0,
weight_1, ...), token_id, and step, the forward pass; without step each decode token is a pass of its own and the prompt
of a request is one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.assemble import Records, Slots, assemble
from remoe_sim.formats.csv_files import TEXT, WEIGHT, WHOLE, CsvColumns, header_names, read_csv, read_header
from remoe_sim.formats.format import ExportFormat, TraceFormat, has_weights, slots_there
from remoe_sim.formats.records import assume_steps, phase_codes, request_ids
from remoe_sim.formats.source import Source
from remoe_sim.trace import PHASES, Trace
from remoe_sim.trace.sources import block_rows, blocks_of

if TYPE_CHECKING:
    import pyarrow as pa

_TOKEN = ("request", "position", "phase", "layer")
_OPTIONAL = ("step", "token_id")
_EXPERT, _WEIGHT = re.compile(r"(?:e|expert_)(\d+)"), re.compile(r"(?:w|weight_)(\d+)")


class PlainCsv(TraceFormat):
    name = "csv"
    summary = "plain CSV: request, position, phase, layer and one expert per row, or a column for each slot"
    layout = __doc__ or ""
    shape = "text"
    words = (*_TOKEN, "expert")

    def recognises(self, source: Source) -> bool:
        names = header_names(source)
        experts = "expert" in names or any(map(_EXPERT.fullmatch, names))
        return "layer" in names and experts and ("request" in names or "position" in names)

    def read(self, source: Source) -> Trace:
        wide = _slots(source, _EXPERT, header_names(source))
        advice = f"a plain CSV has the columns {', '.join(_TOKEN)} and expert (or e0, e1, ...)"
        names = read_header(source, 1, _TOKEN if wide else (*_TOKEN, "expert"), advice)
        weights = _slots(source, _WEIGHT, names) if wide else [name for name in ("weight",) if name in names]
        if wide and "expert" in names:
            raise source.error(f"columns 'expert' and '{wide[0]}' are both there; keep one of the two layouts", 1)
        if wide and weights and len(weights) != len(wide):
            raise source.error(f"{len(weights)} columns of weights for {len(wide)} of experts; give one for each", 1)
        experts = wide or ["expert"]
        whole = [
            "position",
            "layer",
            *experts,
            *(name for name in (*_OPTIONAL, *(() if wide else ("slot",))) if name in names),
        ]
        kinds = dict.fromkeys(whole, WHOLE) | dict.fromkeys(("request", "phase"), TEXT) | dict.fromkeys(weights, WEIGHT)
        ignored = [name for name in names if name not in kinds]
        if ignored:
            source.note(f"columns not imported: {', '.join(ignored)}")
        table = read_csv(source, names, 1, kinds, may_be_empty=[*experts, *weights])
        return self._assemble(source, table, experts, weights)

    def _assemble(self, source: Source, table: CsvColumns, experts: list[str], weights: list[str]) -> Trace:
        values = table.values
        records = Records(
            request_ids(source, table.texts["request"])[values["request"]],
            values["position"],
            phase_codes(table.texts["phase"], values["phase"], lambda row, text: table.error(row, "phase", text)),
            values["layer"],
            table.line,
            values.get("step"),
            values.get("token_id"),
        )
        assume_steps(source, records)
        slots = Slots(
            np.repeat(np.arange(table.rows), len(experts)),
            _flat(values, experts),
            values.get("slot") if "expert" in values else np.tile(np.arange(len(experts)), table.rows),
            _flat(values, weights) if weights else None,
        )
        column = experts[0] if len(experts) == 1 else f"{experts[0]} to {experts[-1]}"
        return assemble(source, records, slots, experts=source.experts(int(slots.expert.max())), column=column)


def _slots(source: Source, pattern: re.Pattern[str], names: Sequence[str]) -> list[str]:
    """The columns of slots 0, 1, ... in that order; TraceError if one is left out."""
    found = {int(match[1]): match[0] for match in map(pattern.fullmatch, names) if match}
    missing = set(range(len(found))) - set(found)
    if missing:
        given = ", ".join(found.values())
        raise source.error(f"slot {min(missing)} has no column (there are {given}); number them from 0 without gaps", 1)
    return [found[slot] for slot in range(len(found))]


def _flat(values: Any, names: list[str]) -> npt.NDArray[Any]:
    """Columns side by side, row by row."""
    return np.stack([values[name] for name in names], axis=1).reshape(-1)


class CsvWriter(ExportFormat):
    name = "csv"
    suffix = ".csv"
    summary = "plain CSV, one row per token and layer; 'import' reads it"
    lost = "experts per layer, sizes and the model's name (options of 'import' give them), router probabilities"

    def write(self, trace: Trace, path: Path) -> None:
        from pyarrow.csv import CSVWriter, WriteOptions

        _check_tokens(trace)
        rows = block_rows(trace.moe_layers * (30 + 20 * max(trace.model.top_k)))
        writer, first, used = None, 0, np.zeros(trace.moe_layers, np.int64)
        try:
            for part in blocks_of(trace, rows):
                table = _table(part, first, used)
                first += part.tokens
                writer = writer or CSVWriter(path, table.schema, write_options=WriteOptions(quoting_style="none"))
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
        _check_layers(trace, used)


def _check_tokens(trace: Trace) -> None:
    """Refuse two tokens of one request at one position, which the columns do not tell apart."""
    places = trace.request.astype(np.int64) * 2**32 + trace.position
    first = np.unique(places, return_index=True)[1]
    again = np.setdiff1d(np.arange(trace.tokens), first)
    if again.size:
        row = int(again[0])
        text = f"position {trace.position[row]} of request {trace.request[row]} is there twice"
        raise trace.error(f"row {row}: {text}, and a CSV tells tokens apart by both; export it as npz")


def _check_layers(trace: Trace, used: npt.NDArray[np.int64]) -> None:
    """Refuse layers that would have fewer slots when they are read again; used: the slots that have an expert."""
    for number, k, there in zip(trace.layer_numbers, trace.model.top_k, used.tolist(), strict=True):
        if there < k and trace.tokens:
            slots = f"{k} slots, but only the first {there} ever hold an expert"
            what = "no expert at any token" if not there else slots
            raise trace.error(f"layer {number} has {what}, and a CSV cannot say that there are more; export it as npz")


def _table(part: Trace, first: int, used: npt.NDArray[np.int64]) -> pa.Table:
    """The rows of a block, token by token, and of a token layer by layer.

    first: the row of the trace with which it begins; used: how many slots of each layer have an expert, updated.
    """
    import pyarrow as pa

    layers, tokens, most = part.moe_layers, part.tokens, max(part.model.top_k)
    weighted = has_weights(part)
    experts = np.zeros((tokens, layers, most), np.uint16)
    valid = np.zeros(experts.shape, np.bool_)
    weights = np.full(experts.shape if weighted else 0, np.nan, np.float32)
    for index in range(layers):
        decisions, k = part.source.decisions(index), part.model.top_k[index]
        experts[:, index, :k] = decisions.experts
        valid[:, index, :k] = slots_there(part, index, first, "a CSV")
        used[index] = max(used[index], np.flatnonzero(valid[:, index].any(axis=0)).max(initial=-1) + 1)
        if weighted:
            found = part.source.weights(index)
            weights[:, index, :k] = np.nan if found is None else found
    kept: npt.NDArray[Any] = np.asarray(valid.any(axis=2))
    kept[:, 0] |= ~kept.any(axis=1)  # a token without any decision still has a row
    columns: dict[str, Any] = {
        name: pa.array(np.broadcast_to(getattr(part, name)[:, None], kept.shape)[kept])
        for name in ("request", "position", "step")
    }
    codes = np.broadcast_to(part.phase[:, None], kept.shape)[kept].astype(np.int8)
    columns["phase"] = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(PHASES)).cast(pa.string())
    if part.token_id is not None:
        columns["token_id"] = pa.array(np.broadcast_to(part.token_id[:, None], kept.shape)[kept])
    columns["layer"] = pa.array(np.broadcast_to(np.array(part.layer_numbers)[None], kept.shape)[kept])
    there = valid[kept]
    for slot in range(most):
        columns[f"e{slot}"] = pa.array(experts[kept][:, slot], mask=~there[:, slot])
    for slot in range(most if weighted else 0):
        values = weights[kept][:, slot]
        never = ~there[:, slot] & ((values < 0) | np.isinf(values))
        columns[f"w{slot}"] = pa.array(values, mask=np.isnan(values) | never)
    return pa.table(columns)
