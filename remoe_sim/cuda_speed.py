"""How fast a CUDA device reads its memory, and how fast copies from host memory reach it."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from remoe_sim.storage_reads import SIZES, ReadSpeed

ABSENT = "torch with CUDA is not here, so the CPU was measured; copies to a device were not"
DEPTHS = (1, 2, 4)  # copies in flight, a stream each
BYTES, PRODUCT = 2**30, 4096  # read by matrix-vector products; rows and columns of matrices that are multiplied


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
    square = torch.ones((PRODUCT, PRODUCT), dtype=torch.float16, device="cuda")
    stored = matrix.numel() * 2
    return CudaSpeed(
        title=str(of.name),
        memory_bytes=int(of.total_memory),
        unified=unified,
        copied=2 * stored / _seconds(torch, lambda: other.copy_(matrix), seconds),
        matrix_vector=stored / _seconds(torch, lambda: matrix @ vector, seconds),
        flops_per_s=2 * PRODUCT**3 / _seconds(torch, lambda: square @ square, seconds),
        copies=() if unified else tuple(_copies(torch, seconds, progress)),
    )


def _copies(torch: Any, seconds: float, progress: Callable[[str], None]) -> list[ReadSpeed]:
    streams, found = [torch.cuda.Stream() for _ in range(max(DEPTHS))], []
    for size in SIZES:
        progress(f"device: copies of {size // 1024} KiB")
        pairs = [
            (torch.empty(size, dtype=torch.uint8).pin_memory(), torch.empty(size, dtype=torch.uint8, device="cuda"))
            for _ in streams
        ]
        for lanes in DEPTHS:

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
