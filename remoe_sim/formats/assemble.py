"""From rows in any order (one per decision, or one per slot) to the columns of a trace, checked with their lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.formats.source import LARGEST, Source, outside
from remoe_sim.trace.schedule import steps_of
from remoe_sim.trace.trace import Decisions, InMemory, Model, Trace
from remoe_sim.trace.weights import EXPECTED, ORDERED, in_order, wrong_weight

if TYPE_CHECKING:
    from remoe_sim.util.arrays import Flags, Floats, Ints, Singles
    from remoe_sim.util.errors import TraceError

Where = Callable[[int], int]


@dataclass(frozen=True)
class Records:
    """One entry per record of a file, each about one token at one layer; `line` gives the line of a record.

    request, position, layer: whole numbers; phase: PREFILL or DECODE; step and token_id: None if they are unknown;
    called: what the file calls these columns, where it has other names.
    """

    request: Ints
    position: Ints
    phase: Ints
    layer: Ints
    line: Where
    step: Ints | None = None
    token_id: Ints | None = None
    called: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Slots:
    """One entry per slot, in the order of the file: its record, its expert (negative: not computed), its place in the
    decision (None: in the order of the file) and its gate weight (nan where it is unknown)."""

    record: Ints
    expert: Ints
    slot: Ints | None = None
    weight: Floats | None = None


def to_decisions(table: Ints, routed: Flags) -> Decisions:
    """Decisions of ids[tokens, k] below 65536, negative for null slots; routed bool[tokens]."""
    valid = table >= 0
    if valid.all():
        return Decisions(table.astype(np.uint16))
    return Decisions(np.where(valid, table, 0).astype(np.uint16), valid, None if routed.all() else routed)


def used_slots(source: Source, table: Ints) -> int:
    """How many slots of ids[tokens, k] there are up to the last that is not negative everywhere; noted if not all."""
    used = int(np.flatnonzero((table >= 0).any(axis=0)).max(initial=-1)) + 1
    if 0 < used < table.shape[1]:
        source.note("last slots that are empty at every token of a layer are left out")
    return used


def known_weights(weights: Singles | None, decisions: Decisions) -> Singles | None:
    """Gate weights float32[tokens, k], 0 where the decision is null; None if not one is known."""
    if weights is None or np.isnan(weights).all():
        return None
    if decisions.routed is not None:
        weights[~decisions.routed] = 0
    return weights


def find_repeated(table: Ints) -> tuple[int, int] | None:
    """Row and expert of the first decision in ids[tokens, k] that has an expert twice; negative ids do not count."""
    ordered = np.sort(table, axis=1)
    same = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if not same.any():
        return None
    row = int(np.flatnonzero(same.any(axis=1))[0])
    return row, int(ordered[row, 1:][same[row]][0])


def assemble(
    source: Source,
    records: Records,
    slots: Slots,
    *,
    experts: int,
    top_k: int | None = None,
    column: str = "expert",
    padded: bool = True,
) -> Trace:
    """The trace of all records. Tokens are ordered by step if it is known, and within a step as in the file if that has
    one token after the other; else by request (as they first appear), phase and position.

    experts: how many there are; top_k: slots of every decision, or None to take what most decisions of a layer have;
    column: what messages call the ids; padded: null slots are padding, so a decision of nothing else is null, and last
    slots that are null at every token of a layer are not there.
    Raises TraceError with file, line and column for everything that does not fit together.
    """
    tokens = _Tokens(source, records)
    numbers, layer_of = np.unique(records.layer, return_inverse=True)
    layers = _Layers(source, records, slots, tokens, experts, column, padded)
    order = np.argsort(layer_of[slots.record], kind="stable")
    bounds = np.searchsorted(layer_of[slots.record][order], np.arange(numbers.size + 1))
    read = {int(numbers[i]): layers.read(order[bounds[i] : bounds[i + 1]], top_k) for i in range(numbers.size)}
    routed = {number: layer for number, layer in read.items() if layer is not None}
    if not routed:
        raise source.error("no token has an expert at any layer; there is nothing to import")
    if len(routed) < len(read):
        empty = [str(number) for number in read if number not in routed]
        source.note(f"layers without any expert left out: {', '.join(empty)}")
    return Trace(
        **tokens.columns(),
        layer_numbers=tuple(routed),
        model=Model((experts,) * len(routed), tuple(layer.experts.shape[1] for layer, _ in routed.values())),
        source=InMemory([layer for layer, _ in routed.values()], [weights for _, weights in routed.values()]),
    )


class _Tokens:
    """The distinct tokens of all records: `of[record]` is the row of its token in execution order."""

    def __init__(self, source: Source, records: Records) -> None:
        self.source, self.records = source, records
        for name in ("request", "position", "layer", "step", "token_id"):
            self._check_range(name)
        _, first, rank = np.unique(records.request, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))[rank].astype(np.int64)
        key = (rank * 2 + records.phase) * (int(records.position.max()) + 1) + records.position
        _, self.first, self.of = np.unique(key, return_index=True, return_inverse=True)
        self._check_phases(rank)
        for name in ("step", "token_id"):
            self._check_same(name)
        if records.step is not None:
            by_token = np.count_nonzero(np.diff(self.of)) == len(self) - 1  # the file has one token after the other
            within = self.first if by_token else np.arange(len(self))
            order = np.lexsort((within, records.step[self.first]))
            self.first = self.first[order]
            self.of = np.argsort(order)[self.of]

    def __len__(self) -> int:
        return int(self.first.size)

    def columns(self) -> dict[str, Any]:
        """The columns of a trace that describe tokens."""
        records, first = self.records, self.first
        request, phase = records.request[first].astype(np.int32), records.phase[first].astype(np.uint8)
        step = steps_of(request, phase) if records.step is None else records.step[first].astype(np.int32)
        token_id = None if records.token_id is None else records.token_id[first].astype(np.int32)
        position = records.position[first].astype(np.int32)
        return {"request": request, "position": position, "step": step, "phase": phase, "token_id": token_id}

    def _fault(self, record: int, column: str, text: str) -> TraceError:
        return self.source.error(text, self.records.line(record), self.records.called.get(column, column))

    def _check_range(self, name: str) -> None:
        values = getattr(self.records, name)
        wrong = None if values is None else outside(values, 0)
        if wrong is not None:
            raise self._fault(wrong[0], name, f"{values[wrong]} is not possible; expected 0 to {LARGEST}")

    def _check_same(self, name: str) -> None:
        values = getattr(self.records, name)
        wrong = np.flatnonzero(values != values[self.first][self.of]) if values is not None else np.zeros(0, np.intp)
        if wrong.size:
            record, other = int(wrong[0]), int(self.first[self.of[wrong[0]]])
            text = f"{values[record]}, but line {self.records.line(other)} has {values[other]} for the same token"
            raise self._fault(record, name, f"{text}; each token has one {name}")

    def _check_phases(self, rank: Ints) -> None:
        place = rank[self.first] * (int(self.records.position.max()) + 1) + self.records.position[self.first]
        _, first, counts = np.unique(place, return_index=True, return_counts=True)
        if first.size < place.size:
            twice = np.flatnonzero(place == place[first[np.argmax(counts)]])
            record = int(self.first[twice].max())
            text = f"position {self.records.position[record]} of this request is in both phases"
            raise self._fault(record, "phase", f"{text}; a token is either prefill or decode")


@dataclass(frozen=True)
class _Layers:
    """Builds the decisions of one layer after the other and checks them."""

    source: Source
    records: Records
    slots: Slots
    tokens: _Tokens
    experts: int
    column: str
    padded: bool

    def read(self, at: Ints, top_k: int | None) -> tuple[Decisions, Singles | None] | None:
        """Decisions and weights of the slots `at`; None if there is not one expert among them."""
        if not at.size or self.slots.expert[at].max() < 0:
            return None
        token = self.tokens.of[self.slots.record[at]]
        counts = np.bincount(token, minlength=len(self.tokens))
        width = top_k or int(np.bincount(counts[counts > 0]).argmax())
        place = self._places(at, token, counts, width)
        table = np.full((len(self.tokens), width), -1, np.int64)
        table[token, place] = self.slots.expert[at]
        self._check_ids(at, token, table)
        routed: Flags = np.any(table >= 0, axis=1) if self.padded else counts > 0
        weights = None
        if self.slots.weight is not None:
            weights = np.full((len(self.tokens), width), np.nan, np.float32)
            weights[token, place] = self._checked_weights(at, self.slots.weight[at])
            table, weights, moved = in_order(table, weights, table >= 0)
            if moved:
                self.source.note(ORDERED)
        if self.padded and top_k is None:
            used = used_slots(self.source, table)
            table, weights = table[:, :used], None if weights is None else weights[:, :used]
        decisions = to_decisions(table, routed)
        return decisions, known_weights(weights, decisions)

    def _places(self, at: Ints, token: Ints, counts: Ints, width: int) -> Ints:
        """The slot of every entry, after making sure that each decision has each slot once."""
        if self.slots.slot is None:
            order = np.argsort(token, kind="stable")
            place = np.empty(at.size, np.int64)
            place[order] = np.arange(at.size) - np.repeat(np.cumsum(counts) - counts, counts)
        else:
            place = self.slots.slot[at].astype(np.int64)
            self._check_once(at, token, place)
        self._check_whole(at, token, counts, width)
        wrong = np.flatnonzero(place >= width)
        if wrong.size:
            text = f"slot {place[wrong[0]]} is not one of the {width} slots that a decision has here (0 to {width - 1})"
            raise self._fault(at[wrong[0]], "slot", f"{text}; correct it")
        return place

    def _check_whole(self, at: Ints, token: Ints, counts: Ints, width: int) -> None:
        ragged = np.flatnonzero(counts[token] != width)
        if ragged.size:
            entry = ragged[0]
            text = f"this decision has {counts[token[entry]]} slots where {width} are expected"
            last = token[entry] == token[-1] and at[-1] == self.slots.record.size - 1
            cut = last and counts[token[entry]] < width
            remedy = "the file seems truncated, remove its last token" if cut else "correct or remove this token"
            raise self._fault(at[entry], self.column, f"{text}; {remedy}")

    def _check_once(self, at: Ints, token: Ints, place: Ints) -> None:
        if place.min() < 0:
            entry = int(place.argmin())
            raise self._fault(at[entry], "slot", f"{place[entry]} is not possible; slots count from 0")
        flat = token * (int(place.max()) + 1) + place
        order = np.argsort(flat, kind="stable")
        twice = order[1:][flat[order[1:]] == flat[order[:-1]]]
        if twice.size:
            entry = int(twice.min())
            raise self._fault(
                at[entry], "slot", f"slot {place[entry]} of this decision is there twice; remove one of them"
            )

    def _checked_weights(self, at: Ints, weights: Singles) -> Singles:
        wrong = wrong_weight(weights, unknown=True)
        if wrong is not None:
            text = f"{weights[wrong]} cannot be one; {EXPECTED}, correct it"
            raise self._fault(at[wrong[0]], self.records.called.get("weight", "weight"), text)
        return weights

    def _check_ids(self, at: Ints, token: Ints, table: Ints) -> None:
        wrong = np.flatnonzero(self.slots.expert[at] >= self.experts)
        if wrong.size:
            expert = self.slots.expert[at[wrong[0]]]
            text = f"expert {expert} is not below the model's {self.experts} experts"
            raise self._fault(at[wrong[0]], self.column, f"{text}; correct the id, or set the number with --experts")
        found = find_repeated(table)
        if found:
            entry = np.flatnonzero((token == found[0]) & (self.slots.expert[at] == found[1]))[1]
            text = f"expert {found[1]} appears twice in one decision; each expert is chosen at most once per token"
            raise self._fault(at[entry], self.column, text)

    def _fault(self, entry: int, column: str, text: str) -> TraceError:
        record = int(self.slots.record[entry])
        return self.source.error(text, self.records.line(record), self.records.called.get(column, column))
