"""Measure the speed of drives, GPUs and memory."""

from __future__ import annotations

import importlib.util
import mmap
import os
import random
import re
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
from typing import Any

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


ABSENT = "torch with CUDA is not here, so the CPU was measured; copies to a device were not"
CUDA_DEPTHS = (1, 2, 4)  # copies in flight, a stream each
BYTES, CUDA_PRODUCT = 2**30, 4096  # read by matrix-vector products; rows and columns of matrices that are multiplied


@dataclass(frozen=True)
class CudaSpeed:
    """Bytes per second of copies within the memory (read and written) and of float16 matrix-vector products;
    flops_per_s of float16 matrix products; copies: from pinned host memory, none where memory is shared."""

    title: str
    memory_bytes: int
    unified: bool
    copied: float
    matrix_vector: float
    flops_per_s: float
    copies: tuple[ReadSpeed, ...]

    @property
    def best(self) -> float:
        return max(self.copied, self.matrix_vector)


def measure_cuda(seconds: float, progress: Callable[[str], None]) -> CudaSpeed | None:
    """The first CUDA device, each figure over about that many seconds; None without torch or without CUDA."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    of = torch.cuda.get_device_properties(0)
    unified = bool(getattr(of, "is_integrated", False))
    progress("device: memory and products")
    size = min(BYTES, of.total_memory // 8)
    matrix = torch.ones((size // 2 // 4096, 4096), dtype=torch.float16, device="cuda")
    other, vector = torch.empty_like(matrix), torch.ones(4096, dtype=torch.float16, device="cuda")
    square = torch.ones((CUDA_PRODUCT, CUDA_PRODUCT), dtype=torch.float16, device="cuda")
    stored = matrix.numel() * 2
    return CudaSpeed(
        title=str(of.name),
        memory_bytes=int(of.total_memory),
        unified=unified,
        copied=2 * stored / _seconds(torch, lambda: other.copy_(matrix), seconds),
        matrix_vector=stored / _seconds(torch, lambda: matrix @ vector, seconds),
        flops_per_s=2 * CUDA_PRODUCT**3 / _seconds(torch, lambda: square @ square, seconds),
        copies=() if unified else tuple(_copies(torch, seconds, progress)),
    )


def _copies(torch: Any, seconds: float, progress: Callable[[str], None]) -> list[ReadSpeed]:
    streams, found = [torch.cuda.Stream() for _ in range(max(CUDA_DEPTHS))], []
    for size in SIZES:
        progress(f"device: copies of {size // 1024} KiB")
        pairs = [
            (torch.empty(size, dtype=torch.uint8).pin_memory(), torch.empty(size, dtype=torch.uint8, device="cuda"))
            for _ in streams
        ]
        for lanes in CUDA_DEPTHS:

            def together(pairs: Any = pairs, lanes: int = lanes) -> None:
                for stream, (host, device) in zip(streams[:lanes], pairs, strict=False):
                    with torch.cuda.stream(stream):
                        device.copy_(host, non_blocking=True)

            found.append(ReadSpeed(size, lanes, lanes * size / _seconds(torch, together, seconds)))
    return found


def _seconds(torch: Any, function: Callable[[], Any], seconds: float) -> float:
    """Per call, each waited for, the calls of a first round not counted."""
    function()
    torch.cuda.synchronize()
    calls, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds or not calls:
        function()
        torch.cuda.synchronize()
        calls += 1
    return passed / calls


ARRAY_BYTES, QUICK_ARRAY_BYTES = 2**28, 2**26  # at least, of each of the three arrays
BEYOND = 4  # times the caches, so that they hold little of an array when it is read again
CACHE_BYTES = 2**26  # taken where the system does not say
LEAST_RUNS, MOST_RUNS, QUICK_MOST_RUNS = 7, 40, 10
AGREE = 0.03  # two fastest runs that differ by no more are taken for what the machine can do
BUSY = 0.1  # load per processor
PRODUCT = 1024  # rows and columns of the matrices that are multiplied


@dataclass(frozen=True)
class MemorySpeed:
    """Bytes per second: triad on one core and with a thread per core, and float32 matrix-vector products that read a
    matrix of `array_bytes`; flops_per_s: float32 matrix products; cache_bytes: last-level caches of the processors;
    agreed: of each, the two fastest runs do."""

    threads: int
    array_bytes: int
    one_core: float
    all_cores: float
    matrix_vector: float
    flops_per_s: float
    cache_bytes: int
    agreed: bool

    @property
    def best(self) -> float:
        """The bandwidth of the card: the fastest of all; products only read, and other programs disturb some runs."""
        return max(self.one_core, self.all_cores, self.matrix_vector)


def memory_bytes() -> int:
    """Memory of this machine. Raises ValueError where the system does not say it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        raise ValueError(
            "this system does not say how much memory it has; write the card by hand, after one that "
            "'remoe-sim list devices' shows"
        ) from None


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_bytes() -> int:
    """What the last-level caches of all processors hold together; CACHE_BYTES where the system does not say."""
    found: dict[tuple[int, str], int] = {}
    for folder in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, size, shared = ((folder / name).read_text().strip() for name in ("level", "size", "shared_cpu_list"))
        except OSError:
            continue
        if re.fullmatch(r"\d+K", size):
            found[int(level), shared] = int(size[:-1]) * 1024
    last = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == last) or CACHE_BYTES


