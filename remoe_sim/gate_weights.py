"""Gate weights: which numbers can be one, and decisions put in their order, the largest first."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_] | None
EXPECTED = "a gate weight is a finite number, 0 or more"
ORDERED = "slots are put in the order of their gate weights, the largest first, because the file has others"


def wrong_weight(weights: Weights, there: Mask = None, *, unknown: bool) -> tuple[int, ...] | None:
    """Find the first number that cannot be a gate weight: a negative or infinite one.

    there: where the slots are that count, all if None; unknown: whether NaN stands for a weight that is not known.
    Returns its place, or None if there is none.
    """
    with np.errstate(invalid="ignore"):
        wrong = (weights < 0) | np.isinf(weights) if unknown else ~((weights >= 0) & np.isfinite(weights))
    if there is not None:
        wrong &= there
    if not wrong.any():
        return None
    return tuple(int(one) for one in np.argwhere(wrong)[0])


def in_order(experts: npt.NDArray[Any], weights: Weights, there: Mask = None) -> tuple[npt.NDArray[Any], Weights, bool]:
    """Sort the slots of each decision by gate weight, the largest first, and say whether any moved.

    experts, weights: [tokens, k]; there: bool[tokens, k], false for null slots, which keep their place. Equal weights
    keep the order that they have, and so does a decision one of whose weights is NaN, which means not known.
    """
    known = np.isnan(weights) if there is None else np.isnan(weights) & there
    if there is None:
        squeezed, first = weights, None
    else:  # the slots that are there, then the others
        first = np.argsort(~there, axis=1, kind="stable")
        squeezed = np.take_along_axis(np.where(there, weights, -np.inf), first, axis=1)
    rises = (squeezed[:, 1:] > squeezed[:, :-1]).any(axis=1)
    rows = np.flatnonzero(rises & ~known.any(axis=1))
    if not rows.size:
        return experts, weights, False
    order = np.argsort(-squeezed[rows], axis=1, kind="stable")
    results = []
    for values in (experts, weights):
        moved = values.copy()
        if first is None:
            moved[rows] = np.take_along_axis(values[rows], order, axis=1)
        else:
            sorted_ = np.take_along_axis(np.take_along_axis(values[rows], first[rows], axis=1), order, axis=1)
            put = values[rows]
            np.put_along_axis(put, first[rows], sorted_, axis=1)
            moved[rows] = put
        results.append(moved)
    return results[0], results[1], True
