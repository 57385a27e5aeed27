"""Plain CSV: one row per chosen expert, or one row per token and layer with a column for each slot.

    request,position,phase,layer,expert            request,position,phase,layer,e0,e1
    0,0,prefill,0,17                               0,0,prefill,0,17,3
    0,0,prefill,0,3                                0,1,decode,0,17,

The columns may stand in any order, separated by commas, semicolons or tabs, and have other names: token, pos or
token_idx for position, layer_id for layer, prompt_id for request, expert_id_0 or topk_0 for e0, and more; --columns
position=NAME,layer=NAME names any other, and --columns position,layer,e0,e1 the columns of a file without names. One
column may hold all experts of a row as text, "17 3". A request is a number or any text, and there is one without it;
position counts from 0; phase is prefill or decode, and all is decode without it (--phase); layer is the model's own
number. Slots are in the order of the rows, largest gate weight first, unless there is a column slot (rank). An empty
expert (or a negative one) is a slot that was not computed; a token without any expert at a layer was not routed there.
Optional: weight (w0, w1, ... or weight_0, weight_1, ...), token_id, and step, the forward pass; without step each
decode token is a pass of its own and the prompt of a request is one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.assemble import Slots, assemble
from remoe_sim.formats.columns import Columns, find_columns
from remoe_sim.formats.csv_files import (
    NUMBER,
    TEXT,
    WEIGHT,
    WHOLE,
    CsvColumns,
    CsvHead,
    csv_head,
    likely_columns,
    read_csv,
)
from remoe_sim.formats.format import ExportFormat, TraceFormat, has_weights, slots_there
from remoe_sim.formats.rows import RowTable, records_of_rows, scores
from remoe_sim.formats.source import Source
from remoe_sim.trace import PHASES, Trace
from remoe_sim.trace.sources import block_rows, blocks_of

if TYPE_CHECKING:
    import pyarrow as pa

_LIST = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_IDS = re.compile(r"[\[({]?\s*-?\d+(?:(?:\s*[;|,]\s*|\s+)-?\d+)*\s*[\])}]?")
_ROWS_OF_OTHERS = ("layer,expert", "turn,phase,step,layer,slot,expert")  # of llamacpp and bigmoe


class PlainCsv(TraceFormat):
    name = "csv"
    summary = "CSV with a row per chosen expert, or per token and layer; the columns may have many names"
    layout = __doc__ or ""
    shape = "text"
    words = ("request", "position", "phase", "layer", "expert")
    general = True
    writer = "you: the plain layout below, in many variants"
    kept = "all that has a column of a known name (or `--columns`)"
    lost = "what is not there: requests (one), phases (`--phase`), forward passes"
    sure = "you say it"

    def recognises(self, source: Source) -> bool:
        if source.shape != "text":
            return False
        head = csv_head(source)
        names = head.names or _named(source, head)
        chosen = source.given.columns if head.names else ()
        first = head.separator.join(names)
        if first == _ROWS_OF_OTHERS[0] or (not chosen and first.startswith(_ROWS_OF_OTHERS[1])):
            return False
        try:
            return find_columns(names, chosen).is_rows
        except ValueError:
            return True  # which is said when it is read

    def read(self, source: Source) -> Trace:
        head = csv_head(source)
        names = head.names or _named(source, head)
        if not names:
            count = len(head.first)
            likely = likely_columns(head.first)
            raise source.error(f"there are no column names; say what its {count} columns are, as --columns {likely}")
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise source.error(f"column '{twice[0]}' is there twice; rename or remove one", head.line)
        try:
            found = find_columns(names, source.given.columns if head.names else ())
        except ValueError as error:
            raise source.error(f"{error}; correct --columns") from None
        _check_columns(source, found, names, head.line)
        listed = not found.counted and _is_list(dict(zip(names, head.first, strict=False)).get(found.experts[0], ""))
        kinds = _kinds(found, listed)
        ignored = [name for name in names if name not in found.used]
        if ignored:
            source.note(f"columns not imported: {', '.join(ignored)}")
        table = read_csv(source, names, head.line, kinds, [*found.experts, *found.weights], head.separator)
        return _assemble(source, table, found, listed)


def _named(source: Source, head: CsvHead) -> tuple[str, ...]:
    """The names that the user gives to the columns of a file without any."""
    given = tuple(column for kind, column in source.given.columns if not kind)
    if given and len(given) != len(head.first):
        text = f"--columns names {len(given)} columns, but the first row has {len(head.first)}; name each"
        raise source.error(text, head.line + 1)
    return given


def _is_list(cell: str) -> bool:
    """Whether a cell holds several experts, as `3 7`, `[3, 7]` or `3|7`."""
    return bool(_IDS.fullmatch(cell)) and not re.fullmatch(r"-?\d*", cell)


def _check_columns(source: Source, found: Columns, names: Sequence[str], line: int) -> None:
    """TraceError where columns are missing or say a thing twice."""
    for kind, there in (("layer", found.layer), ("experts", found.experts)):
        if not there:
            text = f"no column says {kind} (there are {', '.join(names)})"
            raise source.error(f"{text}; name it with --columns {kind}=NAME", line)
    both = find_columns([name for name in names if name not in found.experts]).experts if not found.counted else ()
    if len(both) > 1:
        raise source.error(f"columns '{found.experts[0]}' and '{both[0]}' are both there; keep one of the two", line)
    if found.counted and found.numbers:
        missing = set(range(found.numbers[0], found.numbers[0] + len(found.numbers))) - set(found.numbers)
        missing |= {0} if found.numbers[0] > 1 else set()
        if missing:
            text = f"slot {min(missing)} has no column (there are {', '.join(found.experts)})"
            raise source.error(f"{text}; number them from 0 without gaps", line)
    if found.counted and found.weights and len(found.weights) != len(found.experts):
        text = f"{len(found.weights)} columns of weights for {len(found.experts)} of experts; give one for each"
        raise source.error(text, line)


def _kinds(found: Columns, listed: bool) -> dict[str, str]:
    """The kind of the cells of each column."""
    whole = [name for name in (found.position, found.layer, found.step, found.token_id) if name is not None]
    whole += [] if found.counted or listed or found.rank is None else [found.rank]
    kinds = dict.fromkeys(whole, WHOLE) | dict.fromkeys(found.experts, TEXT if listed else WHOLE)
    kinds |= {name: TEXT for name in (found.request, found.phase) if name is not None}
    own = all(name in ("weight", "w0", "weight_0") for name in found.weights[:1])
    return kinds | dict.fromkeys(found.weights, TEXT if listed else WEIGHT if own else NUMBER)


def _assemble(source: Source, table: CsvColumns, found: Columns, listed: bool) -> Trace:
    values = table.values

    def named(name: str | None) -> Any:
        return None if name is None else (table.texts[name], values[name])

    def column(name: str | None) -> Any:
        return None if name is None else values[name]

    rank = values.get(found.rank) if found.rank else None
    rows = RowTable(
        column(found.layer), column(found.position), named(found.request), named(found.phase), column(found.step),
        column(found.token_id), rank,
    )  # fmt: skip
    single = not found.counted and not listed
    records = records_of_rows(source, rows, found, table.line, single)
    if listed:
        slots = _listed_slots(source, table, found)
    else:
        count = len(found.experts)
        weights = scores(source, _flat(values, found.weights) if found.weights else None, found)
        place = rank if single else np.tile(np.arange(count), table.rows)
        if rank is not None and rank.min() == 1:
            place = rank - 1
            source.note(f"'{found.rank}' counts from 1")
        slots = Slots(np.repeat(np.arange(table.rows), count), _flat(values, found.experts), place, weights)
    first, last = found.experts[0], found.experts[-1]
    name = first if first == last else f"{first} to {last}"
    return assemble(source, records, slots, experts=source.experts(int(slots.expert.max(initial=-1))), column=name)


def _listed_slots(source: Source, table: CsvColumns, found: Columns) -> Slots:
    """The slots of cells that hold a list each."""
    name = found.experts[0]
    texts = [[int(one) for one in re.findall(r"-?\d+", text)] for text in table.texts[name]] + [[]]
    codes = table.values[name]
    for code, text in enumerate(table.texts[name]):
        if not _IDS.fullmatch(text):
            row = int(np.flatnonzero(codes == code)[0])
            raise table.error(row, name, f"'{text}' is not a list of experts; correct it")
    lengths = np.array([len(one) for one in texts])[codes]
    expert = np.array([one for code in codes.tolist() for one in texts[code]], np.int64)
    record = np.repeat(np.arange(lengths.size), lengths)
    place = np.arange(record.size) - (np.cumsum(lengths) - lengths)[record]
    weights = None
    if found.weights:
        gates = [[float(one) for one in _LIST.findall(text)] for text in table.texts[found.weights[0]]] + [[]]
        of = table.values[found.weights[0]]
        wrong = np.flatnonzero(np.array([len(one) for one in gates])[of] != lengths)
        if wrong.size:
            text = f"expected {lengths[wrong[0]]} numbers, one for each expert; correct it"
            raise table.error(int(wrong[0]), found.weights[0], text)
        weights = scores(source, np.array([one for code in of.tolist() for one in gates[code]], np.float32), found)
    return Slots(record, expert, place, weights)


def _flat(values: Any, names: Sequence[str]) -> npt.NDArray[Any]:
    """Columns side by side, row by row."""
    return np.stack([values[name] for name in names], axis=1).reshape(-1)


class CsvWriter(ExportFormat):
    name = "csv"
    suffix = ".csv"
    summary = "plain CSV, one row per token and layer; 'import' reads it"
    lost = "experts per layer, sizes and the model's name (options of 'import' give them), router probabilities"

    def write(self, trace: Trace, path: Path) -> None:
        from pyarrow.csv import CSVWriter, WriteOptions

        _check_tokens(trace)
        rows = block_rows(trace.moe_layers * (30 + 20 * max(trace.model.top_k)))
        writer, first, used = None, 0, np.zeros(trace.moe_layers, np.int64)
        try:
            for part in blocks_of(trace, rows):
                table = _table(part, first, used)
                first += part.tokens
                writer = writer or CSVWriter(path, table.schema, write_options=WriteOptions(quoting_style="none"))
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
        _check_layers(trace, used)


def _check_tokens(trace: Trace) -> None:
    """Refuse two tokens of one request at one position, which the columns do not tell apart."""
    places = trace.request.astype(np.int64) * 2**32 + trace.position
    first = np.unique(places, return_index=True)[1]
    again = np.setdiff1d(np.arange(trace.tokens), first)
    if again.size:
        row = int(again[0])
        text = f"position {trace.position[row]} of request {trace.request[row]} is there twice"
        raise trace.error(f"row {row}: {text}, and a CSV tells tokens apart by both; export it as npz")


def _check_layers(trace: Trace, used: npt.NDArray[np.int64]) -> None:
    """Refuse layers that would have fewer slots when they are read again; used: the slots that have an expert."""
    for number, k, there in zip(trace.layer_numbers, trace.model.top_k, used.tolist(), strict=True):
        if there < k and trace.tokens:
            slots = f"{k} slots, but only the first {there} ever hold an expert"
            what = "no expert at any token" if not there else slots
            raise trace.error(f"layer {number} has {what}, and a CSV cannot say that there are more; export it as npz")


def _table(part: Trace, first: int, used: npt.NDArray[np.int64]) -> pa.Table:
    """The rows of a block, token by token, and of a token layer by layer.

    first: the row of the trace with which it begins; used: how many slots of each layer have an expert, updated.
    """
    import pyarrow as pa

    layers, tokens, most = part.moe_layers, part.tokens, max(part.model.top_k)
    weighted = has_weights(part)
    experts = np.zeros((tokens, layers, most), np.uint16)
    valid = np.zeros(experts.shape, np.bool_)
    weights = np.full(experts.shape if weighted else 0, np.nan, np.float32)
    for index in range(layers):
        decisions, k = part.source.decisions(index), part.model.top_k[index]
        experts[:, index, :k] = decisions.experts
        valid[:, index, :k] = slots_there(part, index, first, "a CSV")
        used[index] = max(used[index], np.flatnonzero(valid[:, index].any(axis=0)).max(initial=-1) + 1)
        if weighted:
            found = part.source.weights(index)
            weights[:, index, :k] = np.nan if found is None else found
    kept: npt.NDArray[Any] = np.asarray(valid.any(axis=2))
    kept[:, 0] |= ~kept.any(axis=1)  # a token without any decision still has a row
    columns: dict[str, Any] = {
        name: pa.array(np.broadcast_to(getattr(part, name)[:, None], kept.shape)[kept])
        for name in ("request", "position", "step")
    }
    codes = np.broadcast_to(part.phase[:, None], kept.shape)[kept].astype(np.int8)
    columns["phase"] = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(PHASES)).cast(pa.string())
    if part.token_id is not None:
        columns["token_id"] = pa.array(np.broadcast_to(part.token_id[:, None], kept.shape)[kept])
    columns["layer"] = pa.array(np.broadcast_to(np.array(part.layer_numbers)[None], kept.shape)[kept])
    there = valid[kept]
    for slot in range(most):
        columns[f"e{slot}"] = pa.array(experts[kept][:, slot], mask=~there[:, slot])
    for slot in range(most if weighted else 0):
        values = weights[kept][:, slot]
        never = ~there[:, slot] & ((values < 0) | np.isinf(values))
        columns[f"w{slot}"] = pa.array(values, mask=np.isnan(values) | never)
    return pa.table(columns)
