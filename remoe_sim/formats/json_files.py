"""Read JSON, and the arrays that it holds as text."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from remoe_sim.formats.source import Source
    from remoe_sim.util.errors import TraceError

LARGEST = 2**31 - 1
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class Entry:
    """One object of a file. line: where it is, in JSON Lines; place: which of several it is, in a list."""

    source: Source
    fields: dict[str, Any]
    line: int | None = None
    place: str = ""

    def error(self, text: str, field: str | None = None) -> TraceError:
        """A TraceError that names the file, the object and the field."""
        return self.source.error(self.place + text, self.line, field)

    def get(self, name: str) -> Any:
        """A field's value; TraceError if it is not there."""
        if name not in self.fields:
            given = ", ".join(self.fields) or "nothing"
            raise self.error(f"missing (there is {given[:200]}); record it again", name)
        return self.fields[name]

    def whole(self, name: str, least: int = 0, most: int = LARGEST) -> int:
        """A whole number from `least` to `most`."""
        value = self.get(name)
        if type(value) is not int or not least <= value <= most:
            raise self.error(f"{shown(value)} is not a whole number from {least} to {most}; correct it", name)
        return value

    def maybe_whole(self, name: str) -> int | None:
        """A whole number, or None if the field is null or not there."""
        return None if self.fields.get(name) is None else self.whole(name)

    def inside(self, name: str, value: Any = None) -> Entry:
        """The object in a field, or another value of it; faults in it name that field too."""
        value = self.get(name) if value is None else value
        if not isinstance(value, dict):
            raise self.error(f"{shown(value)} is not an object; record it again", name)
        return Entry(self.source, value, self.line, f"{self.place}in '{name}': ")

    def list_of(self, name: str, kind: type, what: str) -> list[Any]:
        """A field's list, of elements of one type only."""
        value = self.get(name)
        if not isinstance(value, list) or not all(type(one) is kind for one in value):
            raise self.error(f"{shown(value)} is not a list of {what}; record it again", name)
        return value

    def array(self, name: str, ndim: int, kinds: str = "iu") -> npt.NDArray[Any]:
        """Numbers in lists of lists, all of the same length: whole ones, or any with kinds "fiu"."""
        return as_array(self.get(name), ndim, kinds, lambda text: self.error(text, name))


def shown(value: Any) -> str:
    """A value as it stands in the file, cut if it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def as_array(value: Any, ndim: int, kinds: str, fault: Any) -> npt.NDArray[Any]:
    """Lists of numbers as an array int64 or float64; raises fault(text) for anything else."""
    what = f"{'whole ' if kinds == 'iu' else ''}numbers in {ndim} levels of lists of equal lengths"
    try:
        array = np.array(value)
        if _holds_truth(value):
            raise ValueError
    except (ValueError, OverflowError, RecursionError):
        raise fault(f"{shown(value)} is not {what}; record it again") from None
    if array.ndim != ndim or not array.size or array.dtype.kind not in kinds:
        raise fault(f"{shown(value)} is not {what}; record it again")
    if array.dtype.kind == "u":
        raise fault(f"{shown(value)} holds a number that is too large; record it again")
    return array


def _holds_truth(value: Any) -> bool:
    """Whether true or false is among the numbers, which NumPy would take for 1 and 0."""
    if not isinstance(value, list):
        return type(value) is bool
    kinds = set(map(type, value))
    return bool in kinds or (list in kinds and any(map(_holds_truth, value)))


def first_fields(source: Source) -> dict[str, Any]:
    """The fields of the first object of a file, as far as its head goes; None for a value that is cut off there."""
    text = source.head_text
    at = _skip(text, 0)
    if text[at : at + 1] == "[":
        at = _skip(text, at + 1)
    fields: dict[str, Any] = {}
    if text[at : at + 1] != "{":
        return fields
    at = _skip(text, at + 1)
    try:
        while text[at : at + 1] == '"':
            key, at = _DECODER.raw_decode(text, at)
            fields[key] = None
            at = _skip(text, at)
            if text[at : at + 1] != ":":
                break
            fields[key], at = _DECODER.raw_decode(text, _skip(text, at + 1))
            at = _skip(text, at)
            if text[at : at + 1] != ",":
                break
            at = _skip(text, at + 1)
    except (ValueError, RecursionError):
        pass
    return fields


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def read_json(source: Source) -> Any:
    """The one value that a file holds; TraceError with line and column where it is broken."""
    text = "\n".join(line for _, line in source.lines())
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) - 1
        why = "the file seems truncated, record it again" if cut else "correct it"
        raise source.error(f"not valid JSON ({error.msg} at character {error.colno}); {why}", error.lineno) from None
    except (ValueError, RecursionError) as error:
        raise source.error(f"not valid JSON ({error}); record it again") from None


def read_lines(source: Source) -> Iterator[tuple[int, Any]]:
    """Line numbers and values of JSON Lines; empty lines are skipped."""
    for number, text in source.lines():
        if text.strip():
            try:
                yield number, json.loads(text)
            except (ValueError, RecursionError) as error:
                why = f"not valid JSON ({error}); the line is truncated or broken, correct or remove it"
                raise source.error(why, number) from None


def read_objects(source: Source) -> Iterator[Entry]:
    """All objects of a file: JSON Lines (one line at a time), one object, or a list of objects."""
    if _one_per_line(source):
        for line, value in read_lines(source):
            for number, one in enumerate(value if isinstance(value, list) else [value]):
                yield _entry(source, one, line, f"entry {number}: " if isinstance(value, list) else "")
        return
    value = read_json(source)
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield _entry(source, one, None, f"entry {number}: ")
    else:
        yield _entry(source, value, None, "")


def _entry(source: Source, value: Any, line: int | None, place: str) -> Entry:
    if not isinstance(value, dict):
        raise source.error(f"{place}{shown(value)} is not an object; record it again", line)
    return Entry(source, value, line, place)


def _one_per_line(source: Source) -> bool:
    """Whether the first line that is not empty holds a whole value."""
    first = next((text for _, text in source.lines() if text.strip()), "")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        second = next((line for line in source.head_text.lstrip().splitlines()[1:] if line.strip()), "")
        return first.startswith('{"') and second.startswith('{"')
    return True


_NPY = b"\x93NUMPY"
_TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")


def decoded(entry: Entry, name: str) -> bytes:
    """The bytes of a field's base64 text."""
    text = entry.get(name)
    if not isinstance(text, str):
        raise entry.error(f"{shown(text)} is not base64 text; record it again", name)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise entry.error(f"not valid base64 ({error}), perhaps truncated; record it again", name) from None


