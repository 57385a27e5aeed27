"""Files that appear whole or not at all, and what is left of those whose writer was killed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from remoe_sim.util.output_places import UnwritableError as UnwritableError
from remoe_sim.util.output_places import followed as followed
from remoe_sim.util.output_places import keep_permissions, mode, opened_stream, status
from remoe_sim.util.remote import RemotePath, place

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # such an error in the midst of work is one of writing
_KNOWN_SUFFIXES = frozenset(
    {
        ".parquet",
        ".csv",
        ".tsv",
        ".json",
        ".jsonl",
        ".npz",
        ".npy",
        ".html",
        ".pdf",
        ".png",
        ".svg",
        ".txt",
        ".md",
        ".pt",
    }
)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, beside the file that `path` leads to; it takes its place when all went well and is removed
    otherwise. Links are followed, and a file that is there keeps its owner and permissions.

    What killed writers of the same file left beside it goes as well. Two that write it at a time do not see each other,
    and the later file stays. A pipe or a character device gets the whole file at the end; for a URL it is written on
    this machine and sent at the end; ValueError where that is not possible. Raises OSError with a sentence if the place
    cannot be written to.
    """
    target = place(path)
    if isinstance(target, RemotePath):
        with target.sending() as beside:
            yield beside
        return
    with told(target):
        target = followed(target)
        stands = status(target)
        stream = opened_stream(target, stands)
    if stream is not None:
        with stream, _whole(stream, target) as beside:
            yield beside
        return
    with told(target):
        remove_abandoned(target)
        beside, file = _begun(target, stands)
    with file:
        try:
            yield beside
            with told(target):
                if not file.closed:
                    os.fsync(file.fileno())
                if stands is not None:
                    os.chmod(beside, mode(stands))
                os.replace(beside, target)
        except UnwritableError:
            raise
        except OSError as error:
            if error.errno in _FULL:
                raise in_words(error, target) from None
            raise
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def _whole(stream: IO[bytes], target: Path) -> Iterator[Path]:
    """A temporary file that goes to an open pipe or device when all went well."""
    with tempfile.TemporaryDirectory(prefix="remoe-sim-") as folder:
        beside = Path(folder) / (target.name or "file")
        yield beside
        with told(target), beside.open("rb") as written:
            shutil.copyfileobj(written, stream)
            stream.flush()


def _begun(target: Path, stands: os.stat_result | None) -> tuple[Path, IO[Any]]:
    """A new file beside the target, locked so that nobody takes it for abandoned; closed where there are no locks.

    stands: what is at the target; the new file can be read by nobody else than that one from the first byte on.
    """
    while True:
        beside = target.with_name(f".{target.name}.{os.getpid()}-{uuid4().hex[:8]}.part")
        file = open(beside, "xb", opener=_private if stands is not None else None)  # noqa: SIM115
        if stands is not None:
            keep_permissions(target, stands, beside)
        mine = lock(file)
        if mine and beside.exists():  # nobody looked at it before it was locked
            return beside, file
        file.close()
        if mine is None:
            return beside, file


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def told(target: Path) -> Iterator[None]:
    """Says errors as sentences about the target."""
    try:
        yield
    except UnwritableError:
        raise
    except OSError as error:
        raise in_words(error, target) from None


def in_words(error: OSError, target: Path) -> UnwritableError:
    """The same error as a sentence about the file that cannot be written."""
    why = os.strerror(error.errno).lower() if error.errno else str(error)
    what = "name a place that can be written to"
    if error.errno == errno.ENOENT:
        why, what = f"there is no folder '{target.parent}'", "make it, or name another place"
    elif error.errno in (errno.EISDIR, errno.ENOTEMPTY):
        what = "name a file"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        what = "make room there, or name another place"
    return UnwritableError(f"'{target}' cannot be written: {why}; {what}")


def remove_abandoned(target: Path) -> None:
    """Remove what writers of `target` left that were killed; what is locked has a writer."""
    with suppress(FileNotFoundError):
        for left in target.parent.iterdir():
            if left.name.startswith(f".{target.name}.") and left.name.endswith(".part"):
                with suppress(OSError), open(left, "r+b") as file:
                    if lock(file):
                        left.unlink(missing_ok=True)


@contextmanager
def locked(target: Path, otherwise: str) -> Iterator[None]:
    """Holds what is made at `target` for this process; ValueError, which says `otherwise`, if another has it.

    The lock goes with the process, however that ends.
    """
    from filelock import FileLock, Timeout  # takes as long to load as the whole of --help

    with told(target):
        target = followed(target)
        beside = target.with_name(f".{target.name}.lock")
        open(beside, "a").close()  # says what is wrong with the place; filelock would make the folder
        try:
            held = FileLock(beside, timeout=0).acquire()
        except Timeout:
            raise ValueError(otherwise) from None
    with held:
        if not beside.exists():  # without a name, it was another's, who has just finished
            raise ValueError(otherwise)
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows removes no open file
                beside.unlink(missing_ok=True)


def lock(file: IO[Any]) -> bool | None:
    """Lock an open file until it is closed, by the system, so that the lock goes with the process, however that ends;
    False if somebody else has it, None on a system without such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def refuse_suffix_of_others(path: str | os.PathLike[str], what: str, suffix: str) -> None:
    """ValueError where the suffix of `path` promises another kind of file than `what`, which ends in `suffix`."""
    found = Path(path).suffix
    if found.lower() in _KNOWN_SUFFIXES and found.lower() != suffix:
        better = os.fspath(path).removesuffix(found) + suffix
        raise ValueError(f"'{os.fspath(path)}' would not be a {found} file; {what} ends in {suffix}: give '{better}'")
