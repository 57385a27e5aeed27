"""Rows of decisions, or of single experts, as other programs write them: what is not recorded is assumed and noted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.formats.assemble import Records
from remoe_sim.formats.records import assume_steps, phase_codes, records_of_passes, request_ids
from remoe_sim.trace.trace import DECODE, PHASES, PREFILL

if TYPE_CHECKING:
    from remoe_sim.formats.columns import Columns
    from remoe_sim.formats.source import Source
    from remoe_sim.util.arrays import Array, Flags, Ints
    from remoe_sim.util.errors import TraceError

Named = tuple[Sequence[Any], "Ints"]  # names, and for each row which of them it has


@dataclass(frozen=True)
class RowTable:
    """The columns of a table, one entry per row; None for what is not recorded. rank: the slot, where a row is one
    expert."""

    layer: Ints
    position: Ints | None = None
    request: Named | None = None
    phase: Named | None = None
    step: Ints | None = None
    token_id: Ints | None = None
    rank: Ints | None = None


def records_of_rows(
    source: Source, rows: RowTable, columns: Columns, line: Callable[[int], int], single: bool
) -> Records:
    """The records of rows. single: whether a row is one expert, so that several follow one another for a decision.

    Without requests there is one, and another where positions start again; without phases `--phase` says it, else all
    is decode; without positions tokens are found by the order of layers.
    """

    def fault(row: int, text: str) -> TraceError:
        return source.error(text, line(row), columns.phase)

    phase = None if rows.phase is None else phase_codes(*rows.phase, fault)
    if rows.position is None:
        return _by_layers(source, rows, phase, line, single)
    if phase is None:
        given = source.given.phase
        assumed = DECODE if given is None else given
        why = "because the phase is not recorded" if given is None else "as --phase says"
        source.note(f"all tokens are taken as {PHASES[assumed]}, {why}")
        phase = np.full(rows.layer.size, assumed, np.uint8)
    position: Ints = rows.position.astype(np.int64)
    if rows.request is None and rows.phase is None and not single and -1 in position and (position >= 0).any():
        position, known = _prompt_rows(source, position, rows.layer)
        phase = known.astype(np.uint8)
    if rows.request is None:
        request, position = _requests(source, position, rows.layer, phase if rows.phase is not None else None)
    else:
        request = request_ids(source, rows.request[0])[rows.request[1]]
    step = _step(source, rows.step, columns.step, request)
    records = Records(request, position, phase, rows.layer, line, step, rows.token_id, columns.called)
    assume_steps(source, records)
    return records


def _prompt_rows(source: Source, position: Ints, layer: Ints) -> tuple[Ints, Ints]:
    """Positions and phases where the rows of the prompt all have -1: they count in the order of the file, and what was
    generated follows."""
    prompt = np.flatnonzero(position == -1)
    order = prompt[np.argsort(layer[prompt], kind="stable")]
    _, first, counts = np.unique(layer[order], return_index=True, return_counts=True)
    found: Ints = position.copy()
    found[order] = np.arange(order.size) - np.repeat(first, counts)
    length, begin = int(counts.max()), int(position[position >= 0].min())
    found[position >= 0] += max(length - begin, 0)
    source.note(f"rows at position -1 are the prompt of {length} tokens, in the order of the file")
    return found, np.where(position == -1, PREFILL, DECODE)


def scores(source: Source, weights: Array | None, columns: Columns) -> Array | None:
    """The numbers next to experts, None if they cannot be gate weights: other scores may be negative."""
    if weights is None or not columns.weights or columns.weights[0] in ("weight", "weights", "w0", "weight_0"):
        return weights
    with np.errstate(invalid="ignore"):
        wrong = (weights < 0) | np.isinf(weights)
    if wrong.any():
        source.note(f"'{columns.weights[0]}' is not imported, because it holds numbers that cannot be gate weights")
        return None
    return weights


def _requests(source: Source, position: Ints, layer: Ints, phase: Ints | None) -> tuple[Ints, Ints]:
    """The request and the position of each row where requests are not recorded."""
    same = np.append(False, (position[1:] == position[:-1]) & (layer[1:] == layer[:-1]))
    first = np.flatnonzero(~same)
    of, at = np.cumsum(~same) - 1, position[first]
    key = at * (int(layer.max()) + 1) + layer[first]
    if np.unique(key).size == key.size:
        return _one_or_by_phase(source, position, phase)
    again = np.append(False, (at[1:] <= at[:-1]) & (layer[first][1:] <= layer[first][:-1]))
    goes_on = np.zeros(first.size, bool)
    if phase is not None:  # positions of what was generated may count from 0, too
        goes_on[1:] = again[1:] & (phase[first][1:] == DECODE) & (phase[first][:-1] == PREFILL)
    request = np.cumsum(again & ~goes_on)[of]
    if goes_on.any():
        assert phase is not None
        source.note("positions of generated tokens start again, and are counted on from the prompt")
        prompts = np.zeros(int(request.max()) + 1, np.int64)
        np.maximum.at(prompts, request[phase == PREFILL], position[phase == PREFILL] + 1)
        position = np.where(phase == DECODE, position + prompts[request], position)
    count = int(request.max()) + 1
    source.note(f"requests are not recorded: {count} are told apart by positions that start again")
    return request, position


def _one_or_by_phase(source: Source, position: Ints, phase: Ints | None) -> tuple[Ints, Ints]:
    """One request, or several whose prompts follow what the ones before them generated."""
    if phase is None or position.min() < 0:
        source.note("all tokens are of one request, because requests are not recorded")
        return np.zeros(position.size, np.int64), position
    places, first, of = np.unique(position, return_index=True, return_inverse=True)
    begins = np.append(False, (phase[first][1:] == PREFILL) & (phase[first][:-1] == DECODE))
    if not begins.any():
        source.note("all tokens are of one request, because requests are not recorded")
        return np.zeros(position.size, np.int64), position
    source.note(f"requests are not recorded: {begins.sum() + 1} are told apart by prompts that follow generated tokens")
    request = np.cumsum(begins)
    starts = places[np.append(0, np.flatnonzero(begins))]
    return request[of], position - starts[request[of]]


def _step(source: Source, step: Ints | None, name: str | None, request: Ints) -> Ints | None:
    """Steps, unless a column of another name counts them for each request by itself."""
    if step is None or name == "step":
        return step
    changes = np.flatnonzero(np.diff(request)) + 1
    whole = changes.size + 1 == np.unique(request).size and changes.size > 0
    if whole and (step[changes] <= step[changes - 1]).any():
        source.note(f"'{name}' is not imported, because it starts again with each request")
        return None
    return step


def _by_layers(source: Source, rows: RowTable, phase: Ints | None, line: Callable[[int], int], single: bool) -> Records:
    """Records where positions are not recorded: a token begins where the layer number does not rise."""
    layer = rows.layer
    begins = np.append(True, layer[1:] != layer[:-1])
    if not single:
        return records_of_passes(source, layer, begins | (np.unique(layer).size == 1), line, phase)
    starts = _starts(source, rows, begins)
    first = np.flatnonzero(starts)
    of = np.cumsum(starts) - 1
    some = records_of_passes(
        source,
        layer[first],
        begins[first] | (np.unique(layer).size == 1),
        lambda record: line(int(first[record])),
        None if phase is None else phase[first],
    )
    kept = {name: getattr(some, name)[of] for name in ("request", "position", "phase", "layer", "step")}
    return replace(some, **kept, line=line)


def _starts(source: Source, rows: RowTable, begins: Flags) -> Flags:
    """Where a decision begins, in rows of one expert."""
    if rows.rank is not None:
        ranked: Flags = begins | np.append(True, rows.rank[1:] <= rows.rank[:-1])
        return ranked
    k = source.given.top_k
    if k is None:
        raise source.error(
            "neither positions nor ranks say where a decision ends; name one with --columns position=NAME, or pass "
            "--top-k N, the experts per token"
        )
    first = np.flatnonzero(begins)
    index = np.arange(begins.size) - np.repeat(first, np.diff(np.append(first, begins.size)))
    starts: Flags = np.equal(index % k, 0)
    return starts
