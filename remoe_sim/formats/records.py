"""Records of routing: rows of decisions, forward passes, and the assumptions about plain files."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.assemble import Records, Slots, assemble
from remoe_sim.formats.json_files import Entry, shown
from remoe_sim.trace.trace import DECODE, MOST_EXPERTS, PHASES, PREFILL

if TYPE_CHECKING:
    from remoe_sim.formats.source import Source
    from remoe_sim.trace.trace import Trace
    from remoe_sim.util.arrays import Ints
    from remoe_sim.util.errors import TraceError


class DecisionRows:
    """Experts and weights of decisions in the order of the file, with the line of each."""

    def __init__(self) -> None:
        self.lines = array("q")
        self._lengths, self._expert, self._weight = array("q"), array("q"), array("f")

    def __len__(self) -> int:
        return len(self.lines)

    def line(self, row: int) -> int:
        """The line of a decision."""
        return self.lines[row]

    def add(self, line: int, experts: Sequence[int], weights: Sequence[float] | None = None) -> None:
        """Append a decision; without weights they are unknown."""
        self.lines.append(line)
        self._lengths.append(len(experts))
        self._expert.extend(experts)
        self._weight.extend([float("nan")] * len(experts) if weights is None else weights)

    def add_entry(self, entry: Entry, experts: str, weights: str) -> None:
        """Append the lists in two fields of an object; the one of weights may be missing."""
        ids = entry.list_of(experts, int, "expert ids")
        if not ids or min(ids) < 0 or max(ids) >= MOST_EXPERTS:
            raise entry.error(f"{shown(ids)} is not a list of expert ids; correct it", experts)
        gates = entry.fields.get(weights)
        if gates is not None and (
            not isinstance(gates, list)
            or len(gates) != len(ids)
            or not all(type(one) in (int, float) and 0 <= one < 1e38 for one in gates)
        ):
            what = f"a list of {len(ids)} numbers that can be gate weights, 0 or more"
            raise entry.error(f"{shown(gates)} is not {what}; correct it", weights)
        self.add(entry.line or 1, ids, gates)

    def slots(self) -> Slots:
        """One entry per expert."""
        lengths = np.array(self._lengths, np.int64)
        record = np.repeat(np.arange(lengths.size), lengths)
        return Slots(record, self.experts(), None, np.array(self._weight, np.float32))

    def experts(self) -> npt.NDArray[np.int64]:
        """All experts in one dimension."""
        return np.array(self._expert, np.int64)


ASSUMED_STEPS = (
    "forward passes are not recorded: each decode token is a step of its own, the prompt of a request is one prefill "
    "step, and requests follow one another"
)


def request_ids(source: Source, names: Sequence[Any]) -> npt.NDArray[np.int64]:
    """A number for each name of a request: its own if all are numbers, else 0, 1, ... as they appear (noted)."""
    stripped = [str(name).strip() for name in names]
    distinct = {name: number for number, name in enumerate(dict.fromkeys(stripped))}
    if all(name.isdecimal() and len(name) < 19 and str(int(name)) == name for name in distinct):
        distinct = {name: int(name) for name in distinct}
    else:
        source.note("requests are named by text and numbered in the order in which they appear")
    return np.array([distinct[name] for name in stripped], np.int64)


_PHASE_WORDS = dict.fromkeys(("prefill", "prompt", "0", "pp", "context"), PREFILL)
_PHASE_WORDS |= dict.fromkeys(("decode", "generated", "generation", "generate", "1", "tg"), DECODE)


def phase_codes(words: Sequence[Any], codes: Ints, error: Callable[[int, str], TraceError]) -> npt.NDArray[np.uint8]:
    """PREFILL or DECODE for each row, from codes[rows] into `words`; raises error(row, why) for other words."""
    table = np.array([_PHASE_WORDS.get(str(word).strip().lower(), 255) for word in words], np.uint8)
    phases = table[codes]
    wrong = np.flatnonzero(phases == 255)
    if wrong.size:
        given = words[int(codes[wrong[0]])]
        raise error(int(wrong[0]), f"'{given}', expected {' or '.join(PHASES)}; correct it")
    return phases


def runs_of(source: Source, position: Ints, layer: Ints) -> npt.NDArray[np.int64]:
    """The run that each row is of, where a log is appended to: another begins where neither position nor layer rises,
    if a token is there twice without that."""
    same = np.append(False, (position[1:] == position[:-1]) & (layer[1:] == layer[:-1]))
    key = (position * (int(layer.max()) + 1) + layer)[~same]
    if np.unique(key).size == key.size:
        return np.zeros(position.size, np.int64)
    again = np.append(False, (position[1:] <= position[:-1]) & (layer[1:] <= layer[:-1])) & ~same
    runs: npt.NDArray[np.int64] = np.cumsum(again)
    source.note(f"{int(runs[-1]) + 1} runs are appended to one another, where positions start again: each is a request")
    return runs


def assume_steps(source: Source, records: Records) -> None:
    """Notes where the steps come from."""
    source.note(ASSUMED_STEPS if records.step is None else "forward passes as the column 'step' gives them")


def records_of_passes(
    source: Source,
    layer: Ints,
    begins: npt.NDArray[np.bool_],
    line: Callable[[int], int],
    phase: Ints | None = None,
) -> Records:
    """Records of decisions in the order of the file: layer[rows], begins[rows] true where a batch begins (the tokens
    of one pass at one layer), phase[rows] if it is recorded.

    A pass begins where the layer number does not rise. Where it has fewer tokens at its last layers, those are its last
    tokens: llama.cpp computes the end of a prompt only as far as it is needed. Without phases a pass of several
    tokens is prefill. A prefill pass after a decode pass begins a request. Each pass is a step.
    Raises TraceError with the line of a batch that has more tokens than the layer before it.
    """
    first = np.flatnonzero(begins)
    sizes = np.diff(np.append(first, layer.size))
    at = layer[first]
    new_pass = np.ones(first.size, bool)
    new_pass[1:] = at[1:] <= at[:-1]
    if phase is not None:
        new_pass[1:] |= phase[first][1:] != phase[first][:-1]
    more = np.flatnonzero(~new_pass[1:] & (sizes[1:] > sizes[:-1])) + 1
    if more.size:
        text = f"{sizes[more[0]]} tokens at layer {at[more[0]]}, but the layer before it has {sizes[more[0] - 1]}"
        raise source.error(f"{text}; rows are missing, record it again", line(int(first[more[0]])))
    of_batch = np.cumsum(new_pass) - 1
    tokens = sizes[new_pass]
    if phase is None:
        phases = np.where(tokens > 1, PREFILL, DECODE)
        source.note("passes of several tokens are taken as prefill, those of one token as decode")
    else:
        phases = phase[first][new_pass]
    begin_request = (phases == PREFILL) & (np.append(DECODE, phases[:-1]) == DECODE)
    begin_request[0] = True
    request = np.cumsum(begin_request) - 1
    before = np.cumsum(tokens) - tokens
    start = before - before[begin_request][request]
    source.note("forward passes and requests are found by the order of rows")
    index = np.arange(layer.size) - np.repeat(first, sizes) + np.repeat(tokens[of_batch] - sizes, sizes)
    pass_of: Any = np.repeat(of_batch, sizes)
    return Records(request[pass_of], start[pass_of] + index, phases[pass_of], layer, line, pass_of)


def trace_of_activations(
    source: Source,
    layer: Ints,
    expert: Ints,
    k: int,
    line: Callable[[int], int],
    fault: Callable[[int, str], TraceError],
) -> Trace:
    """The trace of activations: a forward pass begins where the layer number does not rise.

    line: the line of an activation; fault: makes the error of one. Raises what it makes where not k activations of a
    layer follow one another, or a multiple of k.
    """
    begins = np.append(True, layer[1:] != layer[:-1])
    first = np.flatnonzero(begins)
    sizes = np.diff(np.append(first, layer.size))
    broken = np.flatnonzero(sizes % k)
    if broken.size:
        text = f"{sizes[broken[0]]} rows in sequence are not a multiple of {k} experts per token"
        at_end = broken[0] == first.size - 1 and broken.size == 1 and first.size > 1
        raise fault(int(first[broken[0]]), f"{text}; {'the file ends too early' if at_end else 'correct --top-k'}")
    if first.size == 1:
        begins[::k] = True
        source.note("there is one layer only, so each token is taken as a forward pass of its own")
    records = records_of_passes(source, layer[::k], begins[::k], lambda record: line(record * k))
    slots = Slots(np.repeat(np.arange(layer.size // k), k), expert)
    return assemble(source, records, slots, experts=source.experts(int(expert.max())), top_k=k)