def flat_array(entry: Entry, name: str, dtype: str = "<i4") -> npt.NDArray[Any]:
    """The whole numbers in a field's base64 text, in one dimension."""
    raw = decoded(entry, name)
    size = np.dtype(dtype).itemsize
    if not raw or len(raw) % size:
        raise entry.error(f"{len(raw)} bytes are not numbers of {size} bytes, perhaps truncated; record it again", name)
    return np.frombuffer(raw, dtype).astype(np.int64)


def shaped(entry: Entry, name: str, flat: npt.NDArray[Any], shape: Any) -> npt.NDArray[Any]:
    """`flat` as [tokens, layers, k]; TraceError if the shape is none or does not fit."""
    fits = isinstance(shape, list) and len(shape) == 3 and all(type(one) is int and one > 0 for one in shape)
    if not fits or int(np.prod(shape, dtype=object)) != flat.size:
        raise entry.error(f"{flat.size} numbers do not fit the shape {shown(shape)}; record it again", name)
    return flat.reshape(shape)


def routed_array(entry: Entry, name: str) -> npt.NDArray[Any] | None:
    """[tokens, layers, k] of nested lists, base64 of a .npy file, or an object {data, dtype, shape}; None for null."""
    value = entry.fields.get(name)
    if value is None:
        return None
    if isinstance(value, dict):
        inside = entry.inside(name)
        dtype = str(inside.fields.get("dtype", "int16")).removeprefix("torch.").removeprefix("numpy.")
        if dtype not in _TYPES:
            raise inside.error(f"{shown(dtype)} is not one of {', '.join(_TYPES)}; record it again", "dtype")
        field = "data" if "data" in inside.fields else "base64"
        return shaped(inside, "shape", flat_array(inside, field, dtype), inside.get("shape"))
    if isinstance(value, str):
        raw = decoded(entry, name)
        if not raw.startswith(_NPY):
            raise entry.error(
                "base64 without the header of a NumPy array, so its shape is unknown; record it again", name
            )
        return npy_array(raw, lambda text: entry.error(text, name))
    return entry.array(name, 3)


def npy_values(raw: bytes) -> npt.NDArray[Any]:
    """The array of a .npy file's bytes, never unpickled; ValueError and others for anything else.

    A header that claims more than the bytes hold is refused before room for it is made.
    """
    stream = io.BytesIO(raw)
    major, _ = np.lib.format.read_magic(stream)
    if major not in (1, 2, 3):
        raise ValueError(f"version {major} of the format is unknown")
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    there = len(raw) - stream.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > there:
        raise ValueError(f"shape {shape} of {dtype} in {there} bytes")
    stream.seek(0)
    array: npt.NDArray[Any] = np.load(stream, allow_pickle=False)
    return array


def npy_array(raw: bytes, fault: Any) -> npt.NDArray[Any]:
    """[tokens, layers, k] of a .npy file's bytes, never unpickled; raises fault(text) for anything else."""
    try:
        array = npy_values(raw)
    except Exception as error:  # a broken header fails in many ways
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise fault(f"cannot be read as a NumPy array ({why}), perhaps truncated; record it again") from None
    if not isinstance(array, np.ndarray) or array.ndim != 3 or not array.size or array.dtype.kind not in "iu":
        text = f"{getattr(array, 'dtype', 'an archive')} of shape {getattr(array, 'shape', ())}"
        raise fault(f"{text}, expected whole numbers [tokens, layers, k]; record it again")
    return array
