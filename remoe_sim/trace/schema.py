"""What a trace file says of itself beside its columns: one JSON object, held to its checksum before it is believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from remoe_sim.errors import TraceError
from remoe_sim.trace import SCHEMA_VERSION, Model
from remoe_sim.trace_format import CHECK_KEY, KEY, checksum, is_column

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
        if version != SCHEMA_VERSION:
            raise self.error(
                f"schema version {version!r} is unknown, this release reads version {SCHEMA_VERSION}; "
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
