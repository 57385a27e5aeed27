"""How fast this machine reads and writes memory, and how much of that a matrix-vector product reaches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

ARRAY_BYTES, QUICK_ARRAY_BYTES = 2**28, 2**23  # of each of the three arrays
REPEATS, QUICK_REPEATS = 7, 2
PRODUCT = 1024  # rows and columns of the matrices that are multiplied


@dataclass(frozen=True)
class MemorySpeed:
    """Bytes per second: triad on one core and with a thread per core, and float32 matrix-vector products that read a
    matrix of `array_bytes`; flops_per_s: float32 matrix products."""

    threads: int
    array_bytes: int
    one_core: float
    all_cores: float
    matrix_vector: float
    flops_per_s: float

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


def measure_memory(quick: bool = False) -> MemorySpeed:
    """The best of several runs over arrays far larger than caches (or, if quick, over small ones)."""
    import numpy as np

    from remoe_sim.kernels.streaming import triad

    size = min(QUICK_ARRAY_BYTES if quick else ARRAY_BYTES, memory_bytes() // 16)
    repeats, threads = (QUICK_REPEATS if quick else REPEATS), cores()
    arrays = [np.empty(size // 8) for _ in range(3)]
    shares = [slice(k * arrays[0].size // threads, (k + 1) * arrays[0].size // threads) for k in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def everywhere(function: Callable[..., Any]) -> None:
            list(pool.map(function, *([array[share] for share in shares] for array in arrays)))

        everywhere(lambda *parts: [part.fill(1.0) for part in parts])  # each thread touches its share first
        triad(*(array[:16] for array in arrays), 3.0)  # compiled before the clock runs
        alone = _best(lambda: triad(*arrays, 3.0), repeats)
        together = _best(lambda: everywhere(lambda a, b, c: triad(a, b, c, 3.0)), repeats)
    matrix = arrays[0].view(np.float32).reshape(-1, 2048)
    vector, square = np.ones(2048, np.float32), np.ones((PRODUCT, PRODUCT), np.float32)
    return MemorySpeed(
        threads=threads,
        array_bytes=size,
        one_core=3 * size / alone,
        all_cores=3 * size / together,
        matrix_vector=matrix.nbytes / _best(lambda: matrix @ vector, repeats),
        flops_per_s=2 * PRODUCT**3 / _best(lambda: square @ square, repeats),
    )


def _best(function: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of several runs, after one that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
