"""What most kernels take, grouped into tuples of arrays, and Numba's types of these tuples.

A kernel unpacks what its inner loop uses before the loop: reading an array out of a tuple counts a reference each time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

INTS, LONGS = types.Array(types.int32, 1, "C"), types.Array(types.int64, 1, "C")
FLAGS, BYTES = types.Array(types.boolean, 1, "C"), types.Array(types.uint8, 1, "C")


class GroupedAccesses(NamedTuple):
    """The accesses of one cache, group by group.

    offsets: int64[groups + 1], where each group begins
    entries: integers [N], the members of all groups
    steps: int32[groups], the step of each group
    epochs: int64[epochs + 1], group bounds between which the cache lives
    """

    offsets: npt.NDArray[np.int64]
    entries: npt.NDArray[Any]
    steps: npt.NDArray[np.int32]
    epochs: npt.NDArray[np.int64]


class Stock(NamedTuple):
    """What a cache may hold.

    sizes: int64[n_entries], what each entry takes of the limit
    weights: int64[n_entries], bytes of each entry
    preload: int32[…], entries that the cache starts with, the most wanted first
    """

    sizes: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int64]
    preload: npt.NDArray[np.int32]


class Written(NamedTuple):
    """What a replay writes.

    hit: bool[N], whether each member was resident before its group
    resting: int64[groups], bytes held after each group
    running: int64[groups], bytes held while a group is computed
    """

    hit: npt.NDArray[np.bool_]
    resting: npt.NDArray[np.int64]
    running: npt.NDArray[np.int64]


def tuple_type(of: type, *fields: Any) -> Any:
    """Numba's type of a named tuple with fields of these types."""
    return types.BaseTuple.from_types(fields, of)


ACCESSES = tuple_type(GroupedAccesses, LONGS, INTS, INTS, LONGS)
STOCK = tuple_type(Stock, LONGS, LONGS, INTS)
WRITTEN = tuple_type(Written, FLAGS, LONGS, LONGS)
