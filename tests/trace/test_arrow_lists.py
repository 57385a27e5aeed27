"""Lists of Arrow as arrays: what is shared, what is copied, and that both are the same."""

import numpy as np
import pyarrow as pa
import pytest

from remoe_sim.trace.arrow import from_arrow, to_arrow

IDS = np.arange(24, dtype=np.uint16).reshape(8, 3)


def owned(values):
    """The lists in memory of their own that may be written to, as the Parquet reader makes it."""
    buffer = pa.allocate_buffer(values.nbytes, resizable=True)
    np.frombuffer(buffer, values.dtype)[:] = values.reshape(-1)
    flat = pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), values.size, [None, buffer])
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1]), buffer


@pytest.mark.parametrize("rows", [slice(0, 8), slice(2, 7), slice(3, 3)])
def test_lists_in_memory_of_their_own_are_not_copied(rows):
    lists, buffer = owned(IDS)
    values, valid, present = from_arrow(pa.chunked_array([lists[rows]]), 3, np.uint16)
    assert values.tolist() == IDS[rows].tolist()
    assert (valid, present) == (None, None)
    assert values.flags.writeable
    assert np.shares_memory(values, np.frombuffer(buffer, np.uint16)) == bool(values.size)


@pytest.mark.parametrize(
    "lists",
    [
        to_arrow(IDS),  # NumPy's memory, which Arrow may not write to
        owned(IDS.astype(np.int64))[0],
        owned(IDS)[0].cast(pa.list_(pa.uint16())),
    ],
)
def test_all_other_lists_are_copied(lists):
    values, valid, present = from_arrow(pa.chunked_array([lists]), 3, np.uint16)
    assert values.tolist() == IDS.tolist()
    assert (valid, present) == (None, None)
    assert values.flags.writeable


def test_several_chunks_are_joined():
    first, second = owned(IDS[:5])[0], owned(IDS[5:])[0]
    assert from_arrow(pa.chunked_array([first, second]), 3, np.uint16)[0].tolist() == IDS.tolist()


def test_nulls_are_told_apart_from_numbers():
    valid, present = np.ones((8, 3), bool), np.ones(8, bool)
    valid[2, 1] = present[5] = False
    values, there, routed = from_arrow(pa.chunked_array([to_arrow(IDS, valid, present)]), 3, np.uint16)
    valid[5] = False
    assert there.tolist() == valid.tolist()
    assert routed.tolist() == present.tolist()
    assert values.tolist() == np.where(valid, IDS, 0).tolist()


def test_lists_of_another_length_are_refused():
    with pytest.raises(ValueError, match="row 7: the list has 3 elements, expected 2"):
        from_arrow(pa.chunked_array([owned(IDS)[0]]), 2, np.uint16, start=7)


@pytest.mark.parametrize("wide", [1e300, -1e6, 70000.0])
def test_numbers_that_the_type_does_not_hold_are_refused(wide):
    values = np.array([[0.5, 0.25], [np.inf, wide]])
    with pytest.raises(ValueError, match=r"row 1: .* is outside -65504.0 to 65504.0"):
        from_arrow(pa.chunked_array([to_arrow(values)]), 2, np.float16)
    values[1, 1] = 1e-300
    assert from_arrow(pa.chunked_array([to_arrow(values)]), 2, np.float16)[0].tolist() == [[0.5, 0.25], [np.inf, 0]]
