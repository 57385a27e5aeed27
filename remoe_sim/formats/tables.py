"""Tables in memory (Parquet, Arrow, columns of an npz): rows of decisions or of experts, or tokens with all layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.formats.assemble import Records, Slots, assemble
from remoe_sim.formats.columns import Columns, find_columns
from remoe_sim.formats.rows import RowTable, records_of_rows, scores
from remoe_sim.formats.source import LARGEST, outside

if TYPE_CHECKING:
    import pyarrow as pa

    from remoe_sim.formats.source import Source
    from remoe_sim.trace.trace import Trace
    from remoe_sim.util.arrays import Array, Ints, Singles


def trace_of_table(source: Source, table: pa.Table) -> Trace:
    """The trace of a table; messages count its rows from 0. Raises TraceError that names the columns that are there."""
    source.unit = "row"
    twice = [name for name in table.column_names if table.column_names.count(name) > 1]
    if twice:
        raise source.error(f"column '{twice[0]}' is there twice; rename or remove one")
    found = _columns(source, table.column_names)
    if not table.num_rows:
        raise source.error("there are no rows in it; record it again")
    ignored = [name for name in table.column_names if name not in found.used]
    if ignored:
        source.note(f"columns not imported: {', '.join(ignored[:20])}{', ...' if len(ignored) > 20 else ''}")
    if found.layer is None:
        return _of_tokens(source, table, found)
    listed = not found.counted and _is_list(table.column(found.experts[0]))
    single = not found.counted and not listed
    rank = _whole(source, table, found.rank) if single else None
    records = records_of_rows(source, _rows(source, table, found, rank), found, int, single)
    count = len(found.experts)
    if listed:
        slots = _listed(source, table, found)
    else:
        expert = np.stack([_ids(source, table, name) for name in found.experts], axis=1).reshape(-1)
        weights = None
        if found.weights and len(found.weights) == count:
            weights = np.stack([_reals(source, table, name) for name in found.weights], axis=1).reshape(-1)
        if rank is not None and rank.min() == 1:
            rank = rank - 1
            source.note(f"'{found.rank}' counts from 1")
        place = rank if single else np.tile(np.arange(count), table.num_rows)
        record = np.repeat(np.arange(table.num_rows), count)
        slots = Slots(record, expert, place, scores(source, weights, found))
    experts = source.experts(int(slots.expert.max(initial=-1)))
    padded = not listed or _has_padding(table, found.experts[0])
    return assemble(source, records, slots, experts=experts, column=found.experts[0], padded=padded)


def _has_padding(table: pa.Table, name: str) -> bool:
    """Whether lists are filled up with -1; a null is a slot that was dropped."""
    import pyarrow.compute as pc

    flat = pc.list_flatten(table.column(name))
    return bool(flat.null_count == 0 and len(flat) and pc.min(flat).as_py() == -1)


def _columns(source: Source, names: list[str]) -> Columns:
    try:
        found = find_columns(names, source.given.columns)
    except ValueError as error:
        raise source.error(f"{error}; correct --columns") from None
    if not found.is_rows and not (found.counted and found.position):
        kind = "experts" if found.layer or not found.experts else "layer"
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise source.error(f"no column says {kind} (there are {shown}); name it with --columns {kind}=NAME")
    return found


def _rows(source: Source, table: pa.Table, found: Columns, rank: Ints | None) -> RowTable:
    def whole(name: str | None) -> Any:
        return None if name is None else _whole(source, table, name)

    def named(name: str | None) -> Any:
        return None if name is None else _named(source, table, name)

    return RowTable(
        whole(found.layer), whole(found.position), named(found.request), named(found.phase), whole(found.step),
        whole(found.token_id), rank,
    )  # fmt: skip


def _of_tokens(source: Source, table: pa.Table, found: Columns) -> Trace:
    """RowTable of tokens with a column of lists for each layer, as in a trace file without its metadata."""
    rows, layers = table.num_rows, len(found.experts)
    for name in found.experts:
        if not _is_list(table.column(name)):
            raise source.error(f"no column says layer, and '{name}' holds no lists; name it with --columns layer=NAME")
    one = RowTable(
        np.zeros(rows, np.int64),
        _whole(source, table, str(found.position)),
        None if found.request is None else _named(source, table, found.request),
        None if found.phase is None else _named(source, table, found.phase),
        None if found.step is None else _whole(source, table, found.step),
        None if found.token_id is None else _whole(source, table, found.token_id),
    )
    records = records_of_rows(source, one, found, int, single=False)

    def repeated(values: Any) -> Any:
        return None if values is None else np.tile(values, layers)

    several = Records(
        repeated(records.request), repeated(records.position), repeated(records.phase),
        np.repeat(np.array(found.numbers), rows), lambda record: record % rows, repeated(records.step),
        repeated(records.token_id), found.called,
    )  # fmt: skip
    by_number = dict(zip((name.rpartition("_")[2] for name in found.weights), found.weights, strict=True))
    parts = []
    for index, name in enumerate(found.experts):
        weight = by_number.get(name.rpartition("_")[2])
        some = Columns(experts=(name,), weights=() if weight is None else (weight,))
        slots = _listed(source, table, some)
        parts.append((slots.record + index * rows, slots.expert, slots.slot, slots.weight))
    weights = None
    if all(part[3] is not None for part in parts):
        weights = np.concatenate([part[3] for part in parts])
    elif found.weights:
        source.note("weights not imported, because not all layers have them")
    record, expert, slot = (np.concatenate([part[at] for part in parts]) for at in range(3))
    experts = source.experts(int(expert.max(initial=-1)))
    slots = Slots(record, expert, slot, weights)
    return assemble(source, several, slots, experts=experts, column=found.experts[0], padded=False)


def _is_list(column: pa.ChunkedArray) -> bool:
    import pyarrow as pa

    kind = column.type
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _listed(source: Source, table: pa.Table, found: Columns) -> Slots:
    """The slots of a column of lists, with the weights of another."""
    name = found.experts[0]
    lengths, expert = _flat(source, table, name, "iu", "whole numbers")
    record = np.repeat(np.arange(lengths.size), lengths)
    place = np.arange(record.size) - (np.cumsum(lengths) - lengths)[record]
    weights: Singles | None = None
    if found.weights:
        counts, gates = _flat(source, table, found.weights[0], "fiu", "numbers")
        wrong = np.flatnonzero(counts != lengths)
        if wrong.size:
            text = f"{counts[wrong[0]]} weights for {lengths[wrong[0]]} experts; give one for each"
            raise source.error(text, int(wrong[0]), found.weights[0])
        weights = gates.astype(np.float32)
    return Slots(record, expert.astype(np.int64), place, scores(source, weights, found))


def _flat(source: Source, table: pa.Table, name: str, kinds: str, what: str) -> tuple[Ints, Array]:
    """The lengths of the lists of a column (0 for null), and their elements: null is -1, or nan among real numbers."""
    import pyarrow.compute as pc

    column = table.column(name)
    if not _is_list(column):
        raise source.error(f"{column.type}, expected lists of {what}; correct it", column=name)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy().astype(np.int64)
    return lengths, _numbers(source, pc.list_flatten(column), name, kinds, what)


def _numbers(source: Source, column: Any, name: str, kinds: str, what: str) -> Array:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    if not (pa.types.is_integer(kind) or (pa.types.is_floating(kind) and "f" in kinds)):
        whole = pa.types.is_floating(kind) and _all_whole(column)  # as pandas writes whole numbers with gaps
        if not whole:
            raise source.error(f"{kind}, expected {what}; correct it", column=name)
    if "f" in kinds:
        reals: Array = np.asarray(column.cast(pa.float64(), safe=False).fill_null(float("nan"))).astype(np.float32)
        return reals
    try:
        filled = column.cast(pa.int64()).fill_null(-1)
    except pa.ArrowInvalid:
        raise source.error("a number that is too large; correct it", column=name) from None
    return np.asarray(filled)


def _all_whole(column: Any) -> bool:
    values = np.asarray(column.drop_null())
    return bool(np.isfinite(values).all() and (values == np.floor(values)).all())


def _whole(source: Source, table: pa.Table, name: str | None) -> Any:
    """A column of whole numbers without gaps; None without a name."""
    if name is None:
        return None
    if table.column(name).null_count:
        row = int(np.flatnonzero(np.asarray(table.column(name).is_null()))[0])
        raise source.error("the cell is empty, expected a whole number; fill it in or remove the row", row, name)
    numbers = _numbers(source, table.column(name), name, "iu", "whole numbers")
    wrong = outside(numbers, 0)
    if wrong is not None:
        raise source.error(f"{numbers[wrong]} is not possible; expected 0 to {LARGEST}", wrong[0], name)
    return numbers


def _ids(source: Source, table: pa.Table, name: str) -> Ints:
    """A column of experts, -1 where there is none."""
    ids: Ints = _numbers(source, table.column(name), name, "iu", "whole numbers")
    return ids


def _reals(source: Source, table: pa.Table, name: str) -> Singles:
    gates: Singles = _numbers(source, table.column(name), name, "fiu", "numbers")
    return gates


def _named(source: Source, table: pa.Table, name: str) -> Any:
    """The names of a column, and which each row has."""
    import pyarrow as pa

    column = table.column(name)
    if pa.types.is_nested(column.type):
        raise source.error(f"{column.type}, expected numbers or text; correct it", column=name)
    if column.null_count:
        row = int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise source.error("the cell is empty; fill it in or remove the row", row, name)
    coded = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_dictionary(coded.type):
        coded = coded.dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.unify_dictionaries().combine_chunks()
    return [str(one) for one in coded.dictionary.to_pylist()], np.asarray(coded.indices).astype(np.int64)
