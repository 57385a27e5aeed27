"""The route trace of qwen4-thor, `Q4TRTE01`: frames with a checksum each.

Little-endian. The magic, then frames of u32 length, u32 CRC-32 and that many bytes. The first: u32 version, layers,
experts, top-k and most rows, and 96 bytes of digests. The others begin with u32 kind and u64 sequence: 1 a request (u64
id, u64 rows of the prompt, SHA-256), 2 a forward pass (u64 id, u32 stage, 1 prefill or 2 decode, u64 position, u32
rows), 3 a layer (u32 number, u16 ids [rows, k]), 5 the end (of a request or of the recording).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from remoe_sim.formats.assemble import Records, Slots, assemble
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.source import Source
from remoe_sim.trace import DECODE, PREFILL, Trace
from remoe_sim.trace.trace import MOST_EXPERTS, MOST_LAYERS
from remoe_sim.util.arrays import Longs

_MAGIC = b"Q4TRTE01"
_REQUEST, _FORWARD, _LAYER, _END = 1, 2, 3, 5


class Q4Trte(TraceFormat):
    name = "q4trte"
    summary = "qwen4-thor Q4TRTE01 (binary frames with checksums): requests, forward passes, ranks"
    layout = __doc__ or ""
    shape = "binary"
    words = ("Q4TRTE01",)
    writer = "qwen4-thor, Q4TRTE01"
    kept = "requests, forward passes, phases, positions, ranks"
    lost = "weights, digests"
    sure = "code that writes it"

    def recognises(self, source: Source) -> bool:
        return source.head.startswith(_MAGIC)

    def read(self, source: Source) -> Trace:
        with source.open() as stream:
            raw = stream.read()
        frames = _frames(source, raw)
        head = _head(source, next(frames, b""))
        parts, passes, ended = _passes(source, frames, head)
        if not ended:
            source.note("the recording does not say that it ended; its last pass may be missing")
        if not parts:
            raise source.error("there is no layer of a forward pass in it; record it again")
        column = {
            name: np.concatenate([getattr(one, name) for one in parts])
            for name in ("request", "position", "phase", "layer", "step", "ids")
        }
        ids = column["ids"]
        records = Records(column["request"], column["position"], column["phase"], column["layer"], int, column["step"])
        source.unit = "decision"
        source.note(f"{passes} forward passes as the file gives them")
        slots = Slots(np.repeat(np.arange(len(ids)), head.top_k), ids.reshape(-1))
        experts = source.experts(int(ids.max()), head.experts)
        trace = assemble(source, records, slots, experts=experts, top_k=head.top_k)
        if trace.moe_layers > head.layers:
            raise source.error(f"{trace.moe_layers} layers, but its header says {head.layers}; record it again")
        return trace


@dataclass(frozen=True)
class _Head:
    layers: int
    experts: int
    top_k: int


@dataclass(frozen=True)
class _Batch:
    """The rows of a forward pass at one layer."""

    request: Longs
    position: Longs
    phase: Longs
    layer: Longs
    step: Longs
    ids: Longs


def _frames(source: Source, raw: bytes) -> Iterator[bytes]:
    """The contents of the frames, checked."""
    at, number = len(_MAGIC), 0
    while at < len(raw):
        length, checksum = struct.unpack_from("<II", raw, at) if at + 8 <= len(raw) else (0, -1)
        content = raw[at + 8 : at + 8 + length]
        if checksum < 0 or len(content) < length:
            raise source.error(f"frame {number} ends beyond the file, which is cut off; record it again")
        if zlib.crc32(content) != checksum:
            raise source.error(f"frame {number} does not match its checksum; copy or record it again")
        yield content
        at, number = at + 8 + length, number + 1


def _head(source: Source, content: bytes) -> _Head:
    if len(content) < 20:
        raise source.error("there is no header in it; record it again")
    version, layers, experts, top_k, _ = struct.unpack_from("<5I", content)
    if version != 1:
        raise source.error(f"version {version} is unknown, this release reads 1; update remoe-sim")
    if not (0 < top_k <= experts <= MOST_EXPERTS and 0 < layers <= MOST_LAYERS):
        text = f"its header says {layers} layers and top-{top_k} of {experts} experts"
        raise source.error(f"{text}, which is not possible; record it again")
    return _Head(layers, experts, top_k)


def _passes(source: Source, frames: Iterator[bytes], head: _Head) -> tuple[list[_Batch], int, bool]:
    """The decisions of all layers, how many forward passes there are, and whether the file says that it ends."""
    parts: list[_Batch] = []
    request, step, ended = -1, -1, False
    now: tuple[int, int, int] | None = None  # stage, position and rows of the pass
    for number, content in enumerate(frames, 1):
        try:
            kind, _ = struct.unpack_from("<IQ", content)
            if kind == _REQUEST:
                request, now = request + 1, None
            elif kind == _FORWARD:
                _, stage, position, rows = struct.unpack_from("<QIQI", content, 12)
                if stage not in (1, 2) or not 0 < rows < 2**24 or position >= 2**31 - rows:
                    raise ValueError("a forward pass that is not possible")
                step, now, request = step + 1, (stage, position, rows), max(request, 0)
            elif kind == _LAYER:
                if now is None:
                    raise ValueError("a layer outside a forward pass")
                parts.append(_batch(content, head, request, step, now))
            elif kind == _END:
                ended = True
            else:
                raise ValueError(f"kind {kind} is unknown")
        except (struct.error, ValueError) as error:
            raise source.error(f"frame {number}: {error}; record it again") from None
    return parts, step + 1, ended


def _batch(content: bytes, head: _Head, request: int, step: int, now: tuple[int, int, int]) -> _Batch:
    stage, position, rows = now
    (layer,) = struct.unpack_from("<I", content, 12)
    ids = np.frombuffer(content[16:], "<u2").astype(np.int64)
    if layer >= MOST_LAYERS or ids.size != rows * head.top_k:
        raise ValueError(f"{ids.size} ids of layer {layer}, expected {rows} rows of {head.top_k}")

    def all_rows(value: int) -> Longs:
        return np.full(rows, value, np.int64)

    phase = PREFILL if stage == 1 else DECODE
    places = position + np.arange(rows)
    return _Batch(
        all_rows(request), places, all_rows(phase), all_rows(layer), all_rows(step), ids.reshape(rows, head.top_k)
    )
