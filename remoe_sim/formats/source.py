"""The input of a trace format: its bytes, what the user said of it, and the checks of ids and other whole numbers."""

from __future__ import annotations

import atexit
import gzip
import hashlib
import io
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from remoe_sim.trace.trace import MOST_EXPERTS
from remoe_sim.util.arrays import Int32s, Ints
from remoe_sim.util.decompression import check_unpacked
from remoe_sim.util.errors import TraceError
from remoe_sim.util.input_files import UnsuitableError, check_regular
from remoe_sim.util.progress import done
from remoe_sim.util.remote import RemotePath, place
from remoe_sim.util.remote_errors import RemoteError

LARGEST = 2**31 - 1


def outside(values: Ints, least: int, most: int = LARGEST) -> tuple[int, ...] | None:
    """Find the first number below `least` or above `most`; its place, or None if there is none."""
    wrong = np.argwhere((values < least) | (values > most))
    return tuple(int(one) for one in wrong[0]) if wrong.size else None


def checked_ids(ids: Ints, fault: Callable[[tuple[int, ...], str], TraceError], *, empty: bool = False) -> Int32s:
    """Return expert ids of any type as int32, none of them changed.

    empty: whether -1 stands for a slot that was not computed. Raises fault(place, text) for ids that no model has.
    """
    place = outside(ids, -1 if empty else 0, MOST_EXPERTS - 1)
    if place is not None:
        least = "-1 (an empty slot) or 0" if empty else "0"
        raise fault(place, f"expert {ids[place]} is not possible, expected {least} to {MOST_EXPERTS - 1}; correct it")
    return ids.astype(np.int32)


HEAD_BYTES = 64 * 2**10
_ZIP = b"PK\x03\x04"
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd")


@dataclass(frozen=True)
class Given:
    """What the user said of the model and the file; it goes before what a file says. None stands for "nothing".

    expert_bytes and dense_bytes: one entry for all layers, or one per MoE layer and one per layer of the model;
    columns: (kind, column) pairs of `columns.parse_columns`; phase: of all tokens; axes: what the axes of an array
    are, of layers, tokens and k; moe_layers: how many MoE layers a known model has.
    """

    experts: int | None = None
    expert_bytes: tuple[int, ...] | None = None
    dense_bytes: tuple[int, ...] | None = None
    name: str | None = None
    quant: str | None = None
    top_k: int | None = None
    columns: tuple[tuple[str, str], ...] = ()
    phase: int | None = None
    axes: tuple[str, ...] | None = None
    moe_layers: int | None = None


class _Counted(io.FileIO):
    """A file whose bytes are reported as they are read."""

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        done(count or 0, "bytes")
        return count

    def readall(self) -> bytes:
        data = super().readall()
        done(len(data), "bytes")
        return data


class _Limited(io.RawIOBase):
    """What a packed file unpacks to, as far as that is plausible."""

    def __init__(self, unpacked: Any, source: Source) -> None:
        self._unpacked, self._source, self._at = unpacked, source, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._unpacked.readinto(buffer)  # pyarrow's read would leak what it was to fill, where it fails
        self._at += count
        self._source.check_unpacked(self._at)
        return count


