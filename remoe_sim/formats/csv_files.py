"""Columns of numbers from CSV files: read by pyarrow, and read again line by line to say where a fault is."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from remoe_sim.trace.trace import PHASES
from remoe_sim.trace.weights import EXPECTED, wrong_weight

if TYPE_CHECKING:
    from remoe_sim.formats.source import Source
    from remoe_sim.util.errors import TraceError

WHOLE, TEXT = "a whole number", "text"
WEIGHT = "a number that can be a gate weight"
NUMBER = "a number"  # of any sign, nan where it is not known
WEIGHT_OR_NAN = "a number that can be a gate weight, or nan"  # which stands for one that is not known
_LARGEST = 2**31 - 1
_DECIMAL_COMMA = re.compile(r"(?:^|;)\d*,\d+(?:;|$)", re.MULTILINE)
_NO_ROWS = "there are no rows below the column names; record it again"


@dataclass(frozen=True)
class CsvColumns:
    """Some columns of a CSV file. values: int32 or float32[rows], TEXT as codes int32[rows] (-1: empty) into `texts`.

    header_line: the line of the column names, from 1.
    """

    source: Source
    names: tuple[str, ...]
    header_line: int
    separator: str
    values: Mapping[str, npt.NDArray[Any]]
    texts: Mapping[str, tuple[str, ...]]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.values.values())))

    def line(self, row: int) -> int:
        """The line of a row, from 1; found by reading the file again."""
        return next(itertools.islice(_rows(self.source, self.header_line, self.separator), row, None))[0]

    def error(self, row: int, column: str, text: str) -> TraceError:
        """A TraceError that names the file, line and column."""
        return self.source.error(text, self.line(row), column)


def header_names(source: Source, line: int = 1, separator: str = ",") -> tuple[str, ...]:
    """The cells of a line of the file's head."""
    cells = next(csv.reader(source.head_text.splitlines()[line - 1 : line], delimiter=separator), [])
    return tuple(cell.strip() for cell in cells)


@dataclass(frozen=True)
class CsvHead:
    """What stands above the rows. names: of the columns, () where the first line is a row already; line: of the names,
    from 1, or how many lines there are before the first row; first: the cells of the first row."""

    names: tuple[str, ...]
    line: int
    separator: str
    first: tuple[str, ...]


def csv_head(source: Source) -> CsvHead:
    """The column names below empty lines and lines that begin with #, separated by commas, semicolons or tabs."""
    lines = source.head_text.splitlines()
    begin = next((at for at, text in enumerate(lines) if text.strip() and not text.startswith("#")), len(lines))
    text = "".join(lines[begin : begin + 1])
    separator = max(",;\t", key=text.count)
    names = header_names(source, begin + 1, separator)
    if all(_is_number(cell) or cell in PHASES for cell in names):
        return CsvHead((), begin, separator, names)
    below = next((at for at, text in enumerate(lines[begin + 1 :], begin + 2) if text.strip()), begin + 2)
    return CsvHead(names, begin + 1, separator, header_names(source, below, separator))


def likely_columns(first: Sequence[str]) -> str:
    """What the columns of a table without names most likely are, by its first row, as `--columns` takes it."""
    words = ["phase"] if first and first[0] in PHASES else []
    left = len(first) - len(words)
    few = {1: ["expert"], 2: ["layer", "expert"], 3: ["position", "layer", "expert"]}
    return ",".join(words + (few.get(left) or ["position", "layer", *(f"e{slot}" for slot in range(left - 2))]))


def _is_number(cell: str) -> bool:
    try:
        float(cell or 0)
    except ValueError:
        return False
    return True


def read_header(source: Source, line: int, required: Sequence[str], advice: str) -> tuple[str, ...]:
    """The column names in a line of the file's head; TraceError if one is missing or there twice."""
    names = header_names(source, line)
    missing = [name for name in required if name not in names]
    if missing:
        raise source.error(f"column '{missing[0]}' is missing (there are {', '.join(names) or 'none'}); {advice}", line)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise source.error(f"column '{twice[0]}' is there twice; rename or remove one", line)
    return names


