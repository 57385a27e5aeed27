"""Plain CSV, as the importer of that name reads it: one row per token and layer, a column for each slot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.blocks import block_rows, blocks_of
from remoe_sim.exporting import ExportFormat, has_weights, slots_there
from remoe_sim.trace import PHASES, Trace

if TYPE_CHECKING:
    import pyarrow as pa


class PlainCsv(ExportFormat):
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
