"""What policies of other people answer, checked before a kernel relies on it."""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt


def checked_keys(policy: str, keys: Any, lookups: int) -> npt.NDArray[Any]:
    """int64 or float64[lookups]; ValueError unless there is a finite number for every lookup.

    The largest int64 stands for "no entry" in kernels, as infinity does among fractions.
    """
    keys = np.asarray(keys)
    fractions = keys.dtype.kind == "f"
    numbers = keys.shape == (lookups,) and keys.dtype.kind in "iuf"
    if not numbers or not (np.isfinite(keys) if fractions else keys < np.iinfo(np.int64).max).all():
        raise ValueError(
            f"policy '{policy}' gave keys that are no array of {lookups} finite numbers below 2**63 - 1, one per "
            f"lookup, but {keys.dtype} of shape {keys.shape}; correct its keys()"
        )
    return np.ascontiguousarray(keys, np.float64 if fractions else np.int64)


def checked_victim(policy: str, victim: Any) -> int:
    """The number of a victim; ValueError if it is no whole number."""
    try:
        return index(victim)
    except TypeError:
        raise ValueError(
            f"policy '{policy}' chose {victim!r} as a victim; its victim() must return a resident entry, or -1 if "
            "there is none"
        ) from None
