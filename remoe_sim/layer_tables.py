"""From arrays of expert ids to the decisions of each layer, checked; for formats that hold whole arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.assembling import Ints, find_repeated, known_weights, to_decisions, used_slots
from remoe_sim.errors import TraceError
from remoe_sim.gate_weights import EXPECTED, ORDERED, in_order, wrong_weight
from remoe_sim.import_source import Source
from remoe_sim.trace import Decisions, InMemory

Fault = Callable[[int, str], TraceError]
Weights = npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class LayerTables:
    """The layers that have an expert at all, in ascending order: their index in the arrays, number and contents."""

    kept: tuple[int, ...]
    numbers: tuple[int, ...]
    layers: tuple[Decisions, ...]
    weights: tuple[Weights, ...]

    @property
    def top_k(self) -> tuple[int, ...]:
        """Slots of a decision in each layer."""
        return tuple(layer.experts.shape[1] for layer in self.layers)

    def in_memory(self, probs: Sequence[npt.NDArray[np.float16] | None] | None = None) -> InMemory:
        """The layers as a source of a trace; probs: float16[tokens, E] for each layer of the arrays."""
        kept = None if probs is None else [probs[index] for index in self.kept]
        return InMemory(self.layers, self.weights, kept)


def layer_tables(
    source: Source,
    experts: Ints,
    weights: npt.NDArray[Any] | None,
    numbers: Sequence[int],
    count: int,
    fault: Fault,
    *,
    unknown: bool = False,
    widths: Sequence[int] | Ints | None = None,
) -> LayerTables:
    """Decisions of ids[tokens, layers, k], where a negative id is a slot that was not computed, and a decision of
    nothing else is null.

    weights: [tokens, layers, k] or None; numbers: the model's number of each layer; count: experts of each;
    fault: makes the error of a row; unknown: whether NaN stands for a weight that is not known; widths: the slots of
    each layer, if the file states them, else up to the last that any token uses. Slots are put in the order of
    weights. Raises what `fault` makes for ids that the model has not, an expert twice, or impossible weights.
    """
    read = {}
    for index in np.argsort(numbers).tolist():
        table = experts[:, index]
        used = used_slots(source, table) if widths is None else int(widths[index])
        if (table[:, used:] >= 0).any():
            row = int(np.flatnonzero((table[:, used:] >= 0).any(axis=1))[0])
            raise fault(row, f"layer {numbers[index]}: an expert beyond the {used} slots that the file states")
        if used:
            name, table = f"layer {numbers[index]}", table[:, :used]
            _check_ids(table, count, name, fault)
            gates = None
            if weights is not None:
                gates = _checked_weights(weights[:, index, :used], table >= 0, unknown, name, fault)
                table, gates, moved = in_order(table, gates, table >= 0)
                if moved:
                    source.note(ORDERED)
            layer = to_decisions(table, np.any(table >= 0, axis=1))
            read[index] = layer, known_weights(gates, layer)
    if not read:
        raise source.error("no token has an expert at any layer; there is nothing to import")
    if len(read) < len(numbers):
        empty = ", ".join(str(number) for index, number in enumerate(numbers) if index not in read)
        source.note(f"layers without any expert left out: {empty}")
    return LayerTables(
        tuple(read),
        tuple(int(numbers[index]) for index in read),
        tuple(layer for layer, _ in read.values()),
        tuple(gates for _, gates in read.values()),
    )


def _checked_weights(
    weights: npt.NDArray[Any], there: npt.NDArray[np.bool_], unknown: bool, layer: str, fault: Fault
) -> npt.NDArray[np.float32]:
    """The weights as float32, 0 at null slots that have what cannot be one."""
    with np.errstate(over="ignore"):
        gates = weights.astype(np.float32)
    wrong = wrong_weight(gates, there, unknown=unknown)
    if wrong is not None:
        raise fault(wrong[0], f"{layer}: {weights[wrong]} cannot be a gate weight; {EXPECTED}")
    return np.where(there | ~((gates < 0) | np.isinf(gates)), gates, 0)


def _check_ids(table: Ints, count: int, layer: str, fault: Fault) -> None:
    wrong = np.argwhere(table >= count)
    if wrong.size:
        text = f"{layer}: expert {table[tuple(wrong[0])]} is not below the model's {count} experts (--experts N)"
        raise fault(int(wrong[0][0]), text)
    repeated = find_repeated(table)
    if repeated:
        text = f"{layer}: expert {repeated[1]} appears twice in one decision, but each is chosen once per token"
        raise fault(repeated[0], text)
