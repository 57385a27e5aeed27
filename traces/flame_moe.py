"""A directory of FLAME-MoE-Traces: one Parquet file per layer, with a row for each token of a packed training stream.

    actives/iter_0010/layer_02.parquet      indices: list<int16> [k], scores: list<float16> [k], largest first
    samples/000.parquet, 001.parquet, ...   token_id: int32, row by row the same tokens; may be missing

Give the directory of an iteration, or one above it if there is only one iteration in it. The stream has no bounds of
requests and is teacher-forced: it is one request, and each token a decode step. Shared experts are not recorded. The
files are read side by side in blocks, never whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.parquet_footer import largest_of
from remoe_sim.formats.source import LARGEST, Source, outside
from remoe_sim.trace import DECODE, Decisions, InMemory, Model, Trace
from remoe_sim.trace.weights import EXPECTED, in_order, wrong_weight
from remoe_sim.util.errors import TraceError
from remoe_sim.util.remote import AHEAD, open_parquet
from remoe_sim.util.remote_errors import RemoteError

_LAYER = re.compile(r"layer_(\d{1,5})\.parquet")
_READ_AT_ONCE = 2**20


class FlameMoe(TraceFormat):
    name = "flame-moe"
    summary = "FLAME-MoE-Traces: a directory with layer_NN.parquet (indices, scores), read in blocks"
    layout = __doc__ or ""
    shape = "directory"
    words = (".parquet", "layer_")
    directories = True
    writer = "CMU-FLAME/FLAME-MoE-Traces: a directory of Parquet files, read in blocks"
    kept = "gate weights, token ids from `samples`"
    lost = "a packed stream: one request, each token a step"
    sure = "its data card"

    def recognises(self, source: Source) -> bool:
        return source.is_dir and any(_LAYER.fullmatch(Path(name).name) for name in source.members)

    def read(self, source: Source) -> Trace:
        layers = _Layers(source, _files(source))
        tokens = layers.rows
        rows = np.arange(tokens, dtype=np.int32)  # both position and step
        source.note("each token of the packed, teacher-forced stream is a decode step of its own, of one request")
        return Trace(
            request=np.broadcast_to(np.int32(0), (tokens,)),
            position=rows,
            step=rows,
            phase=np.broadcast_to(np.uint8(DECODE), (tokens,)),
            token_id=_token_ids(source, next(iter(layers.files.values())), tokens),
            layer_numbers=tuple(layers.files),
            model=Model((source.experts(layers.largest()),) * len(layers.files), (layers.k,) * len(layers.files)),
            source=layers,
        )


def _files(source: Source) -> dict[int, Any]:
    """Layer number to file, of the only directory that holds any."""
    if not source.is_dir:
        raise source.error("this is a file; give the directory that holds layer_NN.parquet")
    found: dict[Any, dict[int, Any]] = {}
    for name in source.members:
        match = _LAYER.fullmatch(Path(name).name)
        if match:
            path = source.folder / name
            found.setdefault(path.parent, {})[int(match[1])] = path
    if not found:
        raise source.error("there is no layer_NN.parquet in it; give the directory of an iteration")
    if len(found) > 1:
        names = ", ".join(str(one.relative_to(source.folder)) for one in sorted(found))
        raise source.error(f"several directories hold layer_NN.parquet ({names}); give one of them")
    return dict(sorted(next(iter(found.values())).items()))


class _Layers:
    """The layers as a source of a trace. k: experts per token; rows: tokens."""

    resident = False

    def __init__(self, source: Source, files: dict[int, Any]) -> None:
        self.source, self.files = source, files
        self._footers: dict[int, Any] = {}
        counts = {number: self._open(number).metadata.num_rows for number in files}
        first = next(iter(files))
        self.rows = counts[first]
        if not self.rows:
            raise source.error(f"{files[first].name} has no rows; copy it again")
        for number, count in counts.items():
            if count != self.rows:
                text = f"{files[number].name} has {count} rows, {files[first].name} has {self.rows}"
                raise source.error(f"{text}; copy the shorter one again")
        scored = [number for number in files if "scores" in self._open(number).schema_arrow.names]
        self.scored = len(scored) == len(files)
        if self.scored:
            source.note("slots are in the order of scores, the largest first")
        else:
            source.note("gate weights left out, because not all layers have scores")
        head = next(self._batches(first, "indices", 1), None)
        self.k = 0 if head is None or not head[0].is_valid else len(head[0])
        if not self.k:
            raise source.error(f"{files[first].name}: the first row of 'indices' is empty; copy it again")

    def decisions(self, index: int) -> Decisions:
        return Decisions(self._ordered(index)[0])

    def weights(self, index: int) -> npt.NDArray[np.float32] | None:
        return self._ordered(index)[1]

    def _ordered(self, index: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32] | None]:
        """Ids and scores of a whole layer; None for scores that are not there."""
        number = list(self.files)[index]
        ids = self._whole(number, "indices", np.uint16)
        return self._in_order(number, ids, self._whole(number, "scores", np.float32), 0) if self.scored else (ids, None)

    def _in_order(
        self, number: int, ids: npt.NDArray[Any], scores: npt.NDArray[Any], first: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """Rows from `first` on with the largest score first; TraceError for what cannot be a score."""
        wrong = wrong_weight(scores, unknown=False)
        if wrong is not None:
            place = f"{self.files[number].name}, row {first + wrong[0]}, column 'scores'"
            raise self.source.error(f"{place}: {scores[wrong]} cannot be one; {EXPECTED}, copy the file again")
        ids, ordered, _ = in_order(ids, scores)
        return ids, ordered.astype(np.float32, copy=False)

    def probs(self, index: int) -> None:
        return None

    def blocks(self, rows: int) -> Iterator[InMemory]:
        """All layers side by side."""
        streams = [
            _Stream(self, number, name, dtype)
            for name, dtype in (("indices", np.uint16), *([("scores", np.float32)] if self.scored else []))
            for number in self.files
        ]
        for at in range(0, self.rows, rows):
            read = [one.take(min(rows, self.rows - at)) for one in streams]
            ids, scores = read[: len(self.files)], read[len(self.files) :]
            for index, (number, mine) in enumerate(zip(self.files, scores, strict=False)):
                ids[index], scores[index] = self._in_order(number, ids[index], mine, at)
            yield InMemory([Decisions(one) for one in ids], scores or None)

    def largest(self) -> int:
        """The largest id, from the statistics of the files where they have them."""
        import pyarrow.compute as pc

        largest = 0
        for number in self.files if self.source.given.experts is None else ():
            known = self._by_statistics(number)
            if known is not None:
                largest = max(largest, known)
            else:
                for batch in self._batches(number, "indices", _READ_AT_ONCE):
                    largest = max(largest, pc.max(batch.flatten()).as_py() or 0)
        return largest

    def _by_statistics(self, number: int) -> int | None:
        path = self.files[number]
        try:
            with path.open("rb") if isinstance(path, Path) else path.open(AHEAD) as file:
                return largest_of(file, "indices")
        except (OSError, ValueError) as error:
            raise self._unreadable(number, error) from None

    def _open(self, number: int) -> Any:
        import pyarrow as pa

        path = self.files[number]
        try:
            file = open_parquet(path, AHEAD, metadata=self._footers.get(number), buffer_size=2**20)
            self._footers[number] = file.metadata
            if "indices" not in file.schema_arrow.names:
                names = ", ".join(file.schema_arrow.names)
                raise self.source.error(f"{path.name}: column 'indices' is missing (there are {names}); copy it again")
            return file
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(number, error) from None

    def _unreadable(self, number: int, error: Exception) -> Exception:
        if isinstance(error, TraceError):
            return error
        if isinstance(error, RemoteError):
            return self.source.error(f"{self.files[number].name}: {error}")
        why = (str(error).splitlines() or [type(error).__name__])[0]
        return self.source.error(f"{self.files[number].name} cannot be read ({why}); copy it again")

    def _batches(self, number: int, name: str, rows: int) -> Iterator[Any]:
        """Arrays of lists of a column, of at most so many rows."""
        import pyarrow as pa

        try:
            for group in range(self._open(number).metadata.num_row_groups):
                with self._open(number) as file:  # a reader keeps what it needed of each group until it is closed
                    for batch in file.iter_batches(rows, [group], columns=[name], use_threads=False):
                        yield batch.column(0)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(number, error) from None

    def _whole(self, number: int, name: str, dtype: type) -> npt.NDArray[Any]:
        return _Stream(self, number, name, dtype).take(self.rows)


@dataclass
class _Stream:
    """One column of one layer, taken from its beginning to its end."""

    layers: _Layers
    number: int
    name: str
    dtype: type

    def __post_init__(self) -> None:
        self._batches = self.layers._batches(self.number, self.name, 2**17)
        self._rest: Any = None
        self._at = 0

    def take(self, rows: int) -> npt.NDArray[Any]:
        """The next rows, [rows, k]."""
        values: npt.NDArray[Any] = np.empty((rows, self.layers.k), self.dtype)
        filled = 0
        while filled < rows:
            chunk = self._rest if self._rest is not None and len(self._rest) else next(self._batches, None)
            if chunk is None:
                name = self.layers.files[self.number].name
                raise self.layers.source.error(
                    f"{name} ends after {self._at} rows, and its footer says {self.layers.rows}; copy it again"
                )
            part, self._rest = chunk[: rows - filled], chunk[rows - filled :]
            values[filled : filled + len(part)] = self._numbers(part)
            filled += len(part)
            self._at += len(part)
        return values

    def _numbers(self, part: Any) -> npt.NDArray[Any]:
        import pyarrow as pa

        from remoe_sim.trace.arrow import from_arrow

        place = f"{self.layers.files[self.number].name}, rows from {self._at} on, column '{self.name}'"
        try:
            values, valid, _ = from_arrow(pa.chunked_array([part]), self.layers.k, self.dtype)
        except ValueError as error:
            raise self.layers.source.error(f"{place}: {error}; copy it again") from None
        if valid is not None:
            raise self.layers.source.error(f"{place}: a row or number is null; copy it again")
        return values


def _checked_tokens(column: Any, first: int) -> Any:
    """The token ids of a column; ValueError for what cannot be one."""
    import pyarrow as pa

    from remoe_sim.trace.arrow import to_numpy

    if not pa.types.is_integer(column.type) or column.null_count:
        raise ValueError(f"token_id from row {first} on holds {column.type} or null, expected whole numbers")
    values = to_numpy(column)
    wrong = outside(values, 0)
    if wrong is not None:
        raise ValueError(f"row {first + wrong[0]}: token id {values[wrong]} is not possible, expected 0 to {LARGEST}")
    return values


def _token_ids(source: Source, layer: Any, tokens: int) -> npt.NDArray[np.int32] | None:
    """Ids from the samples beside the activations; None, with a note, if there are none for just these tokens."""
    import pyarrow as pa

    try:
        folders = (folder / "samples" for folder in list(layer.parents)[:3])
        files = next((sorted(folder.glob("*.parquet")) for folder in folders if folder.is_dir()), [])
        if not files:
            return None
        counts = [open_parquet(file).metadata.num_rows for file in files]
        if sum(counts) != tokens:
            source.note(f"token ids left out, because the samples have {sum(counts)} rows for {tokens} tokens")
            return None
        ids: npt.NDArray[np.int32] = np.empty(tokens, np.int32)
        at = 0
        for file in files:
            for batch in open_parquet(file, AHEAD).iter_batches(_READ_AT_ONCE, columns=["token_id"]):
                ids[at : at + len(batch)] = _checked_tokens(batch.column(0), at)
                at += len(batch)
        return ids
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise source.error(f"the samples beside it cannot be read ({why}); copy them again or remove them") from None