@dataclass
class Source:
    """One input of an import: a file (plain, gzip or zstd, told by its first bytes) or a directory.

    notes: what a format assumed, one sentence each; guessed: the number of experts if it had to be assumed;
    requests: what the input says of each request, by number, where it says anything; remote: the URL that was given, if
    any: a file was fetched to `path`, a directory is read where it lies; unit: what messages count, lines or rows;
    called: what messages call it, if not its path.
    """

    path: Path
    given: Given = field(default_factory=Given)
    notes: list[str] = field(default_factory=list)
    guessed: int | None = None
    requests: list[dict[str, Any]] | None = None
    remote: RemotePath | None = None
    unit: str = "line"
    called: str = ""

    @property
    def name(self) -> str:
        """What messages call it: the path as it was given."""
        return self.called or str(self.remote or self.path)

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory, here or at a URL."""
        return self.path.is_dir() if self.remote is None else not self.remote.is_fetched

    @property
    def size(self) -> int | None:
        """Its bytes as it lies there; None for a directory."""
        return None if self.is_dir else self.path.stat().st_size

    @property
    def folder(self) -> Path | RemotePath:
        """The directory, if it is one."""
        return self.remote or self.path

    @property
    def file_name(self) -> str:
        """Its base name without the ending of a compression."""
        base = self.path.name
        return base[: base.rindex(".")] if base.lower().endswith(_SUFFIXES) else base

    def error(self, text: str, line: int | None = None, column: str | None = None) -> TraceError:
        """A TraceError that names the file, and the line and column if they are known."""
        place = [] if line is None else [f"{self.unit} {line}"]
        place += [] if column is None else [f"column '{column}'"]
        return TraceError(": ".join([self.name, *([", ".join(place)] if place else []), text]))

    def note(self, text: str) -> None:
        """Remember an assumption for the notes of the trace."""
        if text not in self.notes:
            self.notes.append(text)

    def describe_requests(self, facts: list[dict[str, Any]]) -> None:
        """Remember what the input says of request 0, 1, …, for the user to choose requests by."""
        self.requests = facts
        looping = sum(one.get("has_repetition") is True for one in facts)
        if looping:
            self.note(f"{looping} of {len(facts)} requests are marked as repetition loops (has_repetition)")

    def experts(self, largest: int, stated: int | None = None) -> int:
        """How many experts a layer has: as the user says, else as the file states, else the largest id + 1."""
        count = self.given.experts or stated
        if count is None:
            count = max(largest, 0) + 1
            self.guessed = count
        if count > MOST_EXPERTS:
            raise self.error(f"{count} experts are more than the {MOST_EXPERTS} that are possible; correct the ids")
        return count

    @cached_property
    def compression(self) -> str | None:
        """`gzip`, `zstd` or None, by the first bytes."""
        if self.is_dir:
            return None
        with self._guarded(), self.path.open("rb") as raw:
            start = raw.read(4)
        return next((name for magic, name in _COMPRESSIONS.items() if start.startswith(magic)), None)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The decompressed bytes. An error while they are read becomes a TraceError that names the file."""
        compression = self.compression
        with self._guarded():
            if compression == "gzip":
                with self._counted() as raw, gzip.open(raw) as stream, self._limited(stream) as limited:
                    yield limited
            elif compression == "zstd":
                import pyarrow as pa

                packed = pa.CompressedInputStream(pa.PythonFile(self._counted(), "r"), "zstd")
                with packed, self._limited(packed) as limited:
                    yield limited
            else:
                with self._counted() as plain:
                    yield plain

    def _limited(self, unpacked: Any) -> io.BufferedReader:
        return io.BufferedReader(_Limited(unpacked, self), 2**17)

    def _counted(self) -> io.BufferedReader:
        return io.BufferedReader(_Counted(self.path), 2**17)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except RemoteError as error:
            raise self.error(str(error)) from None
        except FileNotFoundError:
            raise self.error("there is no such file; give the path of a recording") from None
        except IsADirectoryError:
            raise self.error("this is a directory; give the path of a file in it") from None
        except PermissionError:
            raise self.error("the file may not be read; change its permissions") from None
        except (EOFError, OSError, zlib.error) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise self.error(f"cannot be read to its end, perhaps truncated ({why}); copy or record it again") from None

    @cached_property
    def head(self) -> bytes:
        """The first 64 KiB, decompressed; nothing for a directory."""
        if self.is_dir:
            return b""
        with self.open() as stream:
            return stream.read(HEAD_BYTES)

    @cached_property
    def head_text(self) -> str:
        """The head as text, without a byte order mark; broken bytes are replaced."""
        return self.head.decode("utf-8", "replace").removeprefix("\ufeff")

    @property
    def shape(self) -> str:
        """`directory`, `zip`, `json`, `text` or `binary`, by the first bytes."""
        if self.is_dir:
            return "directory"
        if self.head.startswith(_ZIP):
            return "zip"
        if b"\0" in self.head:
            return "binary"
        return "json" if self.head_text.lstrip().startswith(("{", "[")) else "text"

    def lines(self) -> Iterator[tuple[int, str]]:
        """Line numbers from 1 and lines of text without their ends."""
        with self.open() as stream:
            for number, line in enumerate(stream, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise self.error("not UTF-8 text; save the file as UTF-8", number) from None
                yield number, text.rstrip("\r\n")

    def check_unpacked(self, unpacked: int) -> None:
        """TraceError where the file would unpack to more bytes than is plausible."""
        try:
            check_unpacked(unpacked, self.size or 0)
        except ValueError as error:
            raise self.error(str(error)) from None

    @cached_property
    def members(self) -> tuple[str, ...]:
        """Names of what is inside a zip archive (npz, pt) or a directory; nothing for other files."""
        if self.is_dir:
            return tuple(sorted(self._below()))
        if not self.head.startswith(_ZIP):
            return ()
        try:
            with self.archive() as archive:
                return tuple(archive.namelist())
        except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
            raise self.error("a damaged or truncated archive; copy or record it again") from None

    @contextmanager
    def archive(self) -> Iterator[zipfile.ZipFile]:
        """The zip archive that it is; TraceError if its members would take more than is plausible."""
        with self.seekable() as file, zipfile.ZipFile(file) as archive:
            self.check_unpacked(sum(one.file_size for one in archive.infolist()))
            yield archive

    def _below(self) -> Iterator[str]:
        if self.remote is not None:
            with self._guarded():
                yield from (file.relative_to(self.remote) for file in self.remote.rglob("*"))
        else:
            yield from (str(file.relative_to(self.path)) for file in self.path.rglob("*") if file.is_file())

    @contextmanager
    def seekable(self) -> Iterator[BinaryIO]:
        """The decompressed bytes with random access; a compressed file is unpacked in memory."""
        with self.open() as stream:
            yield stream if self.compression is None else io.BytesIO(stream.read())

    def sha256(self) -> str | None:
        """Digest of the file as it lies there; None for a directory."""
        if self.is_dir:
            return None
        with self._guarded(), self.path.open("rb") as raw:
            return hashlib.file_digest(raw, "sha256").hexdigest()


def as_source(path: str | os.PathLike[str] | RemotePath, given: Given) -> Source:
    """The source at a path or URL, `-` for the standard input; TraceError if there is nothing to read."""
    if str(path) == "-":
        return _checked(Source(_standard_input(), given, called="standard input"))
    there = path if isinstance(path, RemotePath) else place(path)
    if isinstance(there, RemotePath):
        source = Source(Path(there.name), given, remote=there)
        with source._guarded():
            if not there.is_dir():
                source.path = there.fetched()
    else:
        source = Source(there, given)
        try:
            check_regular(there)
        except UnsuitableError as error:
            raise source.error(f"this {error.why}") from None
        except IsADirectoryError:
            pass
    return _checked(source)


def _checked(source: Source) -> Source:
    if not source.is_dir and not source.head:
        raise source.error("the file is empty; record it again")
    return source


def _standard_input() -> Path:
    """What comes from the standard input, in a file until the process ends: formats read parts of it twice."""
    folder = Path(tempfile.mkdtemp(prefix="remoe-sim-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    kept = folder / "standard-input"
    with kept.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return kept
