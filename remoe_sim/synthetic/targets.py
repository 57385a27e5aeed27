"""Which adjacent reuse a synthetic trace has to have, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from remoe_sim.synthetic.laws import odds


def wanted_reuse(
    reuse: Sequence[float | None], weights: Sequence[int], given: float | str | Sequence[float] | None
) -> list[float | None]:
    """Adjacent reuse per layer: what the real trace has, its odds multiplied alike so that in all it is as given.

    reuse: of the real trace; weights: slots of each layer; given: as `synth` takes it, None for no change.
    """
    if given is None:
        return list(reuse)
    known = [(share, weight) for share, weight in zip(reuse, weights, strict=True) if share is not None and weight]
    if not known:
        raise ValueError("no decode token follows another, so there is no reuse to change; leave reuse out")
    shares, slots = (np.array(column, float) for column in zip(*known, strict=True))
    pooled = float(shares @ slots / slots.sum())
    target = target_in_all(str(given), pooled)
    from scipy.optimize import brentq

    log_odds = np.array([odds(share) for share in shares])

    def above(shift: float) -> float:
        return float((1 / (1 + np.exp(-log_odds - shift))) @ slots / slots.sum()) - target

    shift = brentq(above, -40, 40)
    return [None if share is None else float(1 / (1 + np.exp(-odds(share) - shift))) for share in reuse]


def target_in_all(text: str, now: float) -> float:
    """Adjacent reuse in all, from `0.5`, `1.26x`, `+0.07` or `-0.07`."""
    try:
        if text.endswith("x"):
            target = now * float(text[:-1])
        else:
            target = float(text) + (now if text[:1] in "+-" else 0.0)
    except ValueError:
        raise ValueError(
            f"reuse '{text}' is not possible; give a share such as 0.5, or a change: 1.26x or +0.07"
        ) from None
    if not 0 < target < 1:
        raise ValueError(
            f"reuse '{text}' would be {target:.4g}, where the trace has {now:.4g}; it must be between 0 and 1"
        )
    return target


def changed_alike(
    wanted: Sequence[float | None], before: Sequence[float | None], after: Sequence[float | None]
) -> list[float | None]:
    """Adjacent reuse per layer whose odds differ from the wanted as those of `after` do from `before`."""
    return [
        one if one is None or old is None or new is None else 1 / (1 + math.exp(odds(old) - odds(new) - odds(one)))
        for one, old, new in zip(wanted, before, after, strict=True)
    ]
