"""Traces to Parquet files: one row per token, one column per MoE layer; schema version 2 if there are look-ahead
choices, else 1.

Pages carry checksums, the metadata a checksum of its own and one content hash per column, so that a layer can be read
and verified alone.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from remoe_sim.trace.arrow import to_arrow
from remoe_sim.trace.schema import CHECK_KEY, KEY, ROWS, ArrayHash, DecisionsHash, checksum
from remoe_sim.trace.sources import block_rows, blocks_of
from remoe_sim.trace.trace import PHASES, SCHEMA_VERSION, Decisions, Trace
from remoe_sim.trace.views import foreseen
from remoe_sim.trace.weights import EXPECTED, wrong_weight
from remoe_sim.util.files import refuse_suffix_of_others, replacing
from remoe_sim.util.progress import RunningStage, stage

COUNTED = ("position", "step")  # mostly one more than the row before: kept as differences, which take little room


def write_trace(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write a trace file; it appears whole or not at all. Raises OSError if the place is not writable.

    The path may be the URL of an object (extra `remote`); ValueError where no object can be written whole,
    and for a suffix of another kind of file, such as `.csv`.

    Rows are written in blocks, so that a trace whose source reads blocks never has to fit in memory.
    """
    refuse_suffix_of_others(path, "a trace", ".parquet")
    with replacing(path) as beside, stage("writing", trace.tokens) as written:
        _Writer(trace, beside).run(written)


class _Writer:
    """Writes a trace block by block, and what it has hashed at the end."""

    def __init__(self, trace: Trace, path: Path) -> None:
        self.trace, self.path = trace, path
        self.hashes: dict[str, Any] = {}
        self.rows = 0

    def run(self, written: RunningStage) -> None:
        file = None
        try:
            for part in blocks_of(self.trace, block_rows(_row_bytes(self.trace))):
                table = self._table(part)
                if file is None:
                    file = pq.ParquetWriter(
                        self.path, table.schema, compression="zstd", write_page_checksum=True, store_schema=False,
                        use_dictionary=[_leaf(field) for field in table.schema if field.name not in COUNTED],
                        column_encoding=dict.fromkeys(COUNTED, "DELTA_BINARY_PACKED"),
                    )  # fmt: skip
                file.write_table(table, row_group_size=max(part.tokens, 1))
                self.rows += part.tokens
                written.advance(part.tokens)
            assert file is not None  # there is at least one block
            content = {name: hashed.digest() for name, hashed in self.hashes.items()}
            text = json.dumps(_metadata(self.trace, content), sort_keys=True)
            entries = {KEY.decode(): text, CHECK_KEY.decode(): checksum(text.encode()).decode()}
            # Arrow keeps its types and metadata in the schema, which is written first; the hashes are known last
            schema = table.schema.with_metadata(entries).serialize().to_pybytes()
            file.add_key_value_metadata(entries | {"ARROW:schema": base64.b64encode(schema).decode()})
        finally:
            if file is not None:
                file.close()

    def _table(self, part: Trace) -> pa.Table:
        columns = _token_columns(part)
        for name in columns:
            self._hashed(name, ArrayHash).update(getattr(part, name))
        for index in range(part.moe_layers):
            decisions = self._add_decisions(columns, part.column(index), part.source.decisions(index))
            for kind in ("weights", "probs"):
                values = getattr(part.source, kind)(index)
                if values is not None:
                    values = values if decisions.routed is None else np.where(decisions.routed[:, None], values, 0)
                    if kind == "weights":
                        values = self._checked_weights(part, index, decisions, values)
                    columns[part.column(index, kind)] = to_arrow(values, present=decisions.routed)
                    self._hashed(part.column(index, kind), ArrayHash).update(values)
            for distance in range(part.most_ahead + 1):
                named = part.ahead(index, distance)
                if named is not None:
                    self._add_decisions(columns, part.column(index, foreseen(distance)), named)
        return pa.table(columns)

    def _add_decisions(self, columns: dict[str, Any], name: str, decisions: Decisions) -> Decisions:
        clean = _clean(decisions)
        columns[name] = to_arrow(clean.experts, clean.valid, clean.routed)
        self._hashed(name, DecisionsHash).update(clean)
        return clean

    def _checked_weights(self, part: Trace, index: int, decisions: Decisions, values: npt.NDArray[Any]) -> Any:
        """The weights of a block, 0 at null slots that have what cannot be one; TraceError where a slot has that."""
        wrong = wrong_weight(values, decisions.valid, unknown=True)
        if wrong is not None:
            place = f"row {self.rows + wrong[0]}, column '{part.column(index, 'weights')}'"
            raise self.trace.error(f"{place}: {values[wrong]} cannot be a gate weight; {EXPECTED}, correct it")
        if decisions.valid is None:
            return values
        return np.where(decisions.valid | ~((values < 0) | np.isinf(values)), values, 0)

    def _hashed(self, name: str, kind: Any) -> Any:
        if name not in self.hashes:
            self.hashes[name] = kind()
        return self.hashes[name]


def _clean(decisions: Decisions) -> Decisions:
    """The same with 0 where there is no expert, as it is read again and hashed."""
    if decisions.valid is None and decisions.routed is None:
        return decisions
    there = np.ones(decisions.experts.shape, np.bool_) if decisions.valid is None else decisions.valid
    there = there if decisions.routed is None else there & decisions.routed[:, None]
    return Decisions(np.where(there, decisions.experts, 0), there, decisions.routed)


def _leaf(field: pa.Field) -> str:
    """What Parquet calls the numbers of a column."""
    return f"{field.name}.list.element" if pa.types.is_fixed_size_list(field.type) else str(field.name)


def _row_bytes(trace: Trace) -> int:
    """Bytes of a row with ids and weights of all layers, the most that is common."""
    return 16 + sum(6 * k for k in trace.model.top_k)


def _metadata(trace: Trace, content: dict[str, str]) -> dict[str, Any]:
    model = trace.model
    return {
        "schema_version": SCHEMA_VERSION if any(name.startswith(("ahead", "wanted")) for name in content) else 1,
        "model": {
            "name": model.name,
            "layers": model.layers,
            "moe_layers": trace.moe_layers,
            "experts": _one_or_list(model.experts),
            "top_k": _one_or_list(model.top_k),
            "expert_bytes": None if model.expert_bytes is None else list(model.expert_bytes),
            "dense_bytes": None if model.dense_bytes is None else list(model.dense_bytes),
            "quant": model.quant,
        },
        "source": trace.origin,
        "notes": trace.notes,
        "content": content,
    }


def _one_or_list(values: tuple[int, ...]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else list(values)


def _token_columns(trace: Trace) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {name: pa.array(getattr(trace, name), pa.int32()) for name in ROWS}
    columns["phase"] = pa.DictionaryArray.from_arrays(pa.array(trace.phase, pa.int8()), pa.array(PHASES))
    if trace.token_id is not None:
        columns["token_id"] = pa.array(trace.token_id, pa.int32())
    return columns
