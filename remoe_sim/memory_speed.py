"""How fast this machine reads and writes memory, and how much of that a matrix-vector product reaches."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    from remoe_sim.kernels.streaming import triad

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
