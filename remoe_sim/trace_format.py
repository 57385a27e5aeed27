"""What the reader and the writer of trace files share: metadata keys, column names, content hashes."""

from __future__ import annotations

import json
import re
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import xxhash

from remoe_sim.holdings import of_decisions
from remoe_sim.threads import map_layers
from remoe_sim.trace import Decisions, Trace

KEY, CHECK_KEY = b"remoe_sim", b"remoe_sim_checksum"
ROWS = ("request", "position", "step")
LAYER = re.compile(r"experts_(\d{2,})")
OF_LAYER = re.compile(r"(experts|weights|probs)_\d{2,}")


def is_column(name: str) -> bool:
    """Whether a column of that name belongs to a trace."""
    return name in (*ROWS, "phase", "token_id") or bool(OF_LAYER.fullmatch(name))


def array_hash(values: npt.NDArray[Any]) -> str:
    """Hash of an array's bytes in C order."""
    return "xxh3:" + xxhash.xxh3_128_hexdigest(np.ascontiguousarray(values).data)


class ArrayHash:
    """`array_hash` of an array that comes in parts."""

    def __init__(self) -> None:
        self._state = xxhash.xxh3_128()

    def update(self, values: npt.NDArray[Any]) -> None:
        self._state.update(np.ascontiguousarray(values).data)

    def digest(self) -> str:
        return "xxh3:" + self._state.hexdigest()


class DecisionsHash:
    """`decisions_hash` of decisions that come in parts, each but the last of a multiple of eight rows."""

    def __init__(self) -> None:
        self._experts, self._rows = ArrayHash(), 0
        self._masks: dict[str, Any] = {}

    def update(self, decisions: Decisions) -> None:
        self._experts.update(decisions.experts)
        rows, k = decisions.experts.shape
        for name, width in (("valid", k), ("routed", 1)):
            mask = getattr(decisions, name)
            if name not in self._masks and (mask is None or mask.all()):
                continue  # all there so far
            if name not in self._masks:
                self._masks[name] = xxhash.xxh3_64(b"\xff" * (self._rows * width // 8))
            self._masks[name].update(np.packbits(np.ones((rows, width), np.bool_) if mask is None else mask).data)
        self._rows += rows

    def digest(self) -> str:
        masks = [self._masks[name].hexdigest() for name in ("valid", "routed") if name in self._masks]
        return "-".join([self._experts.digest(), *masks])


def row_hash(trace: Trace, name: str) -> str:
    """Hash of a column that describes tokens."""
    return array_hash(getattr(trace, name))


def decisions_hash(decisions: Decisions) -> str:
    """Hash of the ids, and of where the nulls are if there are any."""
    hashed = DecisionsHash()
    hashed.update(decisions)
    return hashed.digest()


@runtime_checkable
class Hashed(Protocol):
    """A source of layers that knows the hash of each, to which it holds what it reads."""

    def digest(self, index: int) -> str | None: ...


def _layer_hash(trace: Trace, index: int) -> str:
    known = trace.source.digest(index) if isinstance(trace.source, Hashed) else None
    return known or decisions_hash(trace.decisions(index))


def content_hash(trace: Trace) -> str:
    """Hash of all that a replay looks at: tokens, decisions, sizes and shapes, wherever the trace is from.

    Layers whose hash stands in a file are not read for it: whoever reads them finds out if they are others.
    """
    model = trace.model
    parts: list[Any] = [trace.layer_numbers, model.experts, model.top_k, model.expert_bytes, model.dense_bytes]
    parts += [row_hash(trace, name) for name in (*ROWS, "phase")]
    parts += map_layers(lambda index: _layer_hash(trace, index), trace.moe_layers, of_decisions(trace))
    return "xxh3:" + xxhash.xxh3_128_hexdigest(json.dumps(parts).encode())


def known_hash(trace: Trace) -> str | None:
    """`content_hash`; None where a trace is larger than memory and would have to be read once more for it."""
    held = getattr(trace.source, "resident", True) or isinstance(trace.source, Hashed)
    return content_hash(trace) if held else None


def checksum(text: bytes) -> bytes:
    """Checksum of the metadata."""
    return xxhash.xxh3_128_hexdigest(text).encode()
