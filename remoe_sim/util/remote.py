"""Files that are not on this machine: URLs such as s3://bucket/trace.parquet, read and written through fsspec.

Of a remote Parquet file only the parts that are asked for are read. Where a server gives no parts, and for other files,
the whole is fetched into a temporary directory, once.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from remoe_sim.util.decompression import check_parquet
from remoe_sim.util.input_files import check_regular
from remoe_sim.util.progress import stage
from remoe_sim.util.remote_errors import (
    MissingError,
    RemoteError,
    as_clause,
    first_line,
    moved,
    patience,
    tried,
    without_secrets,
)

_URL = re.compile(r"[A-Za-z][\w+.-]*(::[A-Za-z][\w+.-]*)*://")
_HERE = re.compile(r"(file|local)://", re.IGNORECASE)
WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "hf", "memory")  # no half objects there
INSTALL = "python -m pip install 'remoe-sim[remote]'"
T = TypeVar("T")
AHEAD = 2**23  # bytes that are read at once of what is read from its beginning to its end


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether it is a URL of any scheme, and no path of this machine."""
    return isinstance(path, str) and bool(_URL.match(path))


def place(path: str | os.PathLike[str]) -> Path | RemotePath:
    """A path of this machine, or what a URL points to; ValueError if its scheme cannot be used here."""
    if not is_url(path):
        return Path(path)
    local = _HERE.match(str(path))
    return Path(str(path)[local.end() :]) if local else RemotePath.of(str(path))


def check_output(path: str | os.PathLike[str]) -> None:
    """ValueError for a URL that nothing can be written to; before any work is done."""
    target = place(path)
    if isinstance(target, RemotePath):
        target.check_output()


def open_parquet(path: Path | RemotePath, ahead: int = 0, **options: Any) -> Any:
    """A pyarrow.parquet.ParquetFile; of a remote one `ahead` bytes are read at once.

    Unless the footer is known (`metadata`), ValueError where it claims more rows than the file can hold.
    """
    import pyarrow.parquet as pq

    source = path.open(ahead) if isinstance(path, RemotePath) else path
    if isinstance(source, Path):
        check_regular(source)
    file = pq.ParquetFile(source, pre_buffer=isinstance(path, RemotePath), **options)  # of no use on a disk
    if options.get("metadata") is None:
        size = source.stat().st_size if isinstance(source, Path) else source.seek(0, io.SEEK_END)
        check_parquet(file.metadata, size)
    return file


