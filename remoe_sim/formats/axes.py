"""Which axis of an array of expert ids is which: people save [tokens, layers, k], and [layers, tokens, k]."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from remoe_sim.formats.assemble import find_repeated

if TYPE_CHECKING:
    from remoe_sim.formats.source import Source
    from remoe_sim.util.arrays import Array
    from remoe_sim.util.errors import TraceError

MOST_KNOWN_LAYERS = 200  # no published model has as many MoE layers
SAMPLE = 64  # tokens, or layers, in which a repeated expert is looked for
AXES = ("tokens", "layers", "k")


def tokens_first(
    source: Source,
    ids: Array,
    fault: Callable[[str], TraceError],
    *,
    tokens: int | None = None,
    layers: int | None = None,
    certain: bool = False,
) -> Array:
    """The array as [tokens, layers, k], a view of it, by `--axes` or by what is known of its lengths.

    ids: three axes of whole numbers; tokens, layers: how many the file itself says there are; certain: the format's
    own order of axes is not in doubt unless a number contradicts it. Raises fault(text) that asks for `--axes` where
    tokens and layers cannot be told apart.
    """
    if source.given.axes is not None:
        return np.transpose(ids, [source.given.axes.index(name) for name in AXES])
    k = _k_axis(source, ids)
    first, second = (axis for axis in range(3) if axis != k)
    order = _order(source, ids.shape[first], ids.shape[second], tokens, layers, certain)
    if order is None:
        names = _names(first, second, k), _names(second, first, k)
        raise fault(f"its shape {ids.shape} may be [{names[0]}] or [{names[1]}]; say which with --axes {names[1]}")
    axes = (first, second, k) if order else (second, first, k)
    if axes != (0, 1, 2):
        source.note(f"the axes are taken as [{_names(*axes)}], which its numbers fit")
    return np.transpose(ids, axes)


def _names(tokens: int, layers: int, k: int) -> str:
    """What the axes of an array are, in their order."""
    by_axis = {tokens: "tokens", layers: "layers", k: "k"}
    return ",".join(by_axis[axis] for axis in range(3))


def _order(
    source: Source, first: int, second: int, tokens: int | None, layers: int | None, certain: bool
) -> bool | None:
    """Whether the first of two axes is that of tokens; None if it may be either."""
    for known, right in ((tokens, True), (layers, False), (source.given.moe_layers, False)):
        if known is not None and (first == known) != (second == known):
            return right if first == known else not right
    if tokens is not None or certain:
        return True
    return True if second <= min(first, MOST_KNOWN_LAYERS) else None


def _k_axis(source: Source, ids: Array) -> int:
    """The axis of the experts of a decision: one as long as `--top-k`, else one where no expert is there twice."""
    k = source.given.top_k
    if k is not None and ids.shape[2] != k:
        fitting = [axis for axis in range(2) if ids.shape[axis] == k]
        return fitting[0] if len(fitting) == 1 else 2
    if not _repeats(ids, 2):
        return 2
    fitting = [axis for axis in (1, 0) if not _repeats(ids, axis)]
    return fitting[0] if len(fitting) == 1 else 2


def _repeats(ids: Array, axis: int) -> bool:
    """Whether a decision along an axis has an expert twice, among some of them; dense layers are all 0."""
    part = tuple(slice(None) if other == axis else slice(SAMPLE) for other in range(3))
    table = np.moveaxis(ids[part], axis, 2).reshape(-1, ids.shape[axis])
    table = np.where((table == 0).all(axis=1, keepdims=True), -1, table)
    return find_repeated(table) is not None
