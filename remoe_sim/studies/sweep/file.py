"""The file of a sweep: one Parquet table that is whole at any moment, keyed so that no cell is computed twice."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from remoe_sim.util.files import locked, remove_abandoned, replacing
from remoe_sim.util.input_files import UnsuitableError, check_regular, kind_of
from remoe_sim.util.output_places import followed
from remoe_sim.util.remote import open_parquet

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "remoe-sim.sweep.v1"
_MARK = b"remoe_sim_sweep"
MOST_OF_TIME = 0.1  # share of the time that writing may take
TEXT, WHOLE, REAL, FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()

NAMES = {  # what a row is about
    "version": TEXT, "trace": TEXT, "batch": WHOLE, "policy": TEXT, "scope": TEXT, "admission": TEXT, "reset": TEXT,
    "phase": TEXT, "warmup": WHOLE, "capacity_unit": TEXT, "capacity": WHOLE, "device": TEXT, "device_model": TEXT,
    "quant": TEXT, "overlap": TEXT, "misses_from": TEXT, "lanes": WHOLE, "context": WHOLE, "compute_ms": REAL,
}  # fmt: skip
VALUES = {
    "capacity_bytes": WHOLE, "capacity_share": REAL, "lookups": WHOLE, "hits": WHOLE, "misses": WHOLE,
    "hit_rate": REAL, "cold_misses": WHOLE, "capacity_misses": WHOLE, "optimal": FLAG, "decode_tokens": WHOLE,
    "decode_lookups": WHOLE, "decode_hits": WHOLE, "decode_hit_rate": REAL, "prefill_lookups": WHOLE,
    "prefill_hits": WHOLE, "bytes_read": WHOLE, "bytes_read_per_token": REAL, "tpot_ms_mean": REAL,
    "tpot_ms_p50": REAL, "tpot_ms_p95": REAL, "tpot_ms_p99": REAL, "tpot_ms_low": REAL,
    "tpot_ms_high": REAL, "tokens_per_second": REAL, "ttft_ms_mean": REAL,
    "dense_ms": REAL, "experts_ms": REAL, "storage_wait_ms": REAL, "pcie_wait_ms": REAL, "fixed_ms": REAL,
    "fits": FLAG, "missing_bytes": WHOLE, "room_bytes": WHOLE, "reuse_rate": REAL, "model": TEXT, "tokens": WHOLE,
    "requests": WHOLE, "moe_layers": WHOLE, "experts": WHOLE,
}  # fmt: skip
COLUMNS = pa.schema({**NAMES, **VALUES, "trace_hash": TEXT, "key": TEXT}, {_MARK: SCHEMA.encode()})
ADDED = ("fits", "missing_bytes", "room_bytes", "tpot_ms_low", "tpot_ms_high")  # that files of the same schema may lack
_NUMBERS = ("batch", "lanes", "context", "capacity_bytes", "bytes_read", "missing_bytes", "room_bytes")
MAYBE_UNKNOWN = {**dict.fromkeys(_NUMBERS, "Int64"), "fits": "boolean"}  # and the kinds of pandas that can tell
Row = dict[str, Any]


class SweepFile:
    """The rows of a sweep, on disk if it has a path, which nobody else may write to meanwhile.

    wanted: the names of every cell of the sweep, and the hash of its trace, by its key, in the order of rows. Rows of
    other cells stay in the file, behind those, also those of another trace that had the same path. `replaced`: rows
    about wanted cells that were made by another version, or of another content of a card or policy, and are dropped.
    """

    def __init__(self, path: str | os.PathLike[str] | None, wanted: dict[str, Row]) -> None:
        self.path, self.wanted = None if path is None else Path(path), wanted
        _check_place(path)
        self.rows: dict[str, Row] = {}
        self.replaced = 0
        self._written, self._took, self._new = time.monotonic(), 0.0, False
        asked = {_identity(names) for names in wanted.values()}
        for row in [] if self.path is None or not self.path.exists() else read_rows(self.path):
            if row["key"] not in wanted and _identity(row) in asked:
                self.replaced += 1
            else:
                self.rows[row["key"]] = row | ({"trace": wanted[row["key"]]["trace"]} if row["key"] in wanted else {})

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys that have no row yet."""
        return [key for key in keys if key not in self.rows]

    def begin(self) -> None:
        """Writes what there is, so that a place that cannot be written to is found before any work is done."""
        self._new = True
        self.write()
        self._took = 0.0  # the first time says nothing of the next

    def add(self, row: Row) -> None:
        """A new row; it is written soon."""
        self.rows[row["key"]] = row
        self._new = True
        if time.monotonic() - self._written >= self._took / MOST_OF_TIME:
            self.write()

    def write(self) -> None:
        """Everything to disk, unless nothing is new; the old file is there until the new one is whole."""
        if self.path is None or not (self._new or self.replaced):
            return
        start = time.monotonic()
        with replacing(self.path) as beside:
            pq.write_table(self.table(), beside, compression="zstd", write_page_checksum=True)
        self._written, self._new = time.monotonic(), False
        self._took = self._written - start

    def table(self, only_wanted: bool = False) -> pa.Table:
        """Rows in the order of the sweep, then those that it did not ask for."""
        keys = [key for key in self.wanted if key in self.rows]
        keys += [] if only_wanted else [key for key in self.rows if key not in self.wanted]
        return pa.Table.from_pylist([self.rows[key] for key in keys], COLUMNS)

    def frame(self) -> pd.DataFrame:
        """The rows that the sweep asked for; whole numbers stay whole where some are unknown."""
        return _frame(self.table(only_wanted=True))


