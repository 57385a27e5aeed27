"""Small files that a user names: only regular ones are read, whole, and up to a size that such a file may have."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MIB = 2**20
CARD_BYTES = 16 * MIB  # of cards, recipes, configurations: the largest that are known take 0.1 MiB
ROWS_BYTES = 1024 * MIB  # of tables of runs, prompts and texts
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe that takes a file's place does not block


class UnsuitableError(ValueError):
    """What is named is not a file that can be read to its end; the message is a sentence, `why` what it says of it."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} {why}")
        self.why = why


def kind_of(status: os.stat_result) -> str | None:
    """In words, what is neither a regular file nor a folder; None for these."""
    mode = status.st_mode
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "a device"
    return "a socket" if stat.S_ISSOCK(mode) else None


def check_regular(path: str | os.PathLike[str], what: str = "") -> None:
    """UnsuitableError for what may never end, or waits for a writer; what is not there is left to whoever opens it.

    what: what messages call the file, before its path.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return
    _check(status, path, what)


def read_bytes(path: str | os.PathLike[str], what: str = "", most: int = CARD_BYTES) -> bytes:
    """The content of a regular file of at most so many bytes. Raises OSError, and UnsuitableError for all others."""
    check_regular(path, what)
    with open(path, "rb", opener=_opener) as file:
        status = os.fstat(file.fileno())
        _check(status, path, what)
        if status.st_size <= most:
            content = bytearray()  # part by part: to read up to a number of bytes takes memory for all of them
            while (part := file.read(MIB)) and len(content) <= most:
                content += part  # a file of /proc has more than it says, another may grow
            if len(content) <= most:
                return bytes(content)
    why = f"has more than {most // MIB} MiB, and no more than that is read of such a file; name another one"
    raise UnsuitableError(_name(path, what), why)


def read_text(path: str | os.PathLike[str], what: str = "", most: int = CARD_BYTES) -> str:
    """The same as text in UTF-8, with `\\n` at the ends of lines; UnicodeDecodeError if it is none."""
    return read_bytes(path, what, most).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | _AT_ONCE)


def _check(status: os.stat_result, path: str | os.PathLike[str], what: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = kind_of(status)
    if kind is not None:
        why = f"is {kind}, which need not end; write what it gives to a file, and name that"
        raise UnsuitableError(_name(path, what), why)


def _name(path: str | os.PathLike[str], what: str) -> str:
    return f"{what} '{Path(path)}'".lstrip()
