"""What the footer of a Parquet file says, read without pyarrow, which ends the process over some damaged ones when its
columns are asked for. Footers and page headers are in Thrift's compact protocol."""

from __future__ import annotations

from typing import BinaryIO

Path = tuple[int, ...]
Field = tuple[Path, int, int]  # numbers of fields and elements from the outermost in; first byte and end
_STRUCT, _LISTS, _BINARY, _BOOLS, _BYTE, _DOUBLE = 12, (9, 10), 8, (1, 2), 3, 7
_GROUPS, _COLUMNS, _META, _TYPE, _NAME, _STATISTICS, _MAX = 4, 1, 3, 1, 3, 12, 5
_INT32 = 1
_ELEMENT_OF_BOOLS = -1


def largest_of(file: BinaryIO, column: str) -> int | None:
    """The largest number of a column of int32, or of lists of them, by the statistics; None where they do not say.

    Raises ValueError for a footer that is damaged.
    """
    footer = _footer(file)
    try:
        found = {path: footer[first:end] for path, first, end in fields(footer, 0)}
    except (IndexError, RecursionError):
        raise ValueError("its footer is damaged") from None
    largest: list[int] = []
    for path in found:
        if len(path) == 4 and path[0] == _GROUPS and path[2] == _COLUMNS:
            name, most = found.get((*path, _META, _NAME, 0), b""), found.get((*path, _META, _STATISTICS, _MAX), b"")
            if _text(name) == column.encode():
                if number(found.get((*path, _META, _TYPE), b"")) != _INT32 or len(_text(most)) != 4:
                    return None
                largest.append(int.from_bytes(_text(most), "little", signed=True))
    return max(largest, default=None)


def fields(data: bytes, at: int, path: Path = ()) -> list[Field]:
    """All fields of the structure at `at`, inner ones first, then that of the whole structure under `path`.

    Raises IndexError where it goes on beyond the data.
    """
    found, start, name = [], at, 0
    while data[at]:
        head = data[at]
        if head >> 4:
            name, at = name + (head >> 4), at + 1
        else:
            raw, at = _varint(data, at + 1)
            name = _signed(raw)
        inner, at = _value(data, at, head & 15, (*path, name))
        found += inner
    return [*found, (path, start, at + 1)]


def number(raw: bytes) -> int | None:
    """The whole number that the bytes of a field hold."""
    return _signed(_varint(raw, 0)[0]) if raw else None


def _text(raw: bytes) -> bytes:
    """The bytes of a field without their length."""
    return raw[_varint(raw, 0)[1] :] if raw else b""


def _footer(file: BinaryIO) -> bytes:
    size = file.seek(0, 2)
    file.seek(max(size - 8, 0))
    end = file.read(8)
    length = int.from_bytes(end[:4], "little")
    if len(end) < 8 or length > size - 8:
        raise ValueError("its footer is cut off")
    file.seek(size - 8 - length)
    return file.read(length)


def _value(data: bytes, at: int, kind: int, path: Path) -> tuple[list[Field], int]:
    start, inner = at, []
    if kind == _STRUCT:
        inner = fields(data, at, path)
        return inner, inner[-1][2]
    if kind in _LISTS:
        count, element, at = data[at] >> 4, data[at] & 15, at + 1
        if count == 15:
            count, at = _varint(data, at)
        for index in range(count):
            more, at = _value(data, at, _ELEMENT_OF_BOOLS if element in _BOOLS else element, (*path, index))
            inner += more
    elif kind == _BINARY:
        size, at = _varint(data, at)
        at += size
    elif kind in (_ELEMENT_OF_BOOLS, _BYTE):
        at += 1
    elif kind == _DOUBLE:
        at += 8
    elif kind not in _BOOLS:
        _, at = _varint(data, at)
    if at > len(data):
        raise IndexError("beyond the data")
    return [*inner, (path, start, at)], at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def _signed(value: int) -> int:
    return value >> 1 ^ -(value & 1)
