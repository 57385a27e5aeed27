"""Cards to TOML files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from decimal import Decimal
from typing import Any


def card_text(content: Mapping[str, Any]) -> str:
    """TOML of texts, numbers, facts (as dictionaries, one line each) and tables of facts, in that order."""
    tables = {name: value for name, value in content.items() if _is_table(value)}
    lines = [f"{name} = {_value(value)}" for name, value in content.items() if name not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write a file that appears whole or not at all. Raises OSError if the place is not writable."""
    from remoe_sim.file_writing import replacing

    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" not in value


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, int):
        return str(int(value))
    number = repr(float(value))
    return f"{Decimal(number).normalize():e}" if abs(value) >= 1e6 else number
