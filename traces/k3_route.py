"""The route trace of k3-out-of-core, version 1: a header, records with all that a decision is, and a checksum.

Little-endian. Header: `K3ROUTE` and a zero byte, u32 version, u32 length, then the model's name and revisions as texts
(u32 length and UTF-8), the bytes of the GGUF, the run, and u32 experts, top-k and routed layers. A record: u32
0x44434552, u32 length, u64 ordinal, request and ubatch, u32 phase (1 prefill, 2 decode), i32 layer, u32 row of the
batch, i32 position, u32 count and i32 sequence ids, u32 k, i32 ids in rank order, f32 weights. At the end `K3DONE`, two
zero bytes, u64 count of records, u32 CRC-32 of all before, u32 0; without that the file is not complete.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from remoe_sim.formats.assemble import Records, assemble
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.records import DecisionRows
from remoe_sim.formats.source import Source
from remoe_sim.trace import DECODE, PREFILL, Trace
from remoe_sim.trace.trace import MOST_EXPERTS

_MAGIC, _DONE, _RECORD = b"K3ROUTE\0", b"K3DONE\0\0", 0x44434552
_TRAILER = struct.Struct("<8sQII")


class K3Route(TraceFormat):
    name = "k3-route"
    summary = "k3-out-of-core route trace version 1 (binary, with a checksum): requests, ubatches, ranks, weights"
    layout = __doc__ or ""
    shape = "binary"
    words = ("K3ROUTE",)
    writer = "k3-out-of-core, route trace version 1"
    kept = "requests, forward passes, phases, positions, ranks, gate weights, the model's name"
    lost = "sequence ids, revisions"
    sure = "its document and a file"

    def recognises(self, source: Source) -> bool:
        return source.head.startswith(_MAGIC)

    def read(self, source: Source) -> Trace:
        with source.open() as stream:
            raw = stream.read()
        if len(raw) < 16 + _TRAILER.size or raw[-_TRAILER.size :][:8] != _DONE:
            raise source.error("the trailer K3DONE is missing, so the recording was not finished; record it again")
        _, count, checksum, _ = _TRAILER.unpack(raw[-_TRAILER.size :])
        body = raw[: -_TRAILER.size]
        if zlib.crc32(body) != checksum:
            raise source.error("its checksum is not that of its content; copy or record it again")
        head, at = _header(source, body)
        rows, columns = DecisionRows(), {name: array("q") for name in ("request", "step", "phase", "layer", "position")}
        for ordinal in range(count):
            at = _record(source, body, at, ordinal, head.top_k, rows, columns)
        if at != len(body):
            raise source.error(f"{len(body) - at} bytes follow its {count} records; record it again")
        if not len(rows):
            raise source.error("there is no record in it; record it again")
        found = {name: np.array(column, np.int64) for name, column in columns.items()}
        step = np.unique(found["request"] * (int(found["step"].max()) + 1) + found["step"], return_inverse=True)[1]
        records = Records(found["request"], found["position"], found["phase"], found["layer"], rows.line, step)
        source.unit = "record"
        source.note("each ubatch of a request is a forward pass")
        slots = rows.slots()
        trace = assemble(source, records, slots, experts=source.experts(int(slots.expert.max()), head.experts))
        if trace.moe_layers > head.layers:
            raise source.error(f"{trace.moe_layers} layers, but its header says {head.layers}; record it again")
        return replace(trace, model=replace(trace.model, name=head.name or None))


@dataclass(frozen=True)
class _Header:
    name: str
    experts: int
    top_k: int
    layers: int


def _header(source: Source, body: bytes) -> tuple[_Header, int]:
    """What the header says, and where the records begin."""
    version, length = struct.unpack_from("<II", body, 8)
    if version != 1:
        raise source.error(f"version {version} is unknown, this release reads 1; update remoe-sim")
    end = 16 + length
    try:
        name, at = _text(body, 16, end)
        at += 8
        for _ in range(5):
            _, at = _text(body, at, end)
        experts, top_k, layers = struct.unpack_from("<III", body, at)
        if at + 12 != end or end > len(body):
            raise ValueError("its length")
    except (struct.error, ValueError) as error:
        raise source.error(f"its header cannot be understood ({error}); record it again") from None
    if not 0 < top_k <= experts <= MOST_EXPERTS:
        raise source.error(f"its header says top-{top_k} of {experts} experts, which is not possible; record it again")
    return _Header(name, experts, top_k, layers), end


def _text(body: bytes, at: int, end: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", body, at)
    if at + 4 + length > end:
        raise ValueError("a text beyond its end")
    return body[at + 4 : at + 4 + length].decode("utf-8", "replace"), at + 4 + length


def _record(
    source: Source, body: bytes, at: int, ordinal: int, top_k: int, rows: DecisionRows, columns: dict[str, Any]
) -> int:
    """Append one record; where the next begins."""
    try:
        magic, length, number, request, ubatch, phase, layer, _, position, sequences = struct.unpack_from(
            "<IIQQQIiIiI", body, at
        )
        begin = at + struct.calcsize("<IIQQQIiIiI") + 4 * sequences
        (k,) = struct.unpack_from("<I", body, begin)
        if k != top_k:
            raise ValueError(f"{k} experts, where its header says {top_k}")
        ids = struct.unpack_from(f"<{k}i", body, begin + 4)
        weights = struct.unpack_from(f"<{k}f", body, begin + 4 + 4 * k)
        end: int = begin + 4 + 8 * k
        if magic != _RECORD or number != ordinal or phase not in (1, 2) or end != at + 8 + length:
            raise ValueError("not a record in its place")
        if min(request, ubatch, layer, position, *ids) < 0 or max(request, ubatch) >= 2**31 or layer >= 2**16:
            raise ValueError("a number that is not possible")
    except (struct.error, ValueError) as error:
        raise source.error(f"record {ordinal}: {error}; record it again") from None
    rows.add(ordinal, ids, weights)
    values = (request, ubatch, PREFILL if phase == 1 else DECODE, layer, position)
    for name, value in zip(("request", "step", "phase", "layer", "position"), values, strict=True):
        columns[name].append(value)
    return end
