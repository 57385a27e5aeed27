"""Traces to Parquet files, schema version 1: one row per token, one column per MoE layer.

Pages carry checksums, the metadata a checksum of its own and one content hash per column, so that a layer can be read
and verified alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from remoe_sim.arrow_lists import to_arrow
from remoe_sim.trace import PHASES, SCHEMA_VERSION, Trace
from remoe_sim.trace_format import CHECK_KEY, KEY, ROWS, array_hash, checksum, decisions_hash, row_hash


def write_trace(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write a trace file; it appears whole or not at all. Raises OSError if the place is not writable."""
    target = Path(path)
    columns = _token_columns(trace)
    content = {name: row_hash(trace, name) for name in columns}
    for index in range(trace.moe_layers):
        decisions = trace.decisions(index)
        name = trace.column(index)
        columns[name] = to_arrow(decisions.experts, decisions.valid, decisions.routed)
        content[name] = decisions_hash(decisions)
        for kind in ("weights", "probs"):
            values = getattr(trace.source, kind)(index)
            if values is not None:
                columns[trace.column(index, kind)] = to_arrow(values, present=decisions.routed)
                content[trace.column(index, kind)] = array_hash(values)
    text = json.dumps(_metadata(trace, content), sort_keys=True).encode()
    whole = pa.table(columns).replace_schema_metadata({KEY: text, CHECK_KEY: checksum(text)})
    with replacing(target) as beside:
        pq.write_table(
            whole, beside, compression="zstd", use_dictionary=True, write_page_checksum=True, row_group_size=2**20
        )


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to; it takes target's place when all went well and is removed otherwise."""
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield beside
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def _metadata(trace: Trace, content: dict[str, str]) -> dict[str, Any]:
    model = trace.model
    return {
        "schema_version": SCHEMA_VERSION,
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
