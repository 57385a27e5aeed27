"""The "moe_routes" log of vLLM: JSON Lines, an object per token and logged layer.

    {"type": "meta", "model_id": "Qwen/Qwen1.5-MoE-A2.7B-Chat", "layers_logged": [12], "top_k": 4}
    {"type": "route", "req_id": "r1", "token_idx": 0, "layer": 12, "topk_ids": [13, 15, 56, 34], "topk_weights": [...]}

token_idx is the row in the forward pass and starts again with each, and req_id is the same for all, so requests are not
told apart: the n-th rows of neighbouring decode passes of the same size are taken as one request. The passes of dummy
tokens with which vLLM warms up, all on the same experts, are left out, at the beginning and in between. A second line
of type meta begins another run. Where token_idx never starts again, it is the
position of the token.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.assemble import Records, Slots, assemble
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.json_files import first_fields, read_objects
from remoe_sim.formats.records import DecisionRows
from remoe_sim.formats.source import Source
from remoe_sim.trace import DECODE, PREFILL, Trace
from remoe_sim.util.arrays import Ints

_BEYOND_CHANCE = 8  # tokens of one pass that are all on the same experts


class VllmRoutes(TraceFormat):
    name = "vllm-routes"
    summary = "vLLM moe_routes JSON Lines: token_idx, layer, topk_ids; warm-up left out, passes found again"
    layout = __doc__ or ""
    shape = "json"
    words = ('"type"', '"topk_ids"', '"token_idx"')
    writer = 'vLLM "moe_routes" JSON Lines'
    kept = "forward passes, gate weights"
    lost = "warm-up tokens left out; requests are guessed from rows of passes"
    sure = "files of it"

    def recognises(self, source: Source) -> bool:
        fields = first_fields(source)
        meta = fields.get("type") == "meta" and "layers_logged" in fields
        return meta or {"topk_ids", "token_idx", "layer"} <= fields.keys()

    def read(self, source: Source) -> Trace:
        routes = _Routes()
        for entry in read_objects(source):
            if entry.fields.get("type") == "meta":
                routes.meta.update(entry.fields)
                routes.runs.append(len(routes.rows))
                continue
            for column, name in ((routes.token, "token_idx"), (routes.layer, "layer")):
                column.append(entry.whole(name))
            routes.requests.add(str(entry.fields.get("req_id")))
            routes.rows.add_entry(entry, "topk_ids", "topk_weights")
        if not len(routes.rows):
            raise source.error("there is no route in it; record it again")
        if len(routes.requests) > 1:
            source.note("req_id is not used: rows are told apart by forward pass")
        kept, passes = routes.passes(source)
        slots = routes.rows.slots()
        new = np.cumsum(kept) - 1  # where the records that stay are then
        stays = kept[slots.record]
        weight = None if slots.weight is None else slots.weight[stays]
        slots = Slots(new[slots.record[stays]], slots.expert[stays], None, weight)
        experts = source.experts(int(slots.expert.max()))
        trace = assemble(source, passes, slots, experts=experts, column="topk_ids")
        model_id = routes.meta.get("model_id")
        return replace(trace, model=replace(trace.model, name=model_id if isinstance(model_id, str) else None))


@dataclass
class _Routes:
    """The rows of the file in its order."""

    rows: DecisionRows = field(default_factory=DecisionRows)
    token: Any = field(default_factory=lambda: array("q"))
    layer: Any = field(default_factory=lambda: array("q"))
    requests: set[str] = field(default_factory=set)
    runs: list[int] = field(default_factory=list)  # how many rows there are above each line of meta
    meta: dict[str, Any] = field(default_factory=dict)

    def passes(self, source: Source) -> tuple[npt.NDArray[np.bool_], Records]:
        """Which rows are of real tokens, and their records."""
        token, layer = np.array(self.token, np.int64), np.array(self.layer, np.int64)
        rows_of = {int(number): np.flatnonzero(layer == number) for number in np.unique(layer)}
        run = np.searchsorted(np.array(self.runs, np.int64), np.arange(token.size), side="right")
        sizes = {number: _sizes(token[rows], run[rows]) for number, rows in rows_of.items()}
        first = next(iter(sizes))
        for number, one in sizes.items():
            if not np.array_equal(one, sizes[first]):
                text = f"layer {number} has {one.sum()} tokens in {one.size} forward passes, layer {first} has "
                text += f"{sizes[first].sum()} in {sizes[first].size}"
                raise source.error(f"{text}; rows are missing at the end or in between, record it again")
        run_of = run[rows_of[first]][np.cumsum(sizes[first]) - sizes[first]]
        dummy = self._dummies(rows_of, sizes[first], run_of)
        if dummy.all():
            raise source.error("all tokens are on the same experts, as in vLLM's warm-up; record real requests")
        real, stays = sizes[first][~dummy], np.repeat(~dummy, sizes[first])
        if dummy.any():
            count = int((~stays).sum())
            source.note(f"{count} dummy tokens of vLLM's warm-up left out ({int(dummy.sum())} forward passes)")
        kept = np.zeros(token.size, bool)
        tokens: npt.NDArray[np.int64] = np.zeros(token.size, np.int64)
        for rows in rows_of.values():
            kept[rows[stays]] = True
            tokens[rows[stays]] = np.arange(int(stays.sum()))
        request, position, phase, step = _runs(source, real, run_of[~dummy])
        of, at = tokens[kept], np.flatnonzero(kept)
        records = Records(
            request[of], position[of], phase[of], layer[kept], lambda record: self.rows.line(int(at[record])), step[of]
        )
        return kept, records

    def _dummies(self, rows_of: Mapping[int, Ints], sizes: Ints, run_of: Ints) -> npt.NDArray[np.bool_]:
        """Which passes are of dummy tokens, all on the same experts at every layer: those of several tokens with which
        a run begins, all of as many as chance does not bring there, and all on the experts of one of these."""
        found = np.zeros(sizes.size, bool)
        if sizes.size == 1:
            return found
        slots = self.rows.slots()
        counts = np.bincount(slots.record)
        starts = np.cumsum(counts) - counts
        ends = np.cumsum(sizes)
        alike: list[tuple[bytes, ...] | None] = []
        for begin, end in zip((ends - sizes).tolist(), ends.tolist(), strict=True):
            ids = []
            for rows in rows_of.values():
                here = rows[begin:end]
                k = int(counts[here[0]])
                table = slots.expert[starts[here][:, None] + np.arange(k)] if (counts[here] == k).all() else None
                if table is None or (table != table[0]).any():
                    break
                ids.append(table[0].tobytes())
            alike.append(tuple(ids) if len(ids) == len(rows_of) else None)
        at_head = True
        for index, (one, size) in enumerate(zip(alike, sizes.tolist(), strict=True)):
            at_head = (at_head or index == 0 or run_of[index] != run_of[index - 1]) and one is not None and size > 1
            found[index] = one is not None and (at_head or size >= _BEYOND_CHANCE)
        known = {one for one, is_dummy in zip(alike, found.tolist(), strict=True) if is_dummy}
        for index, (one, size) in enumerate(zip(alike, sizes.tolist(), strict=True)):
            found[index] |= one in known and (size > 1 or (index > 0 and bool(found[index - 1])))
        return found


def _sizes(token: Ints, run: Ints) -> Ints:
    """Tokens of each forward pass at one layer: one begins where token_idx does not rise, and with each run."""
    first = np.flatnonzero(np.append(True, (token[1:] <= token[:-1]) | (run[1:] != run[:-1])))
    return np.diff(np.append(first, token.size))


def _runs(source: Source, sizes: Ints, run: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """The same as `_streams` for several runs that are appended to one log."""
    numbers = np.unique(run)
    if numbers.size == 1:
        return _streams(source, sizes)
    source.note(f"{numbers.size} runs are appended to one another; each has requests of its own")
    parts, request, step = [], 0, 0
    for number in numbers:
        one = _streams(source, sizes[run == number])
        parts.append((one[0] + request, one[1], one[2], one[3] + step))
        request, step = int(parts[-1][0].max()) + 1, int(parts[-1][3].max()) + 1
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))  # type: ignore[return-value]


def _streams(source: Source, sizes: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Request, position, phase and step of every token of the passes."""
    if sizes.size == 1:
        source.note("token_idx never starts again: each token is taken as a decode step of one request")
        tokens = np.arange(sizes[0])
        return tokens * 0, tokens, tokens * 0 + DECODE, tokens
    source.note(
        "forward passes begin where token_idx starts again, and each is a step; those that bring in prompts are told "
        "by their size and are prefill; requests are not told apart in the file: the tokens of a prefill pass are "
        "taken as one request, the n-th tokens of neighbouring decode passes of the same size as another"
    )
    decode = _decode_passes(sizes)
    request, position = [], []
    next_request, base, run = 0, 0, 0
    for index, size in enumerate(sizes.tolist()):
        goes_on = index and decode[index] and decode[index - 1] and sizes[index - 1] == size
        run = run + 1 if goes_on else 0
        if not goes_on:
            base = next_request
            next_request += size if decode[index] else 1
        request.append(base + np.arange(size) * decode[index])
        position.append(np.full(size, run) if decode[index] else np.arange(size))
    phase = np.where(np.repeat(decode, sizes), DECODE, PREFILL)
    return np.concatenate(request), np.concatenate(position), phase, np.repeat(np.arange(sizes.size), sizes)


def _decode_passes(sizes: Ints) -> npt.NDArray[np.bool_]:
    """Which passes are decode. A wave of passes, none larger than the one before, brings in prompts up to its steepest
    fall in size (at least to the half), and then decodes."""
    waves = [0, *(np.flatnonzero(np.diff(sizes) > 0) + 1).tolist(), sizes.size]
    decode = np.ones(sizes.size, bool)
    for begin, end in itertools.pairwise(waves):
        wave = sizes[begin:end]
        if wave.size == 1:
            decode[begin] = wave[0] == 1
            continue
        falls = wave[:-1] / wave[1:]
        if falls.max() >= 2:
            decode[begin : begin + int(falls.argmax()) + 1] = False
    return decode
