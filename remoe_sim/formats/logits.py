"""Logits of a router: probabilities, and the experts with the largest of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from remoe_sim.util.arrays import Array


def are_probabilities(values: Array) -> bool:
    """Whether rows [tokens, E] are probabilities already."""
    return bool((values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=2e-2))


def softmax(logits: Array) -> Array:
    """Probabilities along the last axis, in the type of the logits."""
    probs: Array = logits - logits.max(axis=-1, keepdims=True)
    np.exp(probs, out=probs)
    probs /= probs.sum(axis=-1, keepdims=True)
    return probs


def largest(logits: Array, k: int) -> Array:
    """Ids of the k experts with the largest logits along the last axis, of equal ones those of lower number first."""
    order: Array = np.argsort(-logits.astype(np.float64, copy=False), axis=-1, kind="stable")[..., :k]
    return order
