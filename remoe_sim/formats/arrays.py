"""Traces from arrays: one table per layer, or one array per request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.assemble import find_repeated, known_weights, to_decisions, used_slots
from remoe_sim.formats.records import ASSUMED_STEPS
from remoe_sim.formats.source import LARGEST, Source, checked_ids, outside
from remoe_sim.trace.schedule import steps_of
from remoe_sim.trace.trace import DECODE, PREFILL, Decisions, InMemory, Model, Trace
from remoe_sim.trace.weights import EXPECTED, ORDERED, in_order, wrong_weight
from remoe_sim.util.errors import TraceError

if TYPE_CHECKING:
    from remoe_sim.util.arrays import Array, Flags, Int32s, Ints, Longs, Singles

Fault = Callable[[int, str], TraceError]


@dataclass(frozen=True)
class LayerTables:
    """The layers that have an expert at all, in ascending order: their index in the arrays, number and contents."""

    kept: tuple[int, ...]
    numbers: tuple[int, ...]
    layers: tuple[Decisions, ...]
    weights: tuple[Singles | None, ...]

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
    weights: Array | None,
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


def _checked_weights(weights: Array, there: Flags, unknown: bool, layer: str, fault: Fault) -> Singles:
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


@dataclass(frozen=True)
class RequestArrays:
    """One request: ids[tokens, layers, k] as the file has them, in any type of whole numbers.

    prompt: how many of its tokens are of the prompt, None if that is not known; first: position of the first token;
    weights: [tokens, layers, k]; token_ids: [tokens]; probs: for each layer float16[tokens, E] or None;
    line, place: what messages call it; empty: whether -1 stands for a slot that was not computed, else it is refused
    like any other number that cannot be an id.
    """

    experts: Ints
    prompt: int | None = None
    first: int = 0
    weights: Array | None = None
    token_ids: Ints | None = None
    probs: Sequence[npt.NDArray[np.float16] | None] | None = None
    line: int | None = None
    place: str = ""
    empty: bool = False


def trace_of_requests(
    source: Source,
    requests: Sequence[RequestArrays],
    *,
    numbers: Sequence[int] | None = None,
    experts: int | None = None,
    steps_noted: bool = False,
) -> Trace:
    """The trace of requests that follow one another: a prompt is one prefill step, each other token a decode step.

    numbers: the model's number of each layer, else 0, 1, ...; experts: how many there are, if the file states it;
    steps_noted: the format has said itself where steps come from.
    Raises TraceError naming the request for arrays that differ in layers or k, and for impossible ids.
    """
    if not requests:
        raise source.error("there is no request with expert ids in it; record it again")
    shapes = [one.experts.shape[1:] for one in requests]
    for one, shape in zip(requests, shapes, strict=True):
        if shape != shapes[0]:
            text = f"{shape[0]} layers with {shape[1]} experts each, but the first request has {shapes[0]}"
            raise source.error(f"{one.place}{text}; import files of one model", one.line)
    lengths = np.array([len(one.experts) for one in requests])
    whole = np.concatenate([_narrow(source, one) for one in requests])
    _leave_out_unfilled(source, whole)
    starts = np.cumsum(lengths) - lengths

    def fault(row: int, text: str) -> TraceError:
        index = int(np.searchsorted(starts, row, side="right")) - 1
        one = requests[index]
        return source.error(f"{one.place}token {row - starts[index]}, {text}; correct it", one.line)

    if numbers is None:
        source.note("layers are numbered from 0")
    weights = _all_or_none([one.weights for one in requests])
    count = source.experts(int(whole.max(initial=-1)), experts)
    tables = layer_tables(source, whole, weights, list(numbers or range(whole.shape[1])), count, fault)
    model = Model((count,) * len(tables.kept), tables.top_k)
    columns = _columns(source, requests, lengths, steps_noted)
    return Trace(**columns, layer_numbers=tables.numbers, model=model, source=tables.in_memory(_probs(requests)))


def _narrow(source: Source, one: RequestArrays) -> Int32s:
    """The ids as int32; TraceError for ids that no model has."""

    def fault(place: tuple[int, ...], text: str) -> TraceError:
        return source.error(f"{one.place}token {place[0]}, layer {place[1]}: {text}", one.line)

    return checked_ids(one.experts, fault, empty=one.empty)


def _leave_out_unfilled(source: Source, whole: Int32s) -> None:
    """Engines leave zeros in the rows of dense layers, which have no router: marks them as not routed."""
    if whole.shape[2] < 2:
        return
    zeros = [layer for layer in range(whole.shape[1]) if not whole[:, layer].any()]
    if zeros and len(zeros) < whole.shape[1]:
        whole[:, zeros] = -1
        source.note(f"layers that are 0 in all slots of all tokens are taken as dense: {', '.join(map(str, zeros))}")


def _all_or_none(parts: Sequence[Array | None]) -> Array | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if len(there) == len(parts) else None


def _probs(requests: Sequence[RequestArrays]) -> list[npt.NDArray[np.float16] | None] | None:
    there = [one.probs for one in requests if one.probs is not None]
    if len(there) < len(requests):
        return None
    return [_all_or_none(layer) for layer in zip(*there, strict=True)]


def _columns(source: Source, requests: Sequence[RequestArrays], lengths: Longs, steps_noted: bool) -> dict[str, Any]:
    request = np.repeat(np.arange(lengths.size), lengths)
    position = np.concatenate([one.first + np.arange(len(one.experts)) for one in requests])
    if position.size and position.max() > LARGEST:
        raise source.error("a position is too large; record it again")
    prompts = np.array([one.prompt or 0 for one in requests])
    phase = np.where(position < prompts[request], PREFILL, DECODE).astype(np.uint8)
    if not steps_noted:
        if all(one.prompt is None for one in requests):
            source.note("all tokens are taken as decode, because lengths of prompts are not recorded")
        source.note(ASSUMED_STEPS)
    for one in requests:
        wrong = None if one.token_ids is None else outside(one.token_ids, 0)
        if wrong is not None and one.token_ids is not None:
            text = f"token {wrong[0]}: token id {one.token_ids[wrong]} is not possible, expected 0 to {LARGEST}"
            raise source.error(f"{one.place}{text}; correct it", one.line)
    token_id = _all_or_none([one.token_ids for one in requests])
    return {
        "request": request.astype(np.int32),
        "position": position.astype(np.int32),
        "phase": phase,
        "step": steps_of(request, phase),
        "token_id": None if token_id is None else token_id.astype(np.int32),
    }
