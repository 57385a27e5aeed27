"""The schema of trace files: columns, metadata and checksums."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import xxhash

from remoe_sim.trace.holdings import of_decisions
from remoe_sim.trace.trace import SCHEMA_VERSION, Decisions, Model, Trace
from remoe_sim.util.threads import map_layers

if TYPE_CHECKING:
    from remoe_sim.util.errors import TraceError

KEY, CHECK_KEY = b"remoe_sim", b"remoe_sim_checksum"
ROWS = ("request", "position", "step")
LAYER = re.compile(r"experts_(\d{2,})")
OF_LAYER = re.compile(r"(experts|weights|probs|wanted|ahead[1-9]\d*)_\d{2,}")
AHEAD = re.compile(r"ahead([1-9]\d{0,5})_\d{2,}")


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

    Layers whose hash stands in a file are not read for it: whoever reads them finds out if they are others. A trace
    does not change, so it is hashed once.
    """
    if not trace._hashes:
        trace._hashes.append(_hash_of_all(trace))
    return trace._hashes[0]


def _hash_of_all(trace: Trace) -> str:
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


_DAMAGED = "the file is damaged, write it again"


class Metadata:
    """The metadata of a file with columns `names`, checked; `error` makes a TraceError that names the file.

    content: the hash of each column, all of them or none.
    """

    def __init__(self, stored: dict[bytes, bytes], names: Sequence[str], error: Callable[[str], TraceError]) -> None:
        self.error = error
        self._meta = self._parse(stored)
        self.content: dict[str, str] = self._of_type(self._meta.get("content") or {}, dict, "content")
        self.origin: dict[str, Any] = self._of_type(self._meta.get("source") or {}, dict, "source")
        self.notes = str(self._meta.get("notes") or "")
        if self.content:
            self._check_names(names, CHECK_KEY in stored)

    def _parse(self, stored: dict[bytes, bytes]) -> dict[str, Any]:
        text = stored.get(KEY)
        if text is None:
            raise self.error(
                "a Parquet file without the metadata key 'remoe_sim'; make a trace with 'remoe-sim import'"
            )
        try:
            meta = json.loads(text)
        except (ValueError, RecursionError):
            raise self.error(f"its metadata is not valid JSON; {_DAMAGED}") from None
        if not isinstance(meta, dict) or not isinstance(meta.get("model"), dict):
            raise self.error("its metadata has no 'model'; write the file again with 'remoe-sim import'")
        version = meta.get("schema_version")
        if version not in range(1, SCHEMA_VERSION + 1) or isinstance(version, bool):
            raise self.error(
                f"schema version {version!r} is unknown, this release reads versions 1 to {SCHEMA_VERSION}; "
                "update remoe-sim or import the trace again"
            )
        if CHECK_KEY in stored and stored[CHECK_KEY] != checksum(text):
            raise self.error(f"its metadata does not match its checksum; {_DAMAGED}")
        return meta

    def _check_names(self, names: Sequence[str], checked: bool) -> None:
        """TraceError unless just the columns are there that have a hash; a file that has hashes has a checksum too."""
        if not checked:
            raise self.error(f"its metadata has no checksum; {_DAMAGED}")
        there = {name for name in names if is_column(name)}
        for name in sorted(there ^ self.content.keys()):
            raise self.error(f"column '{name}' {'has no content hash' if name in there else 'is missing'}; {_DAMAGED}")

    def _of_type(self, value: Any, kind: type, what: str) -> Any:
        if not isinstance(value, kind):
            raise self.error(f"metadata '{what}' is {value!r}, expected {kind.__name__}; write the file again")
        return value

    def model(self, layers: int) -> Model:
        stored = self._meta["model"]

        def whole(value: Any, what: str) -> int:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
                raise self.error(f"metadata model.{what} is {value!r}, expected a whole number that is 0 or more")
            return value

        def per_layer(name: str, count: int | None = None) -> tuple[int, ...] | None:
            value = stored.get(name)
            if value is None:
                return None
            values = value if isinstance(value, list) else [value] * (count or 1)
            return tuple(whole(one, name) for one in values)

        experts, top_k = per_layer("experts", layers), per_layer("top_k", layers)
        if experts is None or top_k is None:
            raise self.error("metadata model.experts and model.top_k must be known; write the file again")
        return Model(
            experts=experts,
            top_k=top_k,
            name=None if stored.get("name") is None else str(stored["name"]),
            layers=None if stored.get("layers") is None else whole(stored["layers"], "layers"),
            expert_bytes=per_layer("expert_bytes", layers),
            dense_bytes=per_layer("dense_bytes"),
            quant=None if stored.get("quant") is None else str(stored["quant"]),
        )