def busy() -> str | None:
    """A sentence if other programs use the processors, as far as the system tells."""
    if not hasattr(os, "getloadavg"):
        return None
    load = os.getloadavg()[0]
    if load < max(0.5, BUSY * cores()):
        return None
    return (
        f"the machine was busy (load {load:.1f} on {cores()} processors), so it may be faster than these numbers; "
        "measure again when it is idle"
    )


def measure_memory(quick: bool = False) -> MemorySpeed:
    """The best of several runs over arrays far larger than caches, repeated until two agree."""
    import numpy as np

    from remoe_sim.kernels.statistics import triad

    caches, least, threads = cache_bytes(), QUICK_ARRAY_BYTES if quick else ARRAY_BYTES, cores()
    size = min(max(least, BEYOND * caches), memory_bytes() // 16) // 8192 * 8192  # whole rows of the matrix
    runs = (2, QUICK_MOST_RUNS) if quick else (LEAST_RUNS, MOST_RUNS)
    arrays = [np.empty(size // 8) for _ in range(3)]
    shares = [slice(k * arrays[0].size // threads, (k + 1) * arrays[0].size // threads) for k in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def everywhere(function: Callable[..., Any]) -> None:
            list(pool.map(function, *([array[share] for share in shares] for array in arrays)))

        everywhere(lambda *parts: [part.fill(1.0) for part in parts])  # each thread touches its share first
        triad(*(array[:16] for array in arrays), 3.0)  # compiled before the clock runs
        alone = _best(lambda: triad(*arrays, 3.0), *runs)
        together = _best(lambda: everywhere(lambda a, b, c: triad(a, b, c, 3.0)), *runs)
    matrix = arrays[0].view(np.float32).reshape(-1, 2048)
    vector, square = np.ones(2048, np.float32), np.ones((PRODUCT, PRODUCT), np.float32)
    vectors, squares = _best(lambda: matrix @ vector, *runs), _best(lambda: square @ square, *runs)
    return MemorySpeed(
        threads=threads,
        array_bytes=size,
        one_core=3 * size / alone[0],
        all_cores=3 * size / together[0],
        matrix_vector=matrix.nbytes / vectors[0],
        flops_per_s=2 * PRODUCT**3 / squares[0],
        cache_bytes=caches,
        agreed=all(agreed for _, agreed in (alone, together, vectors, squares)),
    )


def settled(seconds_of_run: Callable[[], float], most: int, least: int = 2) -> tuple[float, bool]:
    """Seconds of the fastest of at least `least` and at most `most` runs, after one that does not count, and whether
    the two fastest agree, which ends the runs."""
    seconds_of_run()
    fastest: list[float] = []
    for number in range(most):
        fastest = sorted([*fastest, seconds_of_run()])[:2]
        agreed = len(fastest) == 2 and fastest[1] <= (1 + AGREE) * fastest[0]
        if agreed and number + 1 >= least:
            return fastest[0], True
    return fastest[0], False


def _best(function: Callable[[], Any], least: int, most: int) -> tuple[float, bool]:
    """`settled` by the clock."""

    def seconds() -> float:
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    return settled(seconds, most, least)
