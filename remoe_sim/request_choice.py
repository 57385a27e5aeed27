"""Which requests an import keeps, by what the input says of each: conditions such as `has_repetition=false`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from remoe_sim.import_source import Source
from remoe_sim.joining import in_one
from remoe_sim.trace import Trace

MOST_NAMED = 12  # values that an error lists


@dataclass(frozen=True)
class Condition:
    """`name=value`, or `name!=value` where `equal` is false; values as JSON writes them, texts without quotes."""

    name: str
    equal: bool
    value: str

    def __str__(self) -> str:
        return f"{self.name}{'=' if self.equal else '!='}{self.value}"

    def holds(self, facts: dict[str, Any]) -> bool:
        """Whether a request of which the input says this is kept."""
        return (_text(facts.get(self.name)) == self.value) == self.equal


def conditions(given: str | Iterable[str] | None) -> list[Condition]:
    """Conditions as they are typed; ValueError for one that cannot be read."""
    found = []
    for text in [given] if isinstance(given, str) else given or ():
        match = re.fullmatch(r"([^=!]+)(!?=)(.*)", text, re.DOTALL)
        if match is None:
            raise ValueError(f"where '{text}' is no condition; write NAME=VALUE or NAME!=VALUE: has_repetition=false")
        found.append(Condition(match[1].strip(), match[2] == "=", match[3].strip()))
    return found


def choose(read: Sequence[tuple[Source, Trace]], where: Sequence[Condition]) -> list[tuple[Source, Trace]]:
    """The inputs with the requests that meet all conditions, without inputs of which nothing is left.

    Requests keep their numbers, rows their steps. Raises TraceError where an input says nothing that a condition asks
    for, or no request is left.
    """
    kept: list[tuple[Source, Trace]] = []
    requests = 0
    for source, trace in read:
        chosen = [
            number for number, facts in enumerate(_facts(source, where)) if all(one.holds(facts) for one in where)
        ]
        rows = np.flatnonzero(np.isin(trace.request, chosen))
        if rows.size:
            requests += np.unique(trace.request[rows]).size
            kept.append((source, _only(trace, rows)))
    if not kept:
        raise read[0][0].error(f"no request is left where {_and(where)}; {_values(read, where)}")
    source, first = kept[0]
    source.note(f"kept are the {requests} of {sum(trace.requests for _, trace in read)} requests where {_and(where)}")
    return [(source, replace(first, notes=in_one(source.notes, source.guessed))), *kept[1:]]


def _facts(source: Source, where: Sequence[Condition]) -> list[dict[str, Any]]:
    if source.requests is None:
        raise source.error("it says nothing of its requests to choose them by; leave --where out")
    names = dict.fromkeys(name for facts in source.requests for name in facts)
    for condition in where:
        if condition.name not in names:
            raise source.error(
                f"it does not say '{condition.name}' of its requests; --where may ask for {', '.join(names)}"
            )
    return source.requests


def _only(trace: Trace, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Trace:
    from remoe_sim.scheduling import Reordered  # which loads the compiler

    columns = {name: getattr(trace, name)[rows] for name in ("request", "position", "step", "phase")}
    token_id = None if trace.token_id is None else trace.token_id[rows]
    return replace(trace, **columns, token_id=token_id, source=Reordered(trace, rows))


def _values(read: Sequence[tuple[Source, Trace]], where: Sequence[Condition]) -> str:
    """What the inputs say instead, of the first name that is asked for."""
    name = where[0].name
    said = sorted({_text(facts.get(name)) for source, _ in read for facts in source.requests or ()})
    more = f" and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else ""
    return f"{name} is {', '.join(said[:MOST_NAMED])}{more}"


def _and(where: Sequence[Condition]) -> str:
    return " and ".join(map(str, where))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
