"""Plain JSON Lines: one object per line, about one token at one layer.

    {"request": 0, "position": 0, "phase": "prefill", "layer": 0, "experts": [17, 3]}
    {"request": 0, "position": 1, "phase": "decode", "layer": 0, "experts": [17, null], "weights": [0.7, 0.3]}
    {"request": 0, "position": 1, "phase": "decode", "layer": 1, "experts": null}

experts: largest gate weight first; null (or a negative id) in the list is a slot that was not computed, null for the
list a token that was not routed at the layer (leaving the line out says the same). A request is a number or any text;
position counts from 0; layer is the model's own number. Optional: weights, token_id, and step, the forward pass;
without step each decode token is a pass of its own and the prompt of a request is one. Empty lines are skipped.
The fields may have other names (token_idx for position, expert_ids for experts, and more; --columns
position=NAME,layer=NAME names any other); without requests there is one, without phases all is decode (--phase). An
object may be about one expert, with "expert" and a "rank", or have fields e0, e1, ...; a first object without a layer
may say num_experts, top_k and model. The objects may also stand in one list, alone or in a field of an object.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.assemble import Slots, assemble
from remoe_sim.formats.columns import Columns, find_columns
from remoe_sim.formats.facts import StatedFacts, facts_of, has_facts
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import first_fields, read_json
from remoe_sim.formats.rows import RowTable, records_of_rows, scores
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace

_ALL_OR_NONE = ("request", "position", "phase", "step", "token_id")
_LARGEST = 2**31 - 1
_LIST = re.compile(r"(?<=:)\s*\[\s*\{")
_BETWEEN = re.compile(r"[\s,]*")
_UNKNOWN = array("f", [float("nan")])


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON, and null stands for a weight that is not known")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


class PlainJsonLines(TraceFormat):
    name = "jsonl"
    summary = "JSON Lines, or a JSON list, of objects with a layer and experts; the fields may have many names"
    layout = __doc__ or ""
    shape = "json"
    words = tuple(f'"{name}"' for name in ("request", "position", "phase", "layer", "experts"))
    general = True
    writer = "you, or a router hook that prints objects; the playbook's `route_sim.py`"
    kept = "all that has a field of a known name (or `--columns`)"
    lost = "what is not there: requests (one), phases (`--phase`), forward passes"
    sure = "you say it"

    def recognises(self, source: Source) -> bool:
        fields = first_fields(source)
        if not fields:
            return False
        try:
            if find_columns(fields, source.given.columns).is_rows:
                return not isinstance(fields.get("layers"), list | dict)
        except ValueError:
            return True  # which is said when it is read
        return has_facts(fields) and find_columns(_second(source)).is_rows

    def read(self, source: Source) -> Trace:
        rows, facts = None, StatedFacts()
        for line, record in _objects(source):
            if not isinstance(record, dict):
                raise source.error('not a JSON object; each line is one, such as {"request": 0, ...}', line)
            if rows is None:
                if not find_columns(record, source.given.columns).is_rows and has_facts(record):
                    facts = facts_of(record)
                    continue
                rows = _Rows.of(source, record, line)
            self._add(source, rows, line, record)
        if rows is None:
            raise source.error("there is no record in it; record it again")
        if facts.rows is not None and facts.rows != len(rows.lines):
            text = f"it says that it has {facts.rows} rows, but there are {len(rows.lines)}"
            raise source.error(f"{text}; the file is cut off, record it again")
        if rows.unknown:
            source.note(f"fields not imported: {', '.join(sorted(rows.unknown))}")
        records = records_of_rows(source, rows.rows(), rows.columns, rows.lines.__getitem__, not rows.listed)
        slots, column = rows.slots(source), rows.columns.experts[0]
        if rows.listed:
            records = replace(records, called={**records.called, "slot": column})
        experts = source.experts(int(slots.expert.max(initial=-1)), facts.experts)
        padded = rows.columns.counted or not rows.listed
        trace = assemble(source, records, slots, experts=experts, column=column, padded=padded)
        return facts.checked(source, trace)

    def _add(self, source: Source, rows: _Rows, line: int, record: dict[str, Any]) -> None:
        try:
            rows.add(line, record)
        except KeyError as error:
            given = ", ".join(record) or "nothing"
            why = f"missing (there is {given}); each object has {', '.join(sorted(rows.columns.used))}"
            raise source.error(why, line, str(error.args[0])) from None
        except _WrongError as wrong:
            raise source.error(f"{wrong.text}; correct it", line, wrong.column) from None


def _second(source: Source) -> dict[str, Any]:
    """The fields of the second line, or of the objects in the first list of an object."""
    lines = [line for line in source.head_text.splitlines() if line.strip()]
    for text in lines[1:2]:
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            continue
        return record if isinstance(record, dict) else {}
    found = _LIST.search(source.head_text)
    try:
        record = _DECODER.raw_decode(source.head_text, found.end() - 1)[0] if found else {}
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _objects(source: Source) -> Iterator[tuple[int, Any]]:
    """The line and the value of each object."""
    first = next((line for line in source.head_text.splitlines() if line.strip()), "")
    if first.lstrip().startswith("[{") or first.strip() in ("[", "{") or _holds_list(source):
        yield from _of_document(source)
        return
    for line, text in source.lines():
        if text.strip():
            try:
                value = _DECODER.decode(text)
            except (ValueError, RecursionError) as error:
                why = f"not valid JSON ({error}); the line is truncated or broken, correct or remove it"
                raise source.error(why, line) from None
            yield line, value


def _holds_list(source: Source) -> bool:
    """Whether the file is one object that holds the others in a list."""
    fields = first_fields(source)
    return not find_columns(fields, source.given.columns).is_rows and bool(_LIST.search(source.head_text))


def _of_document(source: Source) -> Iterator[tuple[int, Any]]:
    """What an object says besides its list, then the objects of the list."""
    whole = read_json(source)
    text = "\n".join(line for _, line in source.lines())
    begin = text.index("[") if isinstance(whole, list) else (found := _LIST.search(text)) and found.end() - 2
    if isinstance(whole, dict):
        yield 1, {name: value for name, value in whole.items() if not isinstance(value, list)}
    at, line, counted = int(begin or 0) + 1, 1, 0
    while True:
        match = _BETWEEN.match(text, at)
        at = match.end() if match else at
        if at >= len(text) or text[at] == "]":
            return
        line, counted = line + text.count("\n", counted, at), at
        value, at = _DECODER.raw_decode(text, at)
        yield line, value


class _WrongError(Exception):
    def __init__(self, column: str, given: Any, expected: str) -> None:
        self.column, self.text = column, f"{json.dumps(given)} is not {expected}"


def _whole(record: dict[str, Any], name: str) -> int:
    value = record[name]
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise _WrongError(name, value, f"a whole number from 0 to {_LARGEST}")
    return value


def _longs() -> array[int]:
    return array("q")


@dataclass
class _Rows:
    """The records of a file as columns of numbers; requests and phases as codes into their names. listed: whether a
    record has a list of experts, else it has one."""

    columns: Columns
    listed: bool
    optional: tuple[str, ...]
    lines: array[int] = field(default_factory=_longs)
    values: dict[str, array[int]] = field(default_factory=dict)
    lengths: array[int] = field(default_factory=_longs)
    expert: array[int] = field(default_factory=_longs)
    weight: array[float] = field(default_factory=lambda: array("f"))
    requests: dict[Any, int] = field(default_factory=dict)
    phases: dict[Any, int] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, source: Source, record: dict[str, Any], line: int) -> _Rows:
        """No rows yet, with the fields of the first record."""
        try:
            columns = find_columns(record, source.given.columns)
        except ValueError as error:
            raise source.error(f"{error}; correct --columns", line) from None
        if not columns.is_rows:
            kind = "experts" if columns.layer else "layer"
            text = f"no field says {kind} (there are {', '.join(record) or 'none'})"
            raise source.error(f"{text}; name it with --columns {kind}=NAME", line)
        single = not columns.counted and type(record[columns.experts[0]]) is int
        names = (columns.position, columns.layer, columns.step, columns.token_id, columns.rank if single else None)
        rows = cls(columns, not single, tuple(name for name in (columns.step, columns.token_id) if name))
        rows.values = {name: _longs() for name in names if name is not None}
        rows.known = columns.used
        rows.values |= {name: _longs() for name in (columns.request, columns.phase) if name is not None}
        return rows

    def add(self, line: int, record: dict[str, Any]) -> None:
        """Append one record; KeyError for a missing field, _WrongError for a wrong one."""
        if not record.keys() <= self.known | self.unknown:
            self._add_late(record)
        columns = self.columns
        for name, column in self.values.items():
            if name == columns.request:
                if type(record[name]) not in (int, str):
                    raise _WrongError(name, record[name], "a number or text")
                column.append(self.requests.setdefault(record[name], len(self.requests)))
            elif name == columns.phase:
                if type(record[name]) is not str:
                    raise _WrongError(name, record[name], "'prefill' or 'decode'")
                column.append(self.phases.setdefault(record[name], len(self.phases)))
            else:
                column.append(_whole(record, name))
        if columns.counted:
            self._add_slots([record[name] for name in columns.experts], self._gates(record))
        elif self.listed:
            self._add_slots(record[columns.experts[0]], self._gates(record))
        else:
            self.lengths.append(1)
            self.expert.append(_whole(record, columns.experts[0]))
            self._add_weights(record, 1)
        self.lines.append(line)
        if not record.keys() <= self.known:
            self.unknown.update(record.keys() - self.known)

    def _add_late(self, record: dict[str, Any]) -> None:
        """Look at the fields of a record that the ones before it lack; some may have weights, all or none the rest."""
        late = find_columns(record)
        for kind in _ALL_OR_NONE:
            name = getattr(late, kind)
            if name is not None and name not in self.known and getattr(self.columns, kind) is None:
                raise _WrongError(name, record[name], "in the records before this one; give it in all or in none")
        if not self.columns.weights and self.lines:
            self.columns = replace(self.columns, weights=late.weights)
            self.known = self.columns.used

    def _gates(self, record: dict[str, Any]) -> Any:
        """The weights of a record, None if there are none."""
        names = self.columns.weights
        if self.columns.counted and len(names) > 1:
            return [record[name] for name in names]
        return record.get(names[0]) if names else None

    def _add_slots(self, experts: Any, weights: Any) -> None:
        name = self.columns.experts[0]
        if experts is None:
            self.lengths.append(0)
            return
        try:
            ids = array("q", [-1 if expert is None else expert for expert in experts])
            if bool in map(type, experts):
                raise TypeError
        except (TypeError, OverflowError):
            raise _WrongError(name, experts, "a list of whole numbers and null") from None
        if not ids:
            raise _WrongError(name, experts, "a list of at least one expert (null if the token was not routed here)")
        self.lengths.append(len(ids))
        self.expert.extend(ids)
        self._add_weights(weights, len(ids))

    def _add_weights(self, weights: Any, count: int) -> None:
        if isinstance(weights, dict):  # a record of one expert
            one = weights.get(self.columns.weights[0]) if self.columns.weights else None
            weights = None if one is None else [one]
        if weights is None:
            self.weight.extend(_UNKNOWN * count)
            return
        name = self.columns.weights[0] if self.columns.weights else "weights"
        try:
            values = array("f", [float("nan") if weight is None else weight for weight in weights])
            if bool in map(type, weights):
                raise TypeError
        except (TypeError, OverflowError):
            raise _WrongError(name, weights, "a list of numbers and null") from None
        if len(values) != count:
            raise _WrongError(name, weights, f"a list of {count} numbers, one for each expert")
        self.weight.extend(values)

    def rows(self) -> RowTable:
        """One entry per record."""
        columns = self.columns

        def named(name: str | None, names: dict[Any, int]) -> Any:
            return None if name is None else (list(names), self._column(name))

        layer, position, step, token_id, rank = (
            None if name not in self.values else self._column(name)
            for name in (columns.layer, columns.position, columns.step, columns.token_id, columns.rank)
        )
        assert layer is not None
        request, phase = named(columns.request, self.requests), named(columns.phase, self.phases)
        return RowTable(layer, position, request, phase, step, token_id, rank)

    def slots(self, source: Source) -> Slots:
        """One entry per expert, in the order of the lists, or of ranks."""
        lengths = np.array(self.lengths, np.int64)
        record = np.repeat(np.arange(lengths.size), lengths)
        place = np.arange(record.size) - (np.cumsum(lengths) - lengths)[record] if self.listed else None
        if not self.listed and self.columns.rank in self.values:
            place = self._column(str(self.columns.rank))
            if place.size and place.min() == 1:
                place = place - 1
                source.note(f"'{self.columns.rank}' counts from 1")
        weight = np.frombuffer(self.weight, np.float32) if len(self.weight) else np.zeros(0, np.float32)
        return Slots(record, np.array(self.expert, np.int64), place, scores(source, weight, self.columns))

    def _column(self, name: str) -> npt.NDArray[np.int64]:
        return np.array(self.values[name], np.int64)
