"""How fast storage gives what is read at random places, by size and by how many reads are under way."""

from __future__ import annotations

import mmap
import os
import random
import secrets
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

BLOCK = 4096
SIZES = (2**17, 2**20, 3 * 2**20, 12 * 2**20)  # from a small tensor to a large expert
DEPTHS = (1, 2, 4, 8)
SECONDS, QUICK_SECONDS = 0.6, 0.03  # of each combination, all rounds together
ROUNDS = 3  # the median counts: others may use the drive meanwhile
CHUNK = 2**23  # bytes written at once
F_NOCACHE = 48  # of fcntl on macOS


@dataclass(frozen=True)
class ReadSpeed:
    """Reads of `bytes` each, `lanes` of them always under way: bytes per second."""

    bytes: int
    lanes: int
    bytes_per_s: float


@dataclass(frozen=True)
class StorageSpeed:
    """direct: the reads went past the page cache; refusal: why they did not, one sentence, else None."""

    reads: tuple[ReadSpeed, ...]
    scratch_bytes: int
    direct: bool
    refusal: str | None


def measure_storage(folder: Path, scratch_bytes: int, seconds: float, progress: Callable[[str], None]) -> StorageSpeed:
    """Read a scratch file in `folder`, which is removed whatever happens, with one thread per read under way.

    Raises ValueError if the folder is missing, the file too small for the largest read or larger than the free space.
    """
    if not folder.is_dir():
        raise ValueError(f"scratch folder '{folder}' does not exist; give a folder on the storage to measure")
    if scratch_bytes < 2 * SIZES[-1]:
        raise ValueError(f"a scratch file of {scratch_bytes} bytes is too small; give at least {2 * SIZES[-1]}")
    free = shutil.disk_usage(folder).free
    if scratch_bytes > 0.9 * free:
        raise ValueError(
            f"a scratch file of {scratch_bytes} bytes does not fit: '{folder}' has {free} bytes free and some have to "
            "stay so; give fewer, or another folder"
        )
    with _scratch(folder, scratch_bytes, progress) as path, ExitStack() as stack:
        files, refusal = _open_all(path, stack)
        with suppress(OSError):  # open files stay readable, and nothing is left even if this process is killed
            path.unlink()
        speeds: dict[tuple[int, int], list[float]] = {(size, lanes): [] for size in SIZES for lanes in DEPTHS}
        for number in range(ROUNDS):
            for size, lanes in speeds:
                progress(f"storage, round {number + 1} of {ROUNDS}: reads of {size // 1024} KiB, {lanes} at once")
                if refusal is not None:
                    _forget(files[0])
                speeds[size, lanes].append(_read(files[:lanes], size, scratch_bytes, seconds / ROUNDS))
    reads = [ReadSpeed(size, lanes, statistics.median(found)) for (size, lanes), found in speeds.items()]
    return StorageSpeed(tuple(reads), scratch_bytes, refusal is None, refusal)


@contextmanager
def _scratch(folder: Path, size: int, progress: Callable[[str], None]) -> Iterator[Path]:
    """A file of random bytes, which no drive can compress, on the drive rather than in memory."""
    import numpy as np

    source = np.random.default_rng(0)  # before the file is there: while importing, Python can lose an interrupt
    path = folder / f".remoe-sim-scratch-{os.getpid()}-{secrets.token_hex(4)}"
    try:  # the name comes first, so that an interrupt finds what to remove
        with path.open("xb", buffering=0) as file:
            for start in range(0, size, CHUNK):
                progress(f"storage: writing a scratch file, {start // 2**20} of {size // 2**20} MiB")
                file.write(source.bytes(min(CHUNK, size - start)))
            os.fsync(file.fileno())
            _forget(file)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _open_all(path: Path, stack: ExitStack) -> tuple[list[FileIO], str | None]:
    """The file once per lane, past the page cache if the file system allows it, and else why not."""
    refusal = None
    try:
        files = [stack.enter_context(_open(path, direct=True)) for _ in range(max(DEPTHS))]
        files[0].readinto(mmap.mmap(-1, BLOCK))
    except OSError as error:
        refusal = f"'{path.parent}' refuses direct reads ({error.strerror or error}), so memory may have answered some"
        files = [stack.enter_context(_open(path, direct=False)) for _ in range(max(DEPTHS))]
    return files, refusal


def _open(path: Path, *, direct: bool) -> FileIO:
    if not direct:
        return FileIO(path)
    if sys.platform == "darwin":
        import fcntl

        file = FileIO(path)
        fcntl.fcntl(file.fileno(), F_NOCACHE, 1)
        return file
    if not hasattr(os, "O_DIRECT"):
        raise OSError("this system has none")
    return FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_DIRECT))


def _forget(file: FileIO) -> None:
    """Ask the system to drop the file from memory."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(files: list[FileIO], size: int, scratch_bytes: int, seconds: float) -> float:
    """Bytes per second of all threads together, each reading its own file object into its own aligned buffer."""
    ready, stop = threading.Barrier(len(files)), threading.Event()

    def lane(number: int) -> float:
        places, buffer, got = random.Random(number), mmap.mmap(-1, size), 0
        last = (scratch_bytes - size) // BLOCK
        ready.wait()
        began = time.perf_counter()
        while not got or (time.perf_counter() - began < seconds and not stop.is_set()):
            files[number].seek(places.randint(0, last) * BLOCK)
            got += files[number].readinto(buffer) or 0
        return got / (time.perf_counter() - began)

    with ThreadPoolExecutor(len(files)) as pool:
        try:
            return sum(pool.map(lane, range(len(files))))
        finally:
            stop.set()
