"""The CSV of MoE-Beyond: one row per layer and token, all tokens of a layer one below the other.

    Layer ID,Batch Number,Token,Activated Expert IDs
    1,0,You,"[8, 22, 46, 55, 56, 62]"

Tokens have no number: the n-th row of a layer (and batch) is the n-th token. A batch is a request. A newer script adds
the column Token Embedding Vector, which is not read. Ids are not in the order of gate weights.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from remoe_sim.formats.assemble import Records, Slots, assemble
from remoe_sim.formats.csv_files import header_names, read_header
from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.source import Source
from remoe_sim.trace import DECODE, Trace

_COLUMNS = ("Layer ID", "Batch Number", "Token", "Activated Expert IDs")


class MoeBeyond(TraceFormat):
    name = "moe-beyond"
    summary = "MoE-Beyond CSV: Layer ID, Batch Number, Token, Activated Expert IDs"
    layout = __doc__ or ""
    shape = "text"
    words = _COLUMNS
    writer = "MoE-Beyond CSV"
    kept = "batches as requests"
    lost = "texts of tokens; no gate weights, no phases"
    sure = "files of it"

    def recognises(self, source: Source) -> bool:
        return {"Layer ID", "Activated Expert IDs"} <= set(header_names(source))

    def read(self, source: Source) -> Trace:
        names = read_header(source, 1, _COLUMNS, "record it with the script of MoE-Beyond")
        at = [names.index(name) for name in _COLUMNS]
        lines, keys, ids = [], [], []
        texts: dict[tuple[int, int], str] = {}
        counts: dict[tuple[int, int], int] = {}
        for line, cells in _rows(source, len(names)):
            layer, batch = (_whole(source, line, cells[at[one]], _COLUMNS[one]) for one in (0, 1))
            token = counts.get((layer, batch), 0)
            counts[layer, batch] = token + 1
            text = cells[at[2]]
            if texts.setdefault((batch, token), text) != text:
                why = f"token {token} is '{text}' here, but '{texts[batch, token]}' at another layer"
                raise source.error(f"{why}; the rows of a layer are not in the order of tokens", line, "Token")
            lines.append(line)
            keys.append((batch, token, layer))
            ids.append(_experts(source, line, cells[at[3]]))
        if not lines:
            raise source.error("there are no rows below the column names; record it again")
        _check_counts(source, counts)
        request, position, layers = np.array(keys, np.int64).T
        lengths = np.array([len(one) for one in ids])
        slots = Slots(np.repeat(np.arange(len(ids)), lengths), np.concatenate(ids))
        records = Records(request, position, np.full(len(ids), DECODE), layers, lines.__getitem__)
        source.note("no phases and forward passes are recorded: each token is a decode step of its own")
        source.note("slots are in the order of the file, which is not that of gate weights")
        experts = source.experts(int(slots.expert.max()))
        return assemble(source, records, slots, experts=experts, column="Activated Expert IDs")


def _rows(source: Source, width: int) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells of all rows below the column names."""
    before = 1
    reader = csv.reader(text + "\n" for number, text in source.lines() if number > 1)
    try:
        for cells in reader:
            if cells and len(cells) != width:
                text = f"{len(cells)} cells where the column names are {width}; remove or correct this row"
                raise source.error(text, before + 1)
            if cells:
                yield before + 1, cells
            before = 1 + reader.line_num
    except csv.Error as error:
        raise source.error(f"cannot be read as CSV ({error}); record it again", before + 1) from None


def _whole(source: Source, line: int, cell: str, column: str) -> int:
    if not cell.isdecimal() or len(cell) > 9:
        raise source.error(f"'{cell[:40]}' is not a whole number; correct it", line, column)
    return int(cell)


def _experts(source: Source, line: int, cell: str) -> Any:
    try:
        ids = json.loads(cell)
    except (ValueError, RecursionError):
        ids = None
    if not isinstance(ids, list) or not ids or not all(type(one) is int and 0 <= one < 65536 for one in ids):
        text = f"'{cell[:40]}' is not a list of expert ids, such as [8, 22]; correct it"
        raise source.error(text, line, "Activated Expert IDs")
    return np.array(ids, np.int64)


def _check_counts(source: Source, counts: dict[tuple[int, int], int]) -> None:
    tokens: dict[int, int] = {}
    for (layer, batch), count in counts.items():
        if tokens.setdefault(batch, count) != count:
            text = f"layer {layer} has {count} tokens in batch {batch}, another layer {tokens[batch]}"
            raise source.error(f"{text}; the file seems truncated, record it again")
