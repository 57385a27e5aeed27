"""Where an output goes: what its path leads to, what kind of thing that is, and whose permissions it has."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

MOST_LINKS = 40
READER_S = 5  # how long a pipe may wait for somebody who reads it
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_DESCRIPTORS = re.compile(r"/proc/(\d+)(/task/\d+)?/fd")


class UnwritableError(OSError):
    """A file that cannot be written; the message is a sentence that says which and why."""


def followed(target: Path) -> Path:
    """What a path leads to when its links are followed, whether it is there or not; links to a process's open files
    are left, as the path of such a file need not be one. Raises OSError for links that lead in a circle."""
    for _ in range(MOST_LINKS):
        if not target.is_symlink() or _is_descriptor(target):
            return target
        target = target.parent / os.readlink(target)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(target))


def _is_descriptor(target: Path) -> bool:
    return _DESCRIPTORS.fullmatch(os.path.realpath(target.parent)) is not None


def status(target: Path) -> os.stat_result | None:
    """What stands at a place that may be written to, None if nothing does. Raises OSError if it may not."""
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if not os.access(target, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    return found


def opened_stream(target: Path, stands: os.stat_result | None) -> IO[bytes] | None:
    """A pipe, a character device or what a process has open, to write to once; None for a file, or where nothing is.

    Raises UnwritableError for other kinds, and for a pipe that nobody reads.
    """
    if stands is None or (stat.S_ISREG(stands.st_mode) and not _is_descriptor(target)):
        return None
    if stat.S_ISREG(stands.st_mode) or stat.S_ISFIFO(stands.st_mode) or stat.S_ISCHR(stands.st_mode):
        return os.fdopen(_descriptor(target), "wb")
    kind = "a block device" if stat.S_ISBLK(stands.st_mode) else "a socket"
    raise UnwritableError(f"'{target}' is {kind} and is not written to; name a file")


def _descriptor(target: Path) -> int:
    """An open descriptor; the process's own ones are duplicated, so that what it writes to them comes in order."""
    if _is_descriptor(target) and target.parent.samefile("/proc/self/fd"):
        sys.stdout.flush()
        return os.dup(int(target.name))
    until = time.monotonic() + READER_S
    while True:
        try:
            descriptor = os.open(target, os.O_WRONLY | _AT_ONCE)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > until:
                raise UnwritableError(
                    f"'{target}' is a pipe that nobody reads; start what reads it first, or name a file"
                ) from None
            time.sleep(0.05)
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def keep_permissions(old: Path, stands: os.stat_result, new: Path) -> None:
    """Give a new file the owner, group, access lists and permissions of an old one, as far as the system lets us; its
    owner may write to it until it is complete."""
    if hasattr(os, "chown"):
        for owner, group in ((stands.st_uid, -1), (-1, stands.st_gid)):
            with suppress(PermissionError):
                os.chown(new, owner, group)
    if hasattr(os, "listxattr"):
        with suppress(OSError):  # of a file system without them
            for name in os.listxattr(old):
                with suppress(OSError):  # of a kind that only the system sets
                    os.setxattr(new, name, os.getxattr(old, name))
    os.chmod(new, mode(stands) | stat.S_IWUSR | stat.S_IRUSR)


def mode(stands: os.stat_result) -> int:
    """Who may read, write and run it."""
    return stands.st_mode & (stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