def read_csv(
    source: Source,
    names: tuple[str, ...],
    header_line: int,
    kinds: Mapping[str, str],
    may_be_empty: Sequence[str] = (),
    separator: str = ",",
) -> CsvColumns:
    """The columns in `kinds`, each of a kind above; empty cells only in `may_be_empty`, as -1 or nan. Between
    semicolons a comma is the decimal point.

    Raises TraceError with line and column for other cells, for lines of another number of cells, and without any rows.
    """
    import pyarrow as pa
    import pyarrow.csv as pc

    from remoe_sim.trace.arrow import to_numpy

    types = {WHOLE: pa.int32(), TEXT: pa.dictionary(pa.int32(), pa.string())}
    types |= dict.fromkeys((WEIGHT, WEIGHT_OR_NAN, NUMBER), pa.float32())
    wanted = {name: types[kind] for name, kind in kinds.items()}

    def read(types: Mapping[str, Any]) -> Any:
        with source.open() as stream:
            return pc.read_csv(
                stream,
                pc.ReadOptions(skip_rows=header_line, column_names=list(names)),
                pc.ParseOptions(newlines_in_values=True, delimiter=separator),
                pc.ConvertOptions(
                    column_types=types,
                    include_columns=list(kinds),
                    null_values=[""],
                    strings_can_be_null=True,
                    decimal_point="," if separator == ";" and _DECIMAL_COMMA.search(source.head_text) else ".",
                ),
            )

    try:
        table = read(wanted)
    except pa.ArrowInvalid as error:
        try:  # pandas writes whole numbers as 3.0 where a cell of the column is empty
            reals = {name: pa.float64() if kinds[name] == WHOLE else kind for name, kind in wanted.items()}
            table = read(reals).cast(pa.schema([(name, wanted[name]) for name in kinds]))
        except pa.ArrowInvalid:
            raise _first_fault(source, names, header_line, separator, kinds, may_be_empty, str(error)) from None
    if not table.num_rows:
        raise source.error(_NO_ROWS)
    columns = {name: table.column(name) for name in kinds}
    if any(column.null_count for name, column in columns.items() if name not in may_be_empty):
        raise _first_fault(source, names, header_line, separator, kinds, may_be_empty, "an empty cell")
    texts: dict[str, tuple[str, ...]] = {}
    values: dict[str, npt.NDArray[Any]] = {}
    for name, column in columns.items():
        if kinds[name] == TEXT:
            whole = column.combine_chunks()
            texts[name] = tuple(whole.dictionary.to_pylist())
            column = whole.indices
        empty = -1 if kinds[name] in (WHOLE, TEXT) else float("nan")
        values[name] = column.fill_null(empty).to_numpy(zero_copy_only=False)
    found = CsvColumns(source, names, header_line, separator, values, texts)
    for name, kind in kinds.items():
        if kind in (WEIGHT, WEIGHT_OR_NAN):
            there = to_numpy(columns[name].is_valid()) if columns[name].null_count else None
            wrong = wrong_weight(values[name], there, unknown=kind == WEIGHT_OR_NAN)
            if wrong is not None:
                raise found.error(wrong[0], name, f"{values[name][wrong]} cannot be one; {EXPECTED}, correct it")
    return found


def _rows(source: Source, header_line: int, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row that is not empty, as pyarrow counts: a carriage return ends a line, too."""
    lines = (line + "\n" for _, text in source.lines() for line in text.split("\r"))
    reader = csv.reader(itertools.islice(lines, header_line, None), delimiter=separator)
    before = header_line
    try:
        for cells in reader:
            if cells:
                yield before + 1, cells
            before = header_line + reader.line_num
    except csv.Error as error:
        raise source.error(f"cannot be read as CSV ({error}); correct it", before + 1) from None


def _first_fault(
    source: Source,
    names: tuple[str, ...],
    header_line: int,
    separator: str,
    kinds: Mapping[str, str],
    may_be_empty: Sequence[str],
    otherwise: str,
) -> TraceError:
    """What is wrong with the first row that cannot be read."""
    at = None
    for at, cells in _rows(source, header_line, separator):
        if cells[0].startswith("#"):
            return source.error("a second preamble begins here; cut the file in two and import both", at)
        if tuple(cell.strip() for cell in cells) == names:
            text = "the column names are there again, so a second recording begins here"
            return source.error(f"{text}; cut the file in two and import both", at)
        if len(cells) != len(names):
            text = f"{len(cells)} cells where the column names are {len(names)}"
            last = not any(True for number, _ in _rows(source, header_line, separator) if number > at)
            return source.error(f"{text}; {'the file seems truncated, remove this line' if last else 'correct it'}", at)
        for name, kind in kinds.items():
            cell = cells[names.index(name)].strip()
            if cell or name not in may_be_empty:
                fault = _fault(cell.replace(",", ".") if separator == ";" else cell, kind)
                if fault:
                    return source.error(fault, at, name)
    if at is None:
        return source.error(_NO_ROWS)
    return source.error(f"cannot be read as CSV ({otherwise.splitlines()[0]}); write it again as plain CSV")


def _fault(cell: str, kind: str) -> str | None:
    if not cell:
        return f"the cell is empty, expected {kind}; fill it in or remove the row"
    try:
        value = 0.0 if kind == TEXT else float(cell)
        if kind == WHOLE and not value.is_integer():
            raise ValueError
    except ValueError:
        return f"'{cell}', expected {kind}; correct it"
    if kind == WHOLE and abs(value) > _LARGEST:
        return f"{cell} is too large, at most {_LARGEST} is possible; correct it"
    return None
