"""The .pt files of SGLang's --expert-distribution-recorder-mode per_token (detail_per_token in early versions).

    {"records": [{"forward_pass_id": 7, "input_ids": [...], "positions": [...], "extend_seq_lens": [5, 3] or None,
                  "topk_ids_of_layer": int32 tensor [layers, tokens, 8], ...}, ...],
     "last_physical_to_logical_map": int tensor [layers, physical experts]}

Each record is a forward pass and a step; extend_seq_lens is None in decode. Ids are of physical experts and are mapped
to logical ones; unused slots and layers without experts are -1. Where there are no request ids (rids), tokens are put
together by position and by their order in the batch. Files of the modes per_pass and stat hold counts, not routing.
The file is read without torch, and nothing but tensors and containers is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from remoe_sim.formats.arrays import layer_tables
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.source import LARGEST, Source, checked_ids, outside
from remoe_sim.formats.torch_files import read_torch, torch_pickle
from remoe_sim.trace import DECODE, PREFILL, Model, Trace
from remoe_sim.util.arrays import Ints
from remoe_sim.util.errors import TraceError

_NAMES = (b"topk_ids_of_layer", b"last_physical_to_logical_map", b"global_physical_count", b"logical_count")


class SgLangRecorder(TraceFormat):
    name = "sglang-recorder"
    summary = "SGLang expert distribution recorder, mode per_token (.pt): passes, physical ids mapped to logical"
    layout = __doc__ or ""
    shape = "zip"
    words = ("data.pkl",)
    writer = "SGLang expert distribution recorder, mode `per_token` (.pt, read without torch)"
    kept = "forward passes, positions, token ids; physical ids mapped to logical"
    lost = "gate weights; requests found by position where there are no `rids`; `per_pass` and `stat` are refused"
    sure = "code that writes it"

    def recognises(self, source: Source) -> bool:
        raw = torch_pickle(source)
        return any(name in raw for name in _NAMES)

    def read(self, source: Source) -> Trace:
        saved = read_torch(source)
        records = list(_records(source, saved))
        layers, slots = records[0].experts.shape[0], records[0].experts.shape[2]
        for record in records:
            if record.experts.shape[::2] != (layers, slots):
                raise record.error(f"topk_ids_of_layer is {record.experts.shape}, in other records {layers} layers")
        physical = np.concatenate([one.experts for one in records], axis=1).transpose(1, 0, 2)
        tokens = np.array([one.experts.shape[1] for one in records])
        step = np.repeat(np.arange(tokens.size), tokens)
        experts, count = _logical(source, saved, physical)

        def fault(row: int, text: str) -> TraceError:
            record = records[int(step[row])]
            return record.error(f"token {row - int(np.searchsorted(step, step[row]))}, {text}")

        source.note("each record is a forward pass and a step; layers are numbered from 0")
        tables = layer_tables(source, experts, None, list(range(layers)), count, fault)
        return Trace(
            request=_requests(source, records),
            position=np.concatenate([one.positions for one in records]).astype(np.int32),
            step=step.astype(np.int32),
            phase=np.repeat([one.phase for one in records], tokens).astype(np.uint8),
            token_id=_token_ids(records),
            layer_numbers=tables.numbers,
            model=Model((count,) * len(tables.kept), tables.top_k),
            source=tables.in_memory(),
        )


@dataclass
class _Record:
    """One forward pass: experts [layers, tokens, slots], positions [tokens]."""

    source: Source
    number: int
    experts: Ints
    positions: Ints
    lengths: list[int] | None
    token_ids: Ints | None
    rids: list[Any] | None

    @property
    def phase(self) -> int:
        return DECODE if self.lengths is None else PREFILL

    def error(self, text: str) -> TraceError:
        return self.source.error(f"record {self.number}: {text}; record it again")


def _records(source: Source, saved: Any) -> Iterator[_Record]:
    """The passes that have tokens; at least one."""
    if isinstance(saved, dict) and "logical_count" in saved:
        raise source.error("it holds sums over tokens (mode stat), which have no order; record with mode per_token")
    listed = saved.get("records") if isinstance(saved, dict) else None
    if not isinstance(listed, list):
        raise source.error("there are no records in it; record with --expert-distribution-recorder-mode per_token")
    found = 0
    for number, one in enumerate(listed):
        if isinstance(one, dict) and "global_physical_count" in one:
            raise source.error(
                "it holds counts per forward pass (mode per_pass), not tokens; record with mode per_token"
            )
        if not isinstance(one, dict) or one.get("gatherer_key", "primary") != "primary":
            source.note("records of gatherers other than 'primary' left out")
            continue
        record = _record(source, number, one)
        if record.positions.size:
            found += 1
            yield record
    if not found:
        raise source.error("no record has tokens; record while requests are running")


def _record(source: Source, number: int, one: dict[str, Any]) -> _Record:
    experts = np.asarray(one.get("topk_ids_of_layer"))
    positions = _whole(one.get("positions"))
    record = _Record(source, number, experts, np.zeros(0, np.int64), None, None, None)
    if experts.dtype.kind not in "iu" or experts.ndim != 3:
        raise record.error("topk_ids_of_layer is no tensor of whole numbers [layers, tokens, k]")
    experts = checked_ids(experts, lambda at, text: record.error(f"layer {at[0]}, token {at[1]}: {text}"), empty=True)
    if positions is None or outside(positions, 0) is not None:
        raise record.error("positions is not a list of positions")
    tokens = positions.size
    if experts.shape[1] < tokens:
        raise record.error(f"{experts.shape[1]} tokens in topk_ids_of_layer, but {tokens} positions")
    if experts.shape[1] > tokens:
        source.note("rows of topk_ids_of_layer without a position (padding of the batch) left out")
    lengths = one.get("extend_seq_lens")
    if lengths is not None:
        whole = _whole(lengths)
        if whole is None or (whole < 0).any() or whole.sum() != tokens:
            raise record.error(f"extend_seq_lens does not add up to the {tokens} positions")
        lengths = whole.tolist()
    ids = _whole(one.get("input_ids"))
    fits = ids is not None and ids.size == tokens and outside(ids, 0) is None
    if not fits and one.get("input_ids") is not None:
        source.note("token ids left out, because input_ids of some records are not one id for each position")
    rids = one.get("rids")
    of_all = isinstance(rids, list) and len(rids) == (tokens if lengths is None else len(lengths))
    return _Record(
        source,
        number,
        experts[:, :tokens],
        positions,
        lengths,
        ids if fits else None,
        list(rids or []) if of_all else None,
    )


def _whole(value: Any) -> Ints | None:
    """A list or tensor of whole numbers; None for anything else."""
    if isinstance(value, list) and not value:
        return np.zeros(0, np.int64)
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        return None
    if array.ndim != 1 or array.dtype.kind not in "iu" or outside(array, -LARGEST, 2**62) is not None:
        return None
    return array.astype(np.int64)


def _logical(source: Source, saved: dict[str, Any], physical: Ints) -> tuple[Ints, int]:
    """Logical ids [tokens, layers, slots] and how many there are."""
    given = saved.get("last_physical_to_logical_map")
    if given is None:
        source.note("there is no last_physical_to_logical_map, so ids are taken as logical")
        return physical, source.experts(int(physical.max()))
    table = np.asarray(given)
    if table.dtype.kind not in "iu" or table.ndim != 2 or table.shape[0] != physical.shape[1] or not table.size:
        text = f"last_physical_to_logical_map has shape {table.shape}, expected [{physical.shape[1]} layers, experts]"
        raise source.error(f"{text}; record it again")
    if table.min() < 0 or physical.max() >= table.shape[1]:
        text = f"expert {physical.max()} is not among the {table.shape[1]} of last_physical_to_logical_map"
        raise source.error(f"{text}; record it again")
    mapped = table[np.arange(physical.shape[1])[:, None], np.maximum(physical, 0)]
    if (table != np.arange(table.shape[1])).any():
        source.note("ids are mapped from physical to logical experts, by the map at the end of the recording")
    return np.where(physical < 0, -1, mapped), source.experts(int(table.max()), int(table.max()) + 1)


def _token_ids(records: list[_Record]) -> Any:
    there = [one.token_ids for one in records if one.token_ids is not None]
    return np.concatenate(there).astype(np.int32) if len(there) == len(records) else None


def _requests(source: Source, records: list[_Record]) -> Any:
    """The request of every token: by rids where all records have them, else by position and order in the batch."""
    if all(one.rids is not None for one in records):
        names: dict[str, int] = {}
        parts = [
            np.repeat([names.setdefault(str(rid), len(names)) for rid in one.rids or []], _counts(one))
            for one in records
        ]
        return np.concatenate(parts).astype(np.int32)
    source.note("there are no request ids: a token goes on with the request whose next position it has, in batch order")
    running: dict[int, int] = {}  # request: its next position, in the order of the batch
    found, started = [], 0
    for one in records:
        bounds = np.append(0, np.cumsum(_counts(one)))
        waiting = list(running.items())
        for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            if begin == end:
                continue
            position = int(one.positions[begin])
            at = next((n for n, (_, following) in enumerate(waiting) if following == position and position), None)
            if at is None:
                request, started = started, started + 1
            else:
                request = waiting.pop(at)[0]
            running[request] = int(one.positions[end - 1]) + 1
            found.append(np.full(end - begin, request))
        if one.phase == DECODE:  # whoever did not take part has ended
            ended = {request for request, _ in waiting}
            running = {request: following for request, following in running.items() if request not in ended}
    return np.concatenate(found).astype(np.int32)


def _counts(record: _Record) -> list[int]:
    """Tokens of each sequence in the batch."""
    return [1] * record.positions.size if record.lengths is None else record.lengths
