"""`measure`: write a card for the machine at hand."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoe_sim.devices.device import Device, make_device
from remoe_sim.devices.link import Link
from remoe_sim.devices.probes import (
    ABSENT,
    BLOCK,
    QUICK_SECONDS,
    SECONDS,
    CudaSpeed,
    MemorySpeed,
    ReadSpeed,
    StorageSpeed,
    busy,
    measure_cuda,
    measure_memory,
    measure_storage,
    memory_bytes,
)
from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.units import parse_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

LEAST_SECONDS = 1e-8  # what is fitted below counts as none
ENOUGH = 0.95  # of the best throughput: the default number of lanes


def fit_link(name: str, reads: Iterable[ReadSpeed], block_bytes: int) -> tuple[Link, list[float]]:
    """A link and, for each read, how much more (or less, negative) it reaches than was measured, as a share.

    Robust least squares (soft L1) of the logarithms of latency, overhead, bandwidth and bandwidth of a lane, from
    several starts because the model has edges. The default lanes are the fewest that reach 95 % of the best throughput
    of the middle size. Raises ValueError without reads.
    """
    import numpy as np
    from scipy.optimize import least_squares

    measured = list(reads)
    if not measured:
        raise ValueError(f"link '{name}' cannot be fitted: no reads were measured")
    size, lanes, speed = (
        np.array([getattr(one, key) for one in measured], float) for key in ("bytes", "lanes", "bytes_per_s")
    )

    def error(logs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        latency, overhead, shared, own = np.exp(logs)
        link = overhead + size / shared
        lane = latency + np.maximum(size / own, link)
        logs_of_shares: npt.NDArray[np.float64] = np.log(size / np.maximum(lane / lanes, link) / speed)
        return logs_of_shares

    alone = lanes == lanes.min()
    quickest = float((size[alone] / speed[alone] * lanes.min()).min())
    fits = [
        least_squares(error, np.log([latency, overhead, speed.max(), own]), loss="soft_l1", f_scale=0.05)
        for latency in (quickest / 2, quickest / 20)
        for overhead in (quickest / 20, quickest / 1000)
        for own in (speed[alone].max(), 2 * speed.max())
    ]
    best = min(fits, key=lambda fit: float(fit.cost))
    latency, overhead, shared, own = (float(number) for number in np.exp(best.x))
    middle = sorted(set(size))[len(set(size)) // 2]
    reached = {int(n): v for n, s, v in zip(lanes, size, speed, strict=True) if s == middle}
    link = Link(
        name,
        latency_s=latency if latency > LEAST_SECONDS else 0.0,
        bandwidth_bytes_per_s=shared,
        lanes=min(n for n, v in reached.items() if v >= ENOUGH * max(reached.values())),
        lane_bandwidth_bytes_per_s=own if own < shared else None,
        block_bytes=block_bytes,
        overhead_s=overhead if overhead > LEAST_SECONDS else 0.0,
    )
    return link, [link.throughput(one.bytes, one.lanes) / one.bytes_per_s - 1 for one in measured]


SCHEMA = "remoe-sim.measure.v1"
ASSUMED = {  # seconds that only an engine's own measurements can tell
    "layer_s": (3e-5, "ten small kernels or thread barriers of about 3 µs each"),
    "expert_s": (5e-6, "launch of the three matrix products of an expert"),
    "step_s": (5e-4, "sampling, and one synchronisation with the host"),
}


@dataclass(frozen=True, repr=False)
class Measurement(Shown):
    """What was measured, and the device made of it. storage_errors, copy_errors: for each read of `storage` and each
    copy of `cuda`, what the fitted link reaches beside what was measured, as a share; notes: what was not measured."""

    device: Device
    memory: MemorySpeed
    storage: StorageSpeed
    storage_errors: tuple[float, ...]
    cuda: CudaSpeed | None
    copy_errors: tuple[float, ...]
    notes: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One per link, size and number of reads under way."""
        found = [("storage", self.storage.reads, self.storage_errors)]
        if self.cuda is not None:
            found.append(("host", self.cuda.copies, self.copy_errors))
        return [
            {"link": link, **asdict(read), "error": error}
            for link, reads, errors in found
            for read, error in zip(reads, errors, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim measure --json` prints."""
        return {
            **stamp(SCHEMA),
            "device": self.device.to_dict(),
            "memory": {**asdict(self.memory), "best": self.memory.best},
            "direct": self.storage.direct,
            "scratch_bytes": self.storage.scratch_bytes,
            "reads": self.rows(),
            "cuda": None if self.cuda is None else {**asdict(self.cuda), "copies": len(self.cuda.copies)},
            "notes": list(self.notes),
        }

    def to_frame(self) -> pd.DataFrame:
        """The rows as a table."""
        import pandas as pd

        return pd.DataFrame(self.rows())


def measure(
    scratch: str | os.PathLike[str] = ".",
    *,
    scratch_bytes: int | str = "1GiB",
    quick: bool = False,
    name: str = "this-machine",
    progress: Callable[[str], None] = lambda sentence: None,
) -> Measurement:
    """Measure memory, storage and, where torch with CUDA is present, a device.

    scratch: a folder on the storage to measure, where a file of scratch_bytes is written and removed again; quick:
    few and short runs, whose numbers are marked unverified; progress: called with what is being done.
    `measure(…).device.to_toml("mine.toml")` writes the card. Raises ValueError for a folder that is missing or too
    full, and for a file too small to hold reads.
    """
    size = parse_bytes(scratch_bytes)
    seconds = QUICK_SECONDS if quick else SECONDS
    load = busy()
    storage = measure_storage(Path(scratch), size, seconds, progress)
    progress("memory and products")
    memory, cuda = measure_memory(quick), measure_cuda(seconds, progress)
    link, errors = fit_link("storage", storage.reads, BLOCK)
    host, copy_errors = fit_link("host", cuda.copies, 1) if cuda and cuda.copies else (None, [])
    unsure = None if memory.agreed else "runs over memory differ from one to the next; measure again when it is idle"
    notes = [sentence for sentence in (load, unsure, storage.refusal, None if cuda else ABSENT) if sentence]
    when = f"{'quickly ' if quick else ''}on {datetime.date.today().isoformat()}"
    card = _Card(when, "unverified" if quick else "measured")
    content = card.device(memory, cuda)
    reads = f"{len(storage.reads)} sizes and depths of random {'direct ' if storage.direct else ''}reads"
    content["storage"] = card.link(link, reads, BLOCK, errors, doubt=not storage.direct)
    if host is not None:
        content["host"] = card.link(host, f"{len(copy_errors)} sizes and depths of copies", 1, copy_errors)
    return Measurement(
        make_device(name, content), memory, storage, tuple(errors), cuda, tuple(copy_errors), tuple(notes)
    )


@dataclass(frozen=True)
class _Card:
    """Entries of a card, all of one status unless they are doubted for another reason."""

    when: str
    status: str

    def fact(self, value: float, how: str, status: str | None = None) -> dict[str, Any]:
        rounded = value if isinstance(value, int) else float(f"{value:.4g}")
        return {"value": rounded, "status": status or self.status, "source": f"{how}, measured {self.when}"}

    def device(self, memory: MemorySpeed, cuda: CudaSpeed | None) -> dict[str, Any]:
        """All but the links; of the CPU, unless there is a CUDA device."""
        content: dict[str, Any] = {
            "title": f"{platform.system()} {platform.machine()}, {memory.threads} cores",
            "unified": cuda is None or cuda.unified,
            "memory_bytes": self.fact(memory_bytes(), "all memory, as the system says", "measured"),
        }
        how = "best of triad on one core, on all cores, and float32 matrix-vector products"
        speed: MemorySpeed | CudaSpeed = memory
        if cuda is not None:
            content["title"] = f"{cuda.title}, {content['title']}"
            content["memory_bytes"] = self.fact(
                cuda.memory_bytes, "memory of the device, as its driver says", "measured"
            )
            content["host_bandwidth_bytes_per_s"] = self.fact(memory.best, how)
            how, speed = "better of copies within the device and float16 matrix-vector products", cuda
        content["bandwidth_bytes_per_s"] = self.fact(speed.best, how)
        content["efficiency"] = self.fact(speed.matrix_vector / speed.best, "matrix-vector products beside that")
        content["flops_per_s"] = self.fact(speed.flops_per_s, f"float{16 if cuda else 32} matrix products")
        for key, (value, why) in ASSUMED.items():
            content[key] = {"value": value, "status": "assumed", "source": why}
        return content

    def link(self, link: Link, how: str, block_bytes: int, errors: list[float], doubt: bool = False) -> dict[str, Any]:
        source = f"fitted to {how} (largest error {100 * max(map(abs, errors)):.0f} %)"
        status = "unverified" if doubt else None
        entries = {
            "latency_s": self.fact(link.latency_s, source, status),
            "bandwidth_bytes_per_s": self.fact(link.bandwidth_bytes_per_s, source, status),
            "lanes": self.fact(link.lanes, "fewest that reach 95 % of the best throughput", status),
            "block_bytes": {
                "value": block_bytes,
                "status": "derived",
                "source": "direct reads are made in whole pages",
            },
            "overhead_s": self.fact(link.overhead_s, source, status),
        }
        if block_bytes == 1:
            entries["block_bytes"]["source"] = "copies may have any size"
        if link.lane_bandwidth_bytes_per_s is not None:
            entries["lane_bandwidth_bytes_per_s"] = self.fact(link.lane_bandwidth_bytes_per_s, source, status)
        return entries
