"""Ids and other whole numbers as a file has them: checked in the type that they have there, before they are cast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.errors import TraceError
from remoe_sim.trace import MOST_EXPERTS

Ints = npt.NDArray[np.integer[Any]]
LARGEST = 2**31 - 1


def outside(values: Ints, least: int, most: int = LARGEST) -> tuple[int, ...] | None:
    """Find the first number below `least` or above `most`; its place, or None if there is none."""
    wrong = np.argwhere((values < least) | (values > most))
    return tuple(int(one) for one in wrong[0]) if wrong.size else None


def checked_ids(
    ids: Ints, fault: Callable[[tuple[int, ...], str], TraceError], *, empty: bool = False
) -> npt.NDArray[np.int32]:
    """Return expert ids of any type as int32, none of them changed.

    empty: whether -1 stands for a slot that was not computed. Raises fault(place, text) for ids that no model has.
    """
    place = outside(ids, -1 if empty else 0, MOST_EXPERTS - 1)
    if place is not None:
        least = "-1 (an empty slot) or 0" if empty else "0"
        raise fault(place, f"expert {ids[place]} is not possible, expected {least} to {MOST_EXPERTS - 1}; correct it")
    return ids.astype(np.int32)
