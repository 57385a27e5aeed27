"""Join several inputs into one trace, and choose the requests that it keeps."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.source import Source
from remoe_sim.trace.trace import Decisions, Model, Trace, TraceLike

Read = Sequence[tuple[Source, Trace]]


def join(read: Read) -> Trace:
    """One trace of several inputs, in their order; TraceError when they are of different models."""
    traces = [trace for _, trace in read]
    model, assumed = _common_model(read)
    notes = [note for source, _ in read for note in source.notes] + assumed
    notes.append("several inputs joined: requests renumbered, one input after the other")
    token_ids = [trace.token_id for trace in traces if trace.token_id is not None]
    if 0 < len(token_ids) < len(traces):
        notes.append("token ids left out because some inputs have none")
    if len({trace.source.weights(0) is None for trace in traces}) > 1:
        notes.append("weights left out because some inputs have none")
    return Trace(
        request=_requests(traces),
        position=np.concatenate([trace.position for trace in traces]),
        step=_steps(traces),
        phase=np.concatenate([trace.phase for trace in traces]),
        token_id=np.concatenate(token_ids) if len(token_ids) == len(traces) else None,
        layer_numbers=traces[0].layer_numbers,
        model=model,
        source=Joined(traces, all(trace.source.resident for trace in traces)),
        origin=_origin(traces),
        notes=in_one(notes, None if any(source.guessed is None for source, _ in read) else max(model.experts)),
        path=f"{traces[0].path} and {len(traces) - 1} more",
    )


def concat(traces: Iterable[TraceLike]) -> Trace:
    """Put traces of one model below one another: requests are numbered again, steps go on.

    traces: traces, or paths of trace files; those without tokens are left out. What only some state of the model
    (sizes, a name) is taken for all. Raises TraceError naming the trace that is of another model, ValueError where
    there is no trace.
    """
    from remoe_sim.trace.reader import as_trace

    if isinstance(traces, Trace | str | os.PathLike):
        raise ValueError("concat takes several traces; give them in a list, such as concat([first, second])")
    listed = [as_trace(one) for one in traces]
    if not listed:
        raise ValueError("there is nothing to put together; give at least one trace")
    there = [
        replace(trace, path=trace.path or f"trace {number} in memory")
        for number, trace in enumerate(listed, 1)
        if trace.tokens
    ]
    if len(there) < 2:
        return listed[0] if not there else listed[[trace.tokens > 0 for trace in listed].index(True)]
    read = [(Source(Path(trace.path), notes=[trace.notes] if trace.notes else []), trace) for trace in there]
    return replace(join(read), path="")


def in_one(notes: Sequence[str], guessed: int | None) -> str:
    """What was assumed, as the text of `Trace.notes`; `guessed` is the number of experts if it was assumed."""
    about = f"the number of experts is taken as {guessed}, the largest id + 1 (--experts N sets it)"
    return "; ".join(dict.fromkeys([*notes, *([] if guessed is None else [about])]))


@dataclass
class Joined:
    """The layers of several traces, one below the other; a layer is put together when it is asked for."""

    traces: Sequence[Trace]
    resident: bool

    @property
    def most_ahead(self) -> int:
        return min(trace.most_ahead for trace in self.traces)

    def decisions(self, index: int) -> Decisions:
        return _below(trace.decisions(index) for trace in self.traces)

    def ahead(self, index: int, distance: int) -> Decisions | None:
        parts = [trace.ahead(index, distance) for trace in self.traces]
        there = [part for part in parts if part is not None]
        return _below(there) if len(there) == len(parts) else None

    def weights(self, index: int) -> npt.NDArray[np.float32] | None:
        parts = [trace.source.weights(index) for trace in self.traces]
        there = [part for part in parts if part is not None]
        return np.concatenate(there) if len(there) == len(parts) else None

    def probs(self, index: int) -> npt.NDArray[np.float16] | None:
        parts = [trace.source.probs(index) for trace in self.traces]
        there = [part for part in parts if part is not None]
        return np.concatenate(there) if len(there) == len(parts) else None


def _below(each: Iterable[Decisions]) -> Decisions:
    """Decisions one below the other."""
    parts = list(each)
    return Decisions(
        np.concatenate([part.experts for part in parts]),
        _masks([part.valid for part in parts], [part.experts.shape for part in parts]),
        _masks([part.routed for part in parts], [part.experts.shape[:1] for part in parts]),
    )


def _masks(
    masks: list[npt.NDArray[np.bool_] | None], shapes: Sequence[tuple[int, ...]]
) -> npt.NDArray[np.bool_] | None:
    if all(mask is None for mask in masks):
        return None
    return np.concatenate(
        [np.ones(shape, np.bool_) if mask is None else mask for mask, shape in zip(masks, shapes, strict=True)]
    )


def _requests(traces: list[Trace]) -> npt.NDArray[np.int32]:
    """Requests numbered from 0 in order of appearance."""
    parts, start = [], 0
    for trace in traces:
        _, first, inverse = np.unique(trace.request, return_index=True, return_inverse=True)
        parts.append((np.argsort(np.argsort(first))[inverse] + start).astype(np.int32))
        start += first.size
    return np.concatenate(parts)


def _steps(traces: list[Trace]) -> npt.NDArray[np.int32]:
    """The steps of each trace, shifted behind those of the one before."""
    parts, start = [], 0
    for trace in traces:
        shifted = trace.step.astype(np.int64) - int(trace.step[0]) + start
        start = int(shifted[-1]) + 1
        parts.append(shifted)
    if start > np.iinfo(np.int32).max:
        raise traces[-1].error("the joined trace would have more steps than fit; import fewer inputs at once")
    return np.concatenate(parts).astype(np.int32)


def _common_model(read: Read) -> tuple[Model, list[str]]:
    """The model that all inputs are of, and what had to be assumed."""
    (_, first), *others = read
    for _, trace in others:
        _agree(trace, "MoE layers", trace.layer_numbers, first.layer_numbers, "import them apart")
    model, notes = replace(first.model, experts=_experts(read)), []
    for _, trace in others:
        _agree(trace, "experts per token", trace.model.top_k, model.top_k, "import them apart")
        for name in ("name", "layers", "expert_bytes", "dense_bytes", "quant"):
            mine, theirs = getattr(model, name), getattr(trace.model, name)
            if (mine is None) != (theirs is None):
                model = replace(model, **{name: theirs if mine is None else mine})
                notes.append(f"{name} of all inputs taken from those that state it")
            remedy = "import them apart" if name == "layers" else f"set it with --{name.replace('_', '-')}"
            if mine is not None and theirs is not None:
                _agree(trace, name, theirs, mine, remedy)
    return model, notes


def _experts(read: Read) -> tuple[int, ...]:
    """Experts per layer: what inputs state, and they must agree; the largest assumption when none does."""
    stated = [trace for source, trace in read if source.guessed is None]
    largest = tuple(max(counts) for counts in zip(*(trace.model.experts for _, trace in read), strict=True))
    if not stated:
        return largest
    for trace in stated[1:]:
        _agree(trace, "numbers of experts", trace.model.experts, stated[0].model.experts, "set it with --experts")
    if max(largest) > max(stated[0].model.experts):
        text = (
            f"it states {_short(stated[0].model.experts)} experts, but another input has ids up to {max(largest) - 1}"
        )
        raise stated[0].error(f"{text}, and a trace is of one model; set the number with --experts")
    return stated[0].model.experts


def _agree(trace: Trace, what: str, theirs: Any, mine: Any, remedy: str) -> None:
    if theirs != mine:
        differ = f"its {what} ({_short(theirs)}) differ from the first input's ({_short(mine)})"
        raise trace.error(f"{differ}, but a trace is of one model; {remedy}")


def _short(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    values = sorted(set(value))
    return str(values[0]) if len(values) == 1 else f"{len(value)} of {values[0]} to {values[-1]}"


def _origin(traces: list[Trace]) -> dict[str, Any]:
    """`format`, `path` and `sha256` of every input, as lists; one format for all is a plain name."""
    origin: dict[str, Any] = {key: [trace.origin.get(key) for trace in traces] for key in ("format", "path", "sha256")}
    if len(set(origin["format"])) == 1:
        origin["format"] = origin["format"][0]
    return origin


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
    from remoe_sim.trace.schedule import Reordered  # which loads the compiler

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
