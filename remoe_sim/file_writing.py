"""Files that appear whole or not at all, and what is left of those whose writer was killed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from remoe_sim.remote_files import RemotePath, place

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # such an error in the midst of work is one of writing


class UnwritableError(OSError):
    """A file that cannot be written; the message is a sentence that says which and why."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path` to write to; it takes its place when all went well and is removed otherwise.

    What killed writers of the same file left beside it goes as well. Two that write it at a time do not see each other,
    and the later file stays. For a URL the file is written on this machine and sent at the end; ValueError where that
    is not possible. Raises OSError with a sentence if the place cannot be written to.
    """
    target = place(path)
    if isinstance(target, RemotePath):
        with target.sending() as beside:
            yield beside
        return
    with told(target):
        remove_abandoned(target)
        beside, file = _begun(target)
    with file:
        try:
            yield beside
            with told(target):
                if not file.closed:
                    os.fsync(file.fileno())
                os.replace(beside, target)
        except UnwritableError:
            raise
        except OSError as error:
            if error.errno in _FULL:
                raise in_words(error, target) from None
            raise
        finally:
            beside.unlink(missing_ok=True)


def _begun(target: Path) -> tuple[Path, IO[Any]]:
    """A new file beside the target, locked so that nobody takes it for abandoned; closed where there are no locks."""
    while True:
        beside = target.with_name(f".{target.name}.{os.getpid()}-{uuid4().hex[:8]}.part")
        file = open(beside, "wb")  # noqa: SIM115
        mine = lock(file)
        if mine and beside.exists():  # nobody looked at it before it was locked
            return beside, file
        file.close()
        if mine is None:
            return beside, file


@contextmanager
def told(target: Path) -> Iterator[None]:
    """Says errors as sentences about the target."""
    try:
        yield
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

    The lock is the system's, so that it goes with the process, however that ends; on a system without such locks two
    that make the same at a time are the user's to avoid.
    """
    beside = target.with_name(f".{target.name}.lock")
    with told(target):
        file = open(beside, "w")  # noqa: SIM115
    with file:
        if lock(file) is False or not beside.exists():  # without a name, it was another's, who has just finished
            raise ValueError(otherwise)
        try:
            yield
        finally:
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