def _frame(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas().astype(MAYBE_UNKNOWN)


def is_sweep(path: Path) -> bool:
    """Whether there is a Parquet file that `sweep` wrote, by whichever release."""
    try:
        check_regular(path)
        return _MARK in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError, UnicodeDecodeError, UnsuitableError):
        return False


def read_frame(path: Path) -> pd.DataFrame:
    """All rows of a sweep file, as `sweep` returns them; ValueError if it is none of this release."""
    return _frame(pa.Table.from_pylist(list(read_rows(path)), COLUMNS))


def _identity(row: Row) -> tuple[Any, ...]:
    """What a row is about, in the user's eyes; its trace is known by its content, wherever its file is or was."""
    return (row["trace_hash"], *(row[name] for name in NAMES if name not in ("version", "trace")))


def read_rows(path: Path) -> Sequence[Row]:
    """The rows of a sweep file, without the columns that it lacks of ADDED; ValueError if it is none."""
    try:
        file = open_parquet(path, page_checksum_verification=True)
        marked = (file.schema_arrow.metadata or {}).get(_MARK) == SCHEMA.encode()
        if marked and _is_ours(file.schema_arrow):
            rows: list[Row] = file.read().to_pylist()
            return rows
    except FileNotFoundError:
        raise ValueError(f"'{path}': there is no such file; name the file of a sweep") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError):
        pass
    except UnsuitableError:
        raise
    except ValueError as error:
        raise ValueError(f"'{path}' cannot be read: {error}; name another file, or move it away") from None
    raise ValueError(f"'{path}' is there and is no sweep of this release; name another file, or move it away")


def _is_ours(schema: pa.Schema) -> bool:
    """Whether these are the columns of a sweep; those that were added later may be missing."""
    there = [field for field in COLUMNS if field.name in schema.names or field.name not in ADDED]
    return bool(schema.equals(pa.schema(there)))


@contextmanager
def alone(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Holds a sweep file for this process; ValueError if another has it."""
    if path is None:
        yield
        return
    _check_place(path)
    target = Path(path)
    with locked(target, f"another sweep is writing to '{target}'; wait for it, or name another file"):
        remove_abandoned(followed(target))
        yield


def _check_place(path: str | os.PathLike[str] | None) -> None:
    """ValueError for a pipe or a device: what was written to it cannot be read again."""
    with suppress(FileNotFoundError):
        kind = None if path is None else kind_of(os.stat(path))
        if kind is not None:
            raise ValueError(f"'{path}' is {kind}, and a sweep goes on with what it wrote; name a file")
