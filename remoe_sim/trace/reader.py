"""Read trace files, and find those that are installed with the package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from remoe_sim.trace.arrow import from_arrow, to_numpy
from remoe_sim.trace.schema import AHEAD, LAYER, ROWS, DecisionsHash, Metadata, array_hash, row_hash
from remoe_sim.trace.sources import PART_ROWS, joined
from remoe_sim.trace.trace import PHASES, Decisions, Trace, TraceLike
from remoe_sim.trace.views import foreseen
from remoe_sim.trace.weights import EXPECTED, wrong_weight
from remoe_sim.util.errors import TraceError, unknown
from remoe_sim.util.input_files import UnsuitableError
from remoe_sim.util.progress import done, stage
from remoe_sim.util.remote import RemotePath, is_url, open_parquet, place
from remoe_sim.util.remote_errors import MissingError, RemoteError
from remoe_sim.util.threads import map_layers


def sample_path(name: str) -> Path:
    """Where the bundled trace `name` lies; ValueError with the names of all if there is none."""
    found = {
        path.stem: path
        for folder in import_module("remoe_sim.traces").__path__
        for path in Path(folder).glob("samples/*.parquet")
    }
    if name not in found:
        raise unknown("sample", name, found)
    return found[name]


RESIDENT_BYTES = 256 * 2**20  # traces whose decisions take no more are read and checked at once and kept in memory


def read_trace(path: str | os.PathLike[str]) -> Trace:
    """Read a trace file, or a URL (`s3://…`, `hf://…`, `https://…`; extra `remote`); `sample:NAME` reads a bundled one.

    Small traces are read and checked whole; of large ones a layer is read, verified and checked when it is asked for.
    Raises TraceError when the file is missing, broken, of an unknown schema version or holds impossible routing.
    """
    with stage("reading"):
        return _read(path)


def as_trace(given: TraceLike) -> Trace:
    """Read what is not a trace yet."""
    return given if isinstance(given, Trace) else read_trace(given)


def _read(path: str | os.PathLike[str]) -> Trace:
    name = str(path)
    if name.startswith("sample:"):
        source = _FileLayers(sample_path(name.removeprefix("sample:")), name)
    else:
        there = place(path)
        source = _FileLayers(there, str(there) if is_url(path) else name)
    trace = source.trace
    slots = sum(trace.model.top_k)
    if trace.tokens * slots * 2 <= RESIDENT_BYTES:
        layers = list(map_layers(source.decisions, trace.moe_layers))
        trace = replace(trace, source=_Resident(layers, source))
        for index in range(trace.moe_layers):
            trace.decisions(index)
    return trace


class _FileLayers:
    """The layers of a trace file, read again whenever they are asked for. `name` is what messages call the file."""

    resident = False

    def __init__(self, path: Path | RemotePath, name: str) -> None:
        self.path, self.name = path, name
        self._footer: pq.FileMetaData | None = None
        self.names, stored = self._open()
        self.meta = Metadata(stored, self.names, self.error)
        self.content = self.meta.content
        self.trace = self._describe()

    def error(self, text: str) -> TraceError:
        return TraceError(f"{self.name}: {text}")

    def _file(self) -> pq.ParquetFile:
        file = open_parquet(self.path, metadata=self._footer, page_checksum_verification=True)
        self._footer = file.metadata
        return file

    def _open(self) -> tuple[list[str], dict[bytes, bytes]]:
        try:
            with self._file() as file:
                return file.schema_arrow.names, dict(file.schema_arrow.metadata or {})
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(error) from None

    def _is_folder(self) -> bool:
        try:
            return self.path.is_dir()
        except OSError:  # of a name that is too long, for one
            return False

    def _unreadable(self, error: Exception) -> TraceError:
        if isinstance(error, TraceError):
            return error
        if isinstance(error, RemoteError) and not (isinstance(error, MissingError) and self.path.is_dir()):
            return self.error(str(error))
        if isinstance(error, UnsuitableError):
            return self.error(f"this {error.why}")
        if isinstance(error, FileNotFoundError):
            return self.error("there is no such file; give the path of a trace, or sample:NAME for a bundled one")
        if isinstance(error, IsADirectoryError) or self._is_folder():
            return self.error("this is a directory; give the path of a trace file")
        if isinstance(error, PermissionError):
            return self.error("the file may not be read; change its permissions")
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        if "size is 0 bytes" in first_line:
            return self.error("the file is empty; write it again with 'remoe-sim import'")
        return self.error(
            f"not a readable Parquet file, perhaps truncated or of another format ({first_line}); "
            "make a trace of it with 'remoe-sim import'"
        )

    def _describe(self) -> Trace:
        missing = [name for name in (*ROWS, "phase") if name not in self.names]
        if missing:
            raise self.error(f"column '{missing[0]}' is missing; a trace has the columns {', '.join(ROWS)} and phase")
        found = [match for match in map(LAYER.fullmatch, self.names) if match]
        numbers = tuple(int(match[1]) for match in found)
        if not numbers:
            raise self.error("there is no column experts_NN; a trace has one for each MoE layer")
        names = [*ROWS, "phase", *(["token_id"] if "token_id" in self.names else [])]
        rows = dict(zip(names, map_layers(lambda at: self._row_column(names[at]), len(names)), strict=True))
        trace = Trace(
            **rows,
            layer_numbers=numbers,
            model=self.meta.model(len(numbers)),
            source=self,
            origin=self.meta.origin,
            notes=self.meta.notes,
            path=self.name,
        )
        for name in names:
            self._verify(name, row_hash(trace, name))
        return trace

    def _column(self, name: str) -> pa.ChunkedArray:
        try:
            with self._file() as file:
                return file.read(columns=[name], use_threads=False).column(name)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise self._unreadable(error) from None

    def _row_column(self, name: str) -> npt.NDArray[Any]:
        return self._phases() if name == "phase" else self._integers(name)

    def _integers(self, name: str) -> npt.NDArray[np.int32]:
        column = self._column(name)
        if not pa.types.is_integer(column.type):
            raise self.error(f"column '{name}' holds {column.type}, expected int32")
        if column.null_count:
            row = int(np.flatnonzero(to_numpy(column.is_null()))[0])
            raise self.error(f"row {row}, column '{name}': null, but every token has a {name}")
        try:
            same = column if column.type == pa.int32() else column.cast(pa.int32())  # a cast takes long to load
            return np.require(to_numpy(same), np.int32, "W")
        except pa.ArrowInvalid as error:
            raise self.error(f"column '{name}': {str(error).splitlines()[0]}, expected int32") from None

    def _phases(self) -> npt.NDArray[np.uint8]:
        column = self._column("phase")
        kinds = {pa.string(), pa.large_string(), pa.string_view()}
        if (column.type.value_type if pa.types.is_dictionary(column.type) else column.type) not in kinds:
            raise self.error(f"column 'phase' holds {column.type}, expected text")
        codes = np.full(len(column), 255, np.uint8)
        at = 0
        for chunk in column.chunks:
            coded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
            words = [PHASES.index(word) if word in PHASES else 255 for word in _words(coded.dictionary)]
            there = to_numpy(coded.is_valid()) if coded.null_count else slice(None)
            indices = coded.indices.drop_null() if coded.null_count else coded.indices
            places = to_numpy(indices)
            if places.size and not 0 <= int(places.min()) <= int(places.max()) < len(words):
                raise self.error(
                    "column 'phase' points to words that are not there; the file is damaged, write it again"
                )
            codes[at : at + len(chunk)][there] = np.array(words, np.uint8)[places]
            at += len(chunk)
        wrong = np.flatnonzero(codes == 255)
        if wrong.size:
            one = column[int(wrong[0])]
            (given,) = _words(pa.array([one.value if isinstance(one, pa.DictionaryScalar) else one]))
            raise self.error(f"row {wrong[0]}, column 'phase': {given!r}, expected 'prefill' or 'decode'")
        return codes

    def _verify(self, name: str, digest: str) -> None:
        if name in self.content and self.content[name] != digest:
            raise self.error(f"column '{name}' does not match its content hash; the file is damaged, write it again")

    def _lists(
        self, column: pa.ChunkedArray, name: str, k: int, dtype: type, start: int = 0
    ) -> tuple[npt.NDArray[Any], Any, Any]:
        try:
            return from_arrow(column, k, dtype, start)
        except ValueError as error:
            raise self.error(f"column '{name}': {error}") from None

    def digest(self, index: int) -> str | None:
        return self.content.get(self.trace.column(index))

    def decisions(self, index: int) -> Decisions:
        return joined(self.parts(index), self.trace.tokens, self.trace.model.top_k[index])

    def parts(self, index: int) -> Iterator[Decisions]:
        """The decisions of a layer, PART_ROWS tokens at a time; the last part only if the whole is what was written."""
        return self._parts(self.trace.column(index), self.trace.model.top_k[index])

    @cached_property
    def most_ahead(self) -> int:
        """Told from the names of columns."""
        found = [int(match[1]) for match in map(AHEAD.fullmatch, self.names) if match]
        return max(found, default=0)

    def ahead(self, index: int, distance: int) -> Decisions | None:
        name, k = self.trace.column(index, foreseen(distance)), self.trace.model.top_k[index + distance]
        return joined(self._parts(name, k), self.trace.tokens, k) if name in self.names else None

    def _parts(self, name: str, k: int) -> Iterator[Decisions]:
        digest, at = DecisionsHash(), 0
        for column in self._batches(name):
            part = Decisions(*self._lists(column, name, k, np.uint16, at))
            digest.update(part)
            at += len(column)
            if at > self.trace.tokens:
                break
            done(len(column), "rows")
            if at == self.trace.tokens:
                self._verify(name, digest.digest())
            yield part
        if at != self.trace.tokens:
            raise self._of_other_length(name)

    def _of_other_length(self, name: str) -> TraceError:
        return self.error(f"column '{name}' has not {self.trace.tokens} rows as 'request' has; write the file again")

    def _batches(self, name: str) -> Iterator[pa.ChunkedArray]:
        """A column, PART_ROWS rows at a time or fewer; at least once."""
        try:
            with self._file() as file:
                rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] or [0]
                if sum(rows) == 0 or max(rows) == sum(rows) <= PART_ROWS:
                    yield file.read(columns=[name], use_threads=False).column(name)
                    return
                for group in range(len(rows)):
                    for batch in file.iter_batches(PART_ROWS, [group], columns=[name], use_threads=False):
                        yield pa.chunked_array([batch.column(0)])
        except (pa.ArrowException, OSError, KeyError) as error:
            raise self._unreadable(error) from None

    def _optional(self, index: int, kind: str, width: int, dtype: type) -> npt.NDArray[Any] | None:
        name = self.trace.column(index, kind)
        if name not in self.names:
            return None
        values, _, _ = self._lists(self._column(name), name, width, dtype)
        if len(values) != self.trace.tokens:
            raise self._of_other_length(name)
        self._verify(name, array_hash(values))
        return values

    def weights(self, index: int) -> npt.NDArray[np.float32] | None:
        values = self._optional(index, "weights", self.trace.model.top_k[index], np.float32)
        wrong = None if values is None else wrong_weight(values, unknown=True)
        if wrong is not None and values is not None:
            place = f"row {wrong[0]}, column '{self.trace.column(index, 'weights')}'"
            raise self.error(f"{place}: {values[wrong]} cannot be a gate weight; {EXPECTED}, correct it")
        return values

    def probs(self, index: int) -> npt.NDArray[np.float16] | None:
        return self._optional(index, "probs", self.trace.model.experts[index], np.float16)


def _words(texts: pa.Array) -> list[str | None]:
    """Text that may be damaged, so that it is no UTF-8."""
    try:
        words: list[str | None] = texts.to_pylist()
        return words
    except UnicodeDecodeError:
        found = texts.cast(pa.binary()).to_pylist()  # takes long to load
        return [None if word is None else word.decode(errors="backslashreplace") for word in found]


class _Resident:
    """Decisions in memory; weights, probabilities and look-ahead choices still in the file."""

    resident = True

    def __init__(self, layers: list[Decisions], file: _FileLayers) -> None:
        self._layers = layers
        self.weights, self.probs, self.digest = file.weights, file.probs, file.digest
        self.most_ahead, self.ahead = file.most_ahead, file.ahead

    def decisions(self, index: int) -> Decisions:
        return self._layers[index]
