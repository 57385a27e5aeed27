"""`from_arrays`: a trace of arrays in memory, of NumPy, torch or plain lists, without a copy of the ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.array_axes import axes_of, check_axes
from remoe_sim.formats.array_columns import columns_of, numpy_of
from remoe_sim.formats.assemble import to_decisions
from remoe_sim.formats.axes import AXES
from remoe_sim.formats.format import Sizes, parse_sizes
from remoe_sim.formats.join import in_one
from remoe_sim.formats.logits import are_probabilities, largest, softmax
from remoe_sim.formats.sized import find_sized, with_expert_bytes, with_sizes_of
from remoe_sim.trace.trace import MOST_EXPERTS, Decisions, InMemory, LayerSource, Model, Trace
from remoe_sim.trace.weights import EXPECTED, MOVED, in_order, wrong_weight
from remoe_sim.util.errors import TraceError

if TYPE_CHECKING:
    from remoe_sim.models.sizes import SizedModel
    from remoe_sim.util.arrays import Array, Singles

_CHECKED_AT_ONCE = 256 * 2**20  # bytes of decisions; larger layers are checked when they are asked for


@dataclass
class ArrayLayers:
    """Layers of ids[tokens, layers, k] as the user holds them: a layer is made of its part when it is asked for.

    ids: whole numbers of any type, -1 for an empty slot; gates: [tokens, layers, k], ids are put in their order;
    logits: [tokens, layers, E], of which probabilities are made; looks: look-ahead choices for each distance, as ids.
    """

    ids: Array
    gates: Array | None = None
    logits: Array | None = None
    looks: Sequence[Array] = ()
    resident: bool = field(default=True, init=False)

    def decisions(self, index: int) -> Decisions:
        return self._layer(index)[0]

    def weights(self, index: int) -> Singles | None:
        return None if self.gates is None else self._layer(index)[1]

    def probs(self, index: int) -> npt.NDArray[np.float16] | None:
        return None if self.logits is None else probabilities(self.logits[:, index])[0].astype(np.float16)

    @property
    def most_ahead(self) -> int:
        return len(self.looks)

    def ahead(self, index: int, distance: int) -> Decisions | None:
        if not distance:
            return None
        table = self.looks[distance - 1][:, index].astype(np.int64)
        return to_decisions(table, np.asarray((table >= 0).any(axis=1))) if (table >= 0).any() else None

    def moves(self, index: int) -> bool:
        """Whether slots of a layer are not in the order of their weights."""
        return self._layer(index)[2]

    def _layer(self, index: int) -> tuple[Decisions, Singles | None, bool]:
        table = self.ids[:, index]
        if self.gates is None:
            if table.dtype.kind == "u":
                return Decisions(np.ascontiguousarray(table, np.uint16)), None, False
            return to_decisions(table, np.asarray((table >= 0).any(axis=1))), None, False
        there = table >= 0
        gates = np.where(there, self.gates[:, index], 0).astype(np.float32)
        table, gates, moved = in_order(table, gates, there)
        decisions = to_decisions(table, np.asarray((table >= 0).any(axis=1)))
        return replace(decisions, experts=np.ascontiguousarray(decisions.experts)), gates, moved


def from_arrays(
    ids: Any = None,
    *,
    offsets: Any = None,
    prompt_lengths: Any = None,
    phase: Any = None,
    axes: str | Sequence[str] = ",".join(AXES),
    experts: int | None = None,
    model: str | Path | SizedModel | Model | None = None,
    expert_bytes: Sizes | None = None,
    weights: Any = None,
    logits: Any = None,
    ahead: Any = None,
    quant: str | None = None,
    top_k: int | None = None,
) -> Trace:
    """A trace of arrays in memory: NumPy arrays, torch tensors (of any device) or nested lists of numbers.

    ids: expert ids [tokens, layers, k], or [tokens, k] of one layer; -1 stands for an empty slot. They are not copied:
    the trace looks at the array, which must not change. offsets: where each request begins, and the end, as in
    [0, 120, 300]; one request without it. prompt_lengths: how many tokens each prompt has; phase instead:
    `prefill` or `decode`, or one of them (or 0 and 1) for each token; all tokens decode without either. Each prompt is
    a forward pass, and so is each other token. axes: the order of the axes, such as "layers,tokens,k".

    experts: how many each layer has, the largest id + 1 if neither this nor a model says it. model: a name of
    'remoe-sim list models', a card, config.json or GGUF file, what `model` returns, or `Model(experts=32)`; with
    quant, or where it has sizes of its own, it gives the sizes of experts, which expert_bytes gives otherwise.
    weights: gate weights of the shape of ids; slots are put in their order. logits: [tokens, layers, E], of the router,
    or probabilities; kept as probabilities, and without ids the largest top_k (or the model's number) are the experts.
    ahead: look-ahead choices of the shape of ids: what the router of the next layer chooses on the input of this one,
    -1 where there is none; or a list of such arrays, for the next layer, the one after it, and so on.

    Raises ValueError for arguments of a wrong type, shape or order of axes, TraceError for ids that are not possible.
    """
    order = axes_of(axes)
    offsets = None if offsets is None else numpy_of(offsets, "offsets", "iu")
    table = None if ids is None else _three(numpy_of(ids, "ids", "iu"), "ids", order)
    scores = None if logits is None else _three(numpy_of(logits, "logits", "f"), "logits", order)
    gates = None if weights is None else _three(numpy_of(weights, "weights", "f"), "weights", order)
    known = find_sized(model, quant)
    notes: list[str] = []
    count = _experts(experts, known, scores)
    if table is None:
        if scores is None:
            raise ValueError("neither ids nor logits are given; give expert ids as an array [tokens, layers, k]")
        if gates is not None:
            raise ValueError("weights go with ids; leave them out, they are made of logits")
        if ahead is not None:
            raise ValueError("ahead goes with ids; give the experts that were chosen as ids, too")
    elif not 0 < table.shape[2] < MOST_EXPERTS or not table.shape[1]:
        raise ValueError(f"ids have the shape {table.shape}; give at least one layer and one expert per token")
    first = table if table is not None else scores
    assert first is not None
    check_axes(first, order, known, count, offsets, phase, wide=table is None)
    columns, assumed = columns_of(first.shape[0], offsets, prompt_lengths, phase)
    notes += assumed
    for name, other, width in (("weights", gates, 3), ("logits", scores, 2)):
        if table is not None and other is not None and other.shape[:width] != table.shape[:width]:
            raise ValueError(f"{name} have the shape {other.shape}, which does not fit ids of {table.shape}")
    source: LayerSource
    if table is None:
        assert scores is not None
        source, width = _largest(scores, top_k, known, notes)
    else:
        count = _check_ids(table, count, notes)
        source, width = ArrayLayers(table, gates, scores, _looks(ahead, table, order)), table.shape[2]
    layers = first.shape[1]
    about = Model((count or 1,) * layers, (width,) * layers)
    trace = Trace(
        **columns, layer_numbers=tuple(range(layers)), model=about, source=source, origin={"format": "arrays"}
    )
    if known is None:
        notes.append("layers are numbered from 0")
    else:
        trace = with_sizes_of(trace, known, positions=True)
    trace = with_expert_bytes(trace, parse_sizes("expert_bytes", expert_bytes))
    if isinstance(source, ArrayLayers):
        _check_layers(trace, source, notes)
    return replace(trace, notes=in_one(notes, None))


def _three(array: Array, name: str, order: tuple[str, ...]) -> Array:
    """The array as a view [tokens, layers, k]."""
    if array.ndim == 2:
        return array[:, None]
    if array.ndim != 3:
        raise ValueError(f"{name} have the shape {array.shape}; give three axes, tokens, layers and k (see axes=)")
    return np.transpose(array, [order.index(axis) for axis in AXES])


def _looks(ahead: Any, ids: Array, order: tuple[str, ...]) -> tuple[Array, ...]:
    """The look-ahead choices of each distance as views [tokens, layers, k]; ValueError for other shapes."""
    if ahead is None:
        return ()
    several = isinstance(ahead, list | tuple) and all(getattr(one, "ndim", 0) == 3 for one in ahead)
    found = tuple(_three(numpy_of(one, "ahead", "iu"), "ahead", order) for one in (ahead if several else [ahead]))
    for one in found:
        if one.shape != ids.shape:
            raise ValueError(f"ahead has the shape {one.shape}, which does not fit ids of {ids.shape}")
    return found


def _experts(given: int | None, known: SizedModel | Model | None, scores: Array | None) -> int | None:
    """How many experts a layer has, as far as arguments say it; ValueError where they differ."""
    if given is not None and (isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1):
        raise ValueError(f"experts {given!r} is not possible; give how many experts each MoE layer has, 1 or more")
    of_model = known.experts if known is not None else None
    if isinstance(of_model, tuple):
        of_model = max(of_model)
    said = {"experts": given, "the model": of_model, "logits": None if scores is None else scores.shape[2]}
    there = {name: int(one) for name, one in said.items() if one is not None}
    if len(set(there.values())) > 1:
        different = " and ".join(f"{name} says {one}" for name, one in there.items())
        raise ValueError(f"{different} experts; give one number (if the last axis of logits is another, see axes=)")
    return next(iter(there.values()), None)


def _check_ids(ids: Array, count: int | None, notes: list[str]) -> int:
    """How many experts there are; TraceError for ids that are not possible."""
    most = -1
    for index in range(ids.shape[1]):
        table = ids[:, index]
        if not table.size:
            continue
        least, largest = int(table.min()), int(table.max())
        limit = count or MOST_EXPERTS
        if least < -1 or largest >= limit:
            row, slot = np.argwhere((table < -1) | (table >= limit))[0].tolist()
            more = "" if count is None else f"; the model has {count} experts"
            raise TraceError(
                f"ids[token {row}, layer {index}]: expert {table[row, slot]} is not possible, expected 0 to "
                f"{limit - 1}, or -1 for an empty slot{more}"
            )
        most = max(most, largest)
    if count is None:
        count = most + 1
        notes.append(f"the number of experts is taken as {count}, the largest id + 1 (experts= sets it)")
        if not count:
            raise TraceError("ids hold no expert; there is nothing to make a trace of")
    return count


def _check_layers(trace: Trace, source: ArrayLayers, notes: list[str]) -> None:
    """Raise TraceError for weights that are none, and for experts that are there twice in arrays that are not large."""
    moved = False
    for index in range(trace.moe_layers):
        if source.gates is not None:
            gates = source.gates[:, index]
            wrong = wrong_weight(gates, source.ids[:, index] >= 0, unknown=True)
            if wrong is not None:
                text = f"{gates[wrong]} cannot be a gate weight; {EXPECTED}"
                raise TraceError(f"weights[token {wrong[0]}, layer {index}]: {text}")
            moved = moved or source.moves(index)
        if 2 * source.ids.size <= _CHECKED_AT_ONCE:
            trace.decisions(index)
            for distance in range(1, trace.most_ahead + 1):
                trace.ahead(index, distance)
    if moved:
        notes.append(MOVED)


def probabilities(logits: Array) -> tuple[npt.NDArray[np.float32], bool]:
    """Probabilities float32[tokens, E] of logits, and whether these are probabilities already."""
    wide = logits.astype(np.float32)
    already = are_probabilities(wide)
    return wide if already else softmax(wide), already


def _largest(
    logits: Array, top_k: int | None, known: SizedModel | Model | None, notes: list[str]
) -> tuple[LayerSource, int]:
    """The experts with the largest logits, of equal ones those of lower number, and how many there are."""
    of_model = None if known is None else known.top_k
    if isinstance(of_model, tuple):
        of_model = max(of_model, default=None)
    k = top_k or of_model
    if k is None:
        raise ValueError("logits do not say how many experts each token has; give top_k, such as top_k=8")
    if not 0 < k <= logits.shape[2]:
        raise ValueError(f"top_k {k} is not possible; logits have {logits.shape[2]} experts")
    layers, gates, given = [], [], []
    for index in range(logits.shape[1]):
        table = logits[:, index]
        finite = np.isfinite(table)
        if not finite.all():
            row = int(np.flatnonzero(~finite.all(axis=1))[0])
            raise TraceError(f"logits[token {row}, layer {index}] hold a number that is not finite; record it again")
        chosen = largest(table, k)
        of_layer, already = probabilities(table)
        layers.append(Decisions(np.ascontiguousarray(chosen, np.uint16)))
        gates.append(np.take_along_axis(of_layer, chosen, axis=1))
        given.append(already)
    notes.append(
        "they are probabilities" if all(given) else "gate weights are the softmax of logits, the largest of them"
    )
    return _OfLogits(layers, gates, logits=logits), k


@dataclass(frozen=True)
class _OfLogits(InMemory):
    """Layers in memory, with probabilities that are made of logits when they are asked for."""

    logits: Array | None = None

    def probs(self, index: int) -> npt.NDArray[np.float16] | None:
        assert self.logits is not None
        return probabilities(self.logits[:, index])[0].astype(np.float16)
