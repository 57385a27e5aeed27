"""Which axes the arrays of `from_arrays` have, and whether their lengths say that they are others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.formats.axes import AXES, MOST_KNOWN_LAYERS, SAMPLE
from remoe_sim.trace.trace import Model

if TYPE_CHECKING:
    from remoe_sim.models.sizes import SizedModel
    from remoe_sim.util.arrays import Array


def axes_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """The names of axes in their order; ValueError unless they are those of AXES."""
    parts = given.split(",") if isinstance(given, str) else given
    axes = tuple(str(one).strip() for one in parts)
    if sorted(axes) != sorted(AXES):
        raise ValueError(f"axes '{','.join(axes)}' are not possible; give tokens, layers and k in the array's order")
    return axes


def check_axes(
    ids: Array,
    order: tuple[str, ...],
    known: SizedModel | Model | None,
    experts: int | None,
    offsets: Array | None,
    phase: Any,
    *,
    wide: bool,
) -> None:
    """ValueError that asks for `axes=` where the lengths of ids[tokens, layers, k] say that axes are others.

    order: the axes that the user gave; wide: they are logits, whose last axis are experts.
    """
    tokens, layers, k = ids.shape
    of_tokens = _length(offsets, phase)
    of_layers = _layers(known)
    of_k = None if known is None or wide else _top_k(known)

    def ask(why: str, first: str, second: str) -> ValueError:
        swapped = ",".join({first: second, second: first}.get(name, name) for name in order)
        return ValueError(f"{why}; if the axes are others, give axes='{swapped}'")

    if of_tokens is not None and tokens != of_tokens:
        said = f"there are {tokens} tokens, but offsets or phases are of {of_tokens}"
        if layers == of_tokens:
            raise ask(said, "tokens", "layers")
        raise ask(said, "tokens", "k") if k == of_tokens else ValueError(f"{said}; correct one of them")
    if of_layers is not None and layers != of_layers:
        said = f"there are {layers} layers, but the model has {of_layers} MoE layers"
        if of_layers == tokens:
            raise ask(said, "tokens", "layers")
        raise ask(said, "layers", "k") if of_layers == k else ValueError(f"{said}; correct one of them")
    if of_k is not None and k != of_k and layers == of_k:
        raise ask(f"there are {k} experts per token, but the model has {of_k}", "layers", "k")
    if wide:
        return
    if experts is not None and k > experts:
        first = "layers" if layers <= experts else "tokens"
        raise ask(f"there are {k} experts per token, more than the {experts} of a layer", first, "k")
    if layers > MOST_KNOWN_LAYERS and of_tokens is None and of_layers is None:
        raise ask(
            f"there are {layers} layers, more than any model has (offsets=[0, {tokens}] says that they are right)",
            "tokens", "layers",
        )  # fmt: skip
    if layers > 1 and k > 1 and _repeats(ids[:SAMPLE], 2) and not _repeats(ids[:SAMPLE], 1):
        raise ask(f"tokens have an expert twice among the {k} of a layer", "layers", "k")


def _length(offsets: Array | None, phase: Any) -> int | None:
    """How many tokens other arguments say that there are, before they are checked."""
    if offsets is not None and offsets.ndim == 1 and offsets.size:
        return int(offsets[-1])
    return len(phase) if phase is not None and not isinstance(phase, str) and np.ndim(phase) == 1 else None


def _layers(known: SizedModel | Model | None) -> int | None:
    if known is None:
        return None
    if isinstance(known, Model):
        return len(known.experts) if len(known.experts) > 1 else None
    return len(known.moe_layers)


def _top_k(known: SizedModel | Model) -> int | None:
    return max(known.top_k, default=None) if isinstance(known.top_k, tuple) else known.top_k


def _repeats(ids: Array, axis: int) -> bool:
    """Whether an expert is there twice along an axis, but for dense layers, which engines leave as zeros."""
    ordered = np.sort(ids, axis=axis)
    after, before = (
        np.take(ordered, range(*ends), axis=axis) for ends in ((1, ids.shape[axis]), (0, ids.shape[axis] - 1))
    )
    return bool(((after == before) & (after > 0)).any())
