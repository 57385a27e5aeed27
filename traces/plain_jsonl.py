"""Plain JSON Lines: one object per line, about one token at one layer.

    {"request": 0, "position": 0, "phase": "prefill", "layer": 0, "experts": [17, 3]}
    {"request": 0, "position": 1, "phase": "decode", "layer": 0, "experts": [17, null], "weights": [0.7, 0.3]}
    {"request": 0, "position": 1, "phase": "decode", "layer": 1, "experts": null}

experts: largest gate weight first; null (or a negative id) in the list is a slot that was not computed, null for the
list a token that was not routed at the layer (leaving the line out says the same). A request is a number or any text;
position counts from 0; layer is the model's own number. Optional: weights, token_id, and step, the forward pass;
without step each decode token is a pass of its own and the prompt of a request is one. Empty lines are skipped.
"""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.assemble import Records, Slots, assemble
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.records import assume_steps, phase_codes, request_ids
from remoe_sim.formats.source import Source
from remoe_sim.trace import Trace
from remoe_sim.util.errors import TraceError

_REQUIRED = ("request", "position", "phase", "layer", "experts")
_OPTIONAL = ("weights", "step", "token_id")
_KNOWN = {*_REQUIRED, *_OPTIONAL}
_LARGEST = 2**31 - 1
_UNKNOWN = array("f", [float("nan")])


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON, and null stands for a weight that is not known")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


class PlainJsonLines(TraceFormat):
    name = "jsonl"
    summary = "plain JSON Lines: objects with request, position, phase, layer and a list of experts"
    layout = __doc__ or ""
    shape = "json"
    words = tuple(f'"{name}"' for name in _REQUIRED)

    def recognises(self, source: Source) -> bool:
        first = next((line for line in source.head_text.splitlines() if line.strip()), "")
        if not first.lstrip().startswith("{"):
            return False
        try:
            record = json.loads(first)
        except (ValueError, RecursionError):
            return False
        return "layer" in record and "experts" in record and ("request" in record or "position" in record)

    def read(self, source: Source) -> Trace:
        rows = _Rows()
        for line, text in source.lines():
            if text.strip():
                self._add(source, rows, line, text)
        if not rows.lines:
            raise source.error("there is no record in it; record it again")
        if rows.unknown:
            source.note(f"fields not imported: {', '.join(sorted(rows.unknown))}")
        records = rows.records(source)
        assume_steps(source, records)
        slots = rows.slots()
        experts = source.experts(int(slots.expert.max(initial=-1)))
        return assemble(source, records, slots, experts=experts, column="experts", padded=False)

    def _add(self, source: Source, rows: _Rows, line: int, text: str) -> None:
        try:
            record = _DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            why = f"not valid JSON ({error}); the line is truncated or broken, correct or remove it"
            raise source.error(why, line) from None
        if not isinstance(record, dict):
            raise source.error('not a JSON object; each line is one, such as {"request": 0, ...}', line)
        try:
            rows.add(line, record)
        except KeyError as error:
            given = ", ".join(record) or "nothing"
            why = f"missing (there is {given}); each object has {', '.join(_REQUIRED)}"
            raise source.error(why, line, str(error.args[0])) from None
        except _WrongError as wrong:
            raise source.error(f"{wrong.text}; correct it", line, wrong.column) from None


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
    """The records of a file as columns of numbers; requests and phases as codes into their names."""

    lines: array[int] = field(default_factory=_longs)
    request: array[int] = field(default_factory=_longs)
    position: array[int] = field(default_factory=_longs)
    phase: array[int] = field(default_factory=_longs)
    layer: array[int] = field(default_factory=_longs)
    step: array[int] = field(default_factory=_longs)
    token_id: array[int] = field(default_factory=_longs)
    lengths: array[int] = field(default_factory=_longs)
    expert: array[int] = field(default_factory=_longs)
    weight: array[float] = field(default_factory=lambda: array("f"))
    requests: dict[Any, int] = field(default_factory=dict)
    phases: dict[Any, int] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)

    def add(self, line: int, record: dict[str, Any]) -> None:
        """Append one record; KeyError for a missing field, _WrongError for a wrong one."""
        request, phase, experts = record["request"], record["phase"], record["experts"]
        if type(request) not in (int, str):
            raise _WrongError("request", request, "a number or text")
        if type(phase) is not str:
            raise _WrongError("phase", phase, "'prefill' or 'decode'")
        self.position.append(_whole(record, "position"))
        self.layer.append(_whole(record, "layer"))
        self._add_slots(record, experts)
        for name in ("step", "token_id"):
            column = getattr(self, name)
            if name in record:
                if len(column) != len(self.lines):
                    raise _WrongError(name, record[name], "in the records before this one; give it in all or in none")
                column.append(_whole(record, name))
            elif len(column):
                raise KeyError(name)
        self.lines.append(line)
        self.request.append(self.requests.setdefault(request, len(self.requests)))
        self.phase.append(self.phases.setdefault(phase, len(self.phases)))
        if not record.keys() <= _KNOWN:
            self.unknown.update(record.keys() - _KNOWN)

    def _add_slots(self, record: dict[str, Any], experts: Any) -> None:
        if experts is None:
            self.lengths.append(0)
            return
        try:
            ids = array("q", [-1 if expert is None else expert for expert in experts])
            if bool in map(type, experts):
                raise TypeError
        except (TypeError, OverflowError):
            raise _WrongError("experts", experts, "a list of whole numbers and null") from None
        if not ids:
            raise _WrongError(
                "experts", experts, "a list of at least one expert (null if the token was not routed here)"
            )
        self.lengths.append(len(ids))
        self.expert.extend(ids)
        weights = record.get("weights")
        if weights is None:
            self.weight.extend(_UNKNOWN * len(ids))
            return
        try:
            values = array("f", [float("nan") if weight is None else weight for weight in weights])
            if bool in map(type, weights):
                raise TypeError
        except (TypeError, OverflowError):
            raise _WrongError("weights", weights, "a list of numbers and null") from None
        if len(values) != len(ids):
            raise _WrongError("weights", weights, f"a list of {len(ids)} numbers, one for each expert")
        self.weight.extend(values)

    def records(self, source: Source) -> Records:
        """One entry per object; TraceError for a phase that is none."""
        requests = request_ids(source, list(self.requests))[self._column("request")]
        phases = phase_codes(list(self.phases), self._column("phase"), self._phase_error(source))
        step, token_id = (self._column(name) if len(getattr(self, name)) else None for name in ("step", "token_id"))
        position, layer, line = self._column("position"), self._column("layer"), self.lines.__getitem__
        called = {"slot": "experts", "weight": "weights"}
        return Records(requests, position, phases, layer, line, step, token_id, called)

    def slots(self) -> Slots:
        """One entry per expert, in the order of the lists."""
        lengths = self._column("lengths")
        record = np.repeat(np.arange(lengths.size), lengths)
        place = np.arange(record.size) - (np.cumsum(lengths) - lengths)[record]
        weight = np.frombuffer(self.weight, np.float32) if len(self.weight) else np.zeros(0, np.float32)
        return Slots(record, self._column("expert"), place, weight)

    def _column(self, name: str) -> npt.NDArray[np.int64]:
        return np.array(getattr(self, name), np.int64)

    def _phase_error(self, source: Source) -> Any:
        def error(record: int, text: str) -> TraceError:
            return source.error(text, self.lines[record], "phase")

        return error
