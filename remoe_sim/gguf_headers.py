"""What precedes the weights in a GGUF file: values by name, and the table of tensors; every length is held to the file.

The package's own reader goes on beyond the end of a file, as long as the header says so.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoe_sim.input_files import check_regular

NEEDED = "package 'gguf', which reads GGUF files, is not installed; install it with: pip install 'remoe-sim[gguf]'"
_FORMS = "BbHhIif?__Qqd"  # of the numbers, by the code of their type; _ for text and list
_TEXT, _LIST = 8, 9
_MOST_DIMENSIONS = 8
_MOST_KEPT = 100_000  # elements of a list; longer ones are of the tokenizer


@dataclass(frozen=True)
class Entry:
    """A tensor as the table lists it: shape[0] are the columns."""

    name: str
    shape: tuple[int, ...]
    nbytes: int
    kind: str


@dataclass(frozen=True)
class Header:
    """Everything that precedes the weights: values of the metadata by name, and the table of tensors."""

    values: dict[str, Any]
    entries: list[Entry]


def read_header(path: Path) -> Header:
    """The header of a file, without what is of the tokenizer; ValueError, a clause, for what is no whole GGUF file."""
    check_regular(path, "GGUF file")
    with path.open("rb") as file:
        if path.stat().st_size < 24:
            raise ValueError("too short")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(data).header()
            except struct.error:
                raise ValueError("cut off") from None


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at, self._order = data, 4, "<"

    def header(self) -> Header:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        if self._data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self._number("I")
        if not version & 0xFFFF:
            self._order, version = ">", version >> 24
        if version not in (2, 3):
            raise ValueError(f"version {version} is not known, only 2 and 3")
        tensors, count = self._number("Q"), self._number("Q")
        values: dict[str, Any] = {}
        for _ in range(count):
            name, kind = self._text(), self._number("I")
            value = self._value(kind)
            if not name.startswith("tokenizer."):
                values[name] = value
        entries = []
        for _ in range(tensors):
            name, dimensions = self._text(), self._number("I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            shape = tuple(self._number("Q") for _ in range(dimensions))
            type_ = GGMLQuantizationType(self._number("I"))
            self._number("Q")  # where it lies
            block, size = GGML_QUANT_SIZES[type_]
            entries.append(Entry(name, shape, math.prod(shape) * size // block, type_.name.lower()))
        return Header(values, entries)

    def _number(self, form: str) -> Any:
        (value,) = struct.unpack_from(self._order + form, self._data, self._at)
        self._at += struct.calcsize(self._order + form)
        return value

    def _text(self) -> str:
        length = self._number("Q")
        self._check(length)
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8", "replace")

    def _check(self, size: int) -> None:
        if size > len(self._data) - self._at:
            raise ValueError(f"{size} bytes are said to be where {len(self._data) - self._at} are left")

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _LIST:
            return self._list()
        if kind >= len(_FORMS):
            raise ValueError(f"a value of type {kind}")
        return self._number(_FORMS[kind])

    def _list(self) -> list[Any] | None:
        """The elements; None where there are so many that they are the tokenizer's."""
        kind, count = self._number("I"), self._number("Q")
        if kind == _LIST or kind >= len(_FORMS):
            raise ValueError(f"a list of type {kind}")
        size = 8 if kind == _TEXT else struct.calcsize(self._order + _FORMS[kind])
        self._check(count * size)
        if count <= _MOST_KEPT:
            return [self._value(kind) for _ in range(count)]
        if kind == _TEXT:
            for _ in range(count):
                length = self._number("Q")
                self._check(length)
                self._at += length
        else:
            self._at += count * size
        return None
