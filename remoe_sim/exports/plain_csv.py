"""Plain CSV, as the importer of that name reads it: one row per token and layer, a column for each slot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.blocks import block_rows, blocks_of
from remoe_sim.exporting import ExportFormat
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

        rows = block_rows(trace.moe_layers * (30 + 20 * max(trace.model.top_k)))
        writer = None
        try:
            for part in blocks_of(trace, rows):
                table = _table(part)
                writer = writer or CSVWriter(path, table.schema, write_options=WriteOptions(quoting_style="none"))
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()


def _table(part: Trace) -> pa.Table:
    """The rows of a block, token by token, and of a token layer by layer."""
    import pyarrow as pa

    layers, tokens, most = part.moe_layers, part.tokens, max(part.model.top_k)
    weighted = part.source.weights(0) is not None
    experts = np.zeros((tokens, layers, most), np.uint16)
    valid = np.zeros(experts.shape, np.bool_)
    weights = np.zeros(experts.shape if weighted else 0, np.float32)
    for index in range(layers):
        decisions, k = part.source.decisions(index), part.model.top_k[index]
        experts[:, index, :k] = decisions.experts
        valid[:, index, :k] = True if decisions.valid is None else decisions.valid
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
        columns[f"w{slot}"] = pa.array(values, mask=~there[:, slot] | np.isnan(values))
    return pa.table(columns)
