"""Arrays of whole numbers that stand in JSON as base64."""

from __future__ import annotations

import base64
import binascii
import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.json_reading import Entry, shown

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