class RemotePath:
    """What a URL points to; has what is needed of pathlib.Path.

    Whatever fails, raises RemoteError. Credentials and signatures in a URL are in no name and message.
    """

    def __init__(self, system: Any, inner: str, shown: str) -> None:
        self._system, self._inner, self._shown = system, inner, shown
        self._copy: Path | None = None

    @classmethod
    def of(cls, url: str) -> RemotePath:
        scheme = url[: url.index("://")]
        try:
            import fsspec
        except ImportError:
            raise ValueError(f"{scheme}:// needs the package fsspec, which is missing; run: {INSTALL}") from None
        try:
            system, inner = fsspec.core.url_to_fs(url, **patience(url))
        except ImportError as error:
            raise ValueError(f"{scheme}:// needs a package that is missing ({error}); {_remedy(scheme)}") from None
        except Exception as error:
            known = "use one of fsspec's schemes, such as s3, hf, gs, http or https"
            unknown = isinstance(error, ValueError) and scheme not in fsspec.available_protocols()
            why = f"{first_line(error)}; {known}" if unknown else str(as_clause(error))
            raise ValueError(f"{without_secrets(url)}: {why}") from None
        return cls(system, inner.rstrip("/") or inner, without_secrets(url).rstrip("/"))

    def __str__(self) -> str:
        return self._shown

    def __lt__(self, other: RemotePath) -> bool:
        return self._inner < other._inner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and (self._inner, self._shown) == (other._inner, other._shown)

    def __hash__(self) -> int:
        return hash(self._inner)

    @property
    def name(self) -> str:
        """The last part, without a query."""
        inner = self._inner.partition("?")[0] if self._web else self._inner
        return inner.rstrip("/").rsplit("/", 1)[-1]

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self._system, self._inner.rsplit("/", 1)[0], self._shown.rsplit("/", 1)[0])

    @property
    def parents(self) -> list[RemotePath]:
        """Those above it, the next one first; of the web without the host."""
        found, last = [], self
        for _ in range(self._inner.split("://")[-1].strip("/").count("/")):
            last = last.parent
            found.append(last)
        return found[:-1] if self._web else found

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self._system, f"{self._inner}/{name}", f"{self._shown}/{name}")

    def relative_to(self, other: RemotePath) -> str:
        return self._inner.removeprefix(other._inner).strip("/") or "."

    def is_dir(self) -> bool:
        """Whether anything lies below it; of the web only pages in HTML are asked for links."""

        def found() -> bool:
            if self._web and self._system.info(self._inner).get("mimetype") != "text/html":
                return False
            return bool(self._system.isdir(self._inner))

        try:
            return self._tried(found)
        except MissingError:
            return False

    def rglob(self, pattern: str) -> list[RemotePath]:
        """All files below whose names fit."""
        start = self._system._strip_protocol(self._inner).rstrip("/")
        below = self._tried(lambda: self._system.find(self._inner))
        found = [one for one in below if fnmatch(one.rsplit("/", 1)[-1], pattern)]
        return [self / one.removeprefix(start).lstrip("/") for one in sorted(found) if one.startswith(f"{start}/")]

    def glob(self, pattern: str) -> list[RemotePath]:
        """Files in it whose names fit."""
        return [one for one in self.rglob(pattern) if "/" not in one.relative_to(self)]

    def open(self, ahead: int = 0) -> io.RawIOBase:
        """The bytes, with random access. ahead: how many are read beyond what is asked for."""
        if self._copy is not None:
            return _Reader(self, self._copy.open("rb"))
        how = {"cache_type": "readahead", "block_size": ahead} if ahead else {"cache_type": "none"}
        return _Reader(self, self._tried(lambda: self._system.open(self._inner, "rb", **how)))

    @property
    def is_fetched(self) -> bool:
        """Whether the whole was fetched."""
        return self._copy is not None

    def fetched(self) -> Path:
        """A copy on this machine, made once; it goes with this object."""
        if self._copy is None:
            folder = tempfile.mkdtemp(prefix="remoe-sim-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            copy = Path(folder) / (self.name or "file")
            size = self._tried(lambda: self._system.info(self._inner).get("size"))
            with stage(f"fetching {self.name}", size) as done:
                moved(lambda told: self._system.get_file(self._inner, str(copy), callback=told), done, self.name)
            self._copy = copy
        return self._copy

    @contextmanager
    def sending(self) -> Iterator[Path]:
        """A temporary file to write to, which is sent there when all went well; ValueError if that is not possible."""
        self.check_output()
        with tempfile.TemporaryDirectory(prefix="remoe-sim-") as folder:
            beside = Path(folder) / (self.name or "file")
            yield beside
            try:
                with stage(f"sending {self.name}", beside.stat().st_size) as done:
                    moved(lambda told: self._system.put_file(str(beside), self._inner, callback=told), done, self.name)
            except RemoteError as error:
                raise ValueError(f"{self}: {error}") from None

    def check_output(self) -> None:
        """ValueError where half a file may appear while it is written."""
        if _scheme(self._system) not in WHOLE:
            raise ValueError(
                f"{self}: files cannot be written whole there; write to this machine and copy it, or give the URL of "
                "an object store, such as s3:// or hf://"
            )

    @property
    def _web(self) -> bool:
        return _scheme(self._system) in ("http", "https")

    def _tried(self, work: Callable[[], T]) -> T:
        """What a driver answers, asked again where that may help. Drivers raise what they like; here it is one kind of
        error."""
        return tried(work, self.name)


class _Reader(io.RawIOBase):
    """A remote file that turns to a copy of the whole where its server gives no parts."""

    def __init__(self, path: RemotePath, file: Any) -> None:
        self._path, self._file, self._at = path, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._at}
        self._at = offset + (self._size() if whence == io.SEEK_END else starts[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._part(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def _size(self) -> int:
        try:
            return int(self._file.seek(0, io.SEEK_END))
        except (ValueError, TypeError):  # a stream
            self._file = self._path.fetched().open("rb")
            return int(self._file.seek(0, io.SEEK_END))

    def _part(self, count: int) -> bytes:
        if isinstance(self._file, io.BytesIO):  # of memory://, the same object for all who opened it
            with self._file.getbuffer() as whole:
                return bytes(whole[self._at : self._at + count])
        return self._path._tried(lambda: self._read(count))

    def _read(self, count: int) -> bytes:
        try:
            self._file.seek(self._at)
            return bytes(self._file.read(count))
        except ValueError:  # so says fsspec of a server that gives no parts
            self._file = self._path.fetched().open("rb")
            self._file.seek(self._at)
            return bytes(self._file.read(count))


def _scheme(system: Any) -> str:
    return str(system.protocol if isinstance(system.protocol, str) else system.protocol[0])


def _remedy(scheme: str) -> str:
    return f"run: {INSTALL}" if scheme in ("http", "https", "s3", "s3a", "hf") else "install it beside remoe-sim"
