"""Between Arrow's list columns and NumPy's two-dimensional arrays, nulls included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from remoe_sim.util.arrays import Array, Flags


def to_arrow(values: Array, valid: Flags | None = None, present: Flags | None = None) -> pa.FixedSizeListArray:
    """A list column of values[rows, k]; valid[rows, k] false: null element, present[rows] false: null list."""
    flat = pa.array(
        np.ascontiguousarray(values).reshape(-1),
        mask=None if valid is None else ~np.ascontiguousarray(valid).reshape(-1),
    )
    mask = None if present is None else pa.array(~present)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)


def to_numpy(array: pa.Array | pa.ChunkedArray) -> Array:
    """Numbers or truth values without nulls as NumPy. Arrow's own conversion would import pandas."""
    if isinstance(array, pa.ChunkedArray):
        chunks = [to_numpy(chunk) for chunk in array.chunks]
        return np.concatenate(chunks) if chunks else to_numpy(pa.array([], array.type))
    if pa.types.is_boolean(array.type):
        return np.from_dlpack(array.cast(pa.uint8())).astype(np.bool_)
    return np.from_dlpack(array)


def from_arrow(
    column: pa.ChunkedArray, k: int, dtype: type, start: int = 0
) -> tuple[Array, Flags | None, Flags | None]:
    """values[rows, k] (0 where null), valid and present as in `to_arrow`, None where nothing is null.

    Takes lists of fixed or variable length. Raises ValueError naming the row whose list has another length than k, and
    the type if the column holds no lists of numbers. start: the number of the first row in messages.
    """
    for start_of_chunk, chunk in _places(column):
        _check_lengths(chunk, k, start + start_of_chunk)
    rows = len(column)
    if column.num_chunks == 1 and (shared := _where_they_lie(column.chunk(0), dtype)) is not None:
        return shared.reshape(rows, k), None, None
    valid = np.zeros((rows, k), np.bool_) if _has_null_elements(column) or column.null_count else None
    values: Array = np.empty((rows, k), dtype) if valid is None else np.zeros((rows, k), dtype)
    present = np.ones(rows, np.bool_) if column.null_count else None
    for at, chunk in _places(column):
        _copy_chunk(chunk, values, valid, present, at, start)
    return values, valid, present


def _places(column: pa.ChunkedArray) -> Iterator[tuple[int, pa.Array]]:
    """The chunks, and the row with which each begins."""
    at = 0
    for chunk in column.chunks:
        yield at, chunk
        at += len(chunk)


def _check_lengths(chunk: pa.Array, k: int, first: int) -> None:
    """ValueError for lists of another length than k; before room for k numbers a row is made."""
    if not _holds_lists(chunk):
        raise ValueError(f"holds {chunk.type}, not lists")
    if not pa.types.is_fixed_size_list(chunk.type):
        lengths = to_numpy(chunk.value_lengths().fill_null(k))
        wrong = np.flatnonzero(lengths != k)
        if wrong.size:
            row = int(wrong[0])
            raise ValueError(f"row {first + row}: the list has {lengths[row]} elements, expected {k}")
    elif chunk.type.list_size != k:
        raise ValueError(f"row {first}: the list has {chunk.type.list_size} elements, expected {k}")


def _holds_lists(chunk: pa.Array) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(kind(chunk.type) for kind in kinds)


def _has_null_elements(column: pa.ChunkedArray) -> bool:
    return any(_elements(chunk).null_count for chunk in column.chunks)


def _elements(chunk: pa.Array) -> pa.Array:
    """The elements of all lists that are not null, in order."""
    if pa.types.is_fixed_size_list(chunk.type) and not chunk.null_count:  # as below, which takes long to load
        k = chunk.type.list_size
        return chunk.values.slice(chunk.offset * k, len(chunk) * k)
    return chunk.flatten()


def _where_they_lie(chunk: pa.Array, dtype: type) -> Array | None:
    """The elements without a copy, if they are of that type and none is null, and the memory is the chunk's own."""
    if not pa.types.is_fixed_size_list(chunk.type) or chunk.null_count:
        return None
    elements = _elements(chunk)
    if elements.type != pa.from_numpy_dtype(dtype) or elements.null_count:
        return None
    buffer = elements.buffers()[1]
    if buffer is None or not buffer.is_mutable:  # what cannot be written to is another type for kernels
        return None
    return np.frombuffer(buffer, dtype, len(elements), elements.offset * np.dtype(dtype).itemsize)


def _copy_chunk(
    chunk: pa.Array, values: Array, valid: Flags | None, present: Flags | None, at: int, start: int
) -> None:
    k, rows = values.shape[1], len(chunk)
    here = slice(at, at + rows)
    routed = np.ones(rows, np.bool_) if not chunk.null_count else to_numpy(chunk.is_valid())
    elements = _elements(chunk)
    numbers = _numbers(elements, values.dtype, start + at, k)
    if present is None or valid is None or not chunk.null_count:
        values[here] = numbers.reshape(rows, k)
    else:
        values[here][routed] = numbers.reshape(-1, k)
    if valid is not None:
        there = to_numpy(elements.is_valid()).reshape(-1, k) if elements.null_count else True
        if chunk.null_count:
            valid[here][routed] = there
        else:
            valid[here] = there
    if present is not None:
        present[here] = routed


def _numbers(elements: pa.Array, dtype: np.dtype[Any], at: int, k: int) -> Array:
    """The elements as `dtype`, null as 0; ValueError for a number that does not fit."""
    target = pa.from_numpy_dtype(dtype)
    if not (
        pa.types.is_integer(elements.type) or (pa.types.is_floating(target) and pa.types.is_floating(elements.type))
    ):
        raise ValueError(f"holds lists of {elements.type}, expected {target}")
    if elements.null_count:
        elements = elements.fill_null(pa.scalar(0, elements.type))
    wide = to_numpy(elements)
    if elements.type != target:
        limits: Any = np.iinfo(dtype) if pa.types.is_integer(target) else np.finfo(dtype)
        wrong = np.flatnonzero(((wide < limits.min) | (wide > limits.max)) & np.isfinite(wide))
        if wrong.size:
            raise ValueError(f"row {at + int(wrong[0]) // k}: {wide[wrong[0]]} is outside {limits.min} to {limits.max}")
    return np.asarray(wide, dtype)
