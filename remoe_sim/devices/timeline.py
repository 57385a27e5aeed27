"""The timeline of a device: when it reads, when it computes, and the file that shows it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.devices.shares import given_to_cpu
from remoe_sim.devices.steps import Counts, Reads, Steps
from remoe_sim.trace.accesses import DECODE_LOOKUP, PREFILL_LOOKUP
from remoe_sim.util.errors import unknown
from remoe_sim.util.files import replacing

if TYPE_CHECKING:
    from remoe_sim.devices.costs import Costs
    from remoe_sim.util.arrays import Int32s, Longs, Reals

OVERLAPS = ("none", "layer", "prefetch")
DEFAULT_OVERLAP = "layer"
PARTS = ("dense", "experts", "storage_wait", "pcie_wait", "fixed")


@dataclass(frozen=True)
class Times:
    """Seconds of each step, float64[steps], their parts float64[steps, 5] in the order of PARTS, and how many experts
    that were read ahead came late, int64[steps, MoE layers]. cpu_share: of all misses, those that the CPU
    computed; None without misses."""

    steps: Steps
    seconds: Reals
    parts: Reals
    late: Longs
    cpu_share: float | None = None

    @cached_property
    def tpot_ms(self) -> dict[str, float] | None:
        """Time per output token: of every counted decode token, that of its step. None if there is none."""
        decoding = np.flatnonzero(self.steps.decode)
        if not decoding.size:
            return None
        each = np.repeat(self.seconds[decoding], self.steps.decode[decoding]) * 1e3
        p50, p95, p99 = np.percentile(each, (50, 95, 99))
        return {"mean": float(each.mean()), "p50": float(p50), "p95": float(p95), "p99": float(p99)}

    @property
    def tokens_per_second(self) -> float | None:
        """Counted decode tokens over the time of their steps."""
        decoding = self.steps.decode > 0
        seconds = float(self.seconds[decoding].sum())
        return float(self.steps.decode.sum()) / seconds if seconds else None

    @property
    def ttft_ms(self) -> dict[str, float] | None:
        """Time to the first token of each turn: from the first step of its prompt to the end of the last. None without
        prompts."""
        if not self.steps.prompts.size:
            return None
        ends = np.append(0.0, np.cumsum(self.seconds))
        each = (ends[self.steps.prompts[:, 1] + 1] - ends[self.steps.prompts[:, 0]]) * 1e3
        p50, p95, p99 = np.percentile(each, (50, 95, 99))
        return {"mean": float(each.mean()), "p50": float(p50), "p95": float(p95), "p99": float(p99)}

    @property
    def parts_ms(self) -> dict[str, float] | None:
        """Mean time per cause, over the counted decode tokens; adds up to the mean of tpot_ms."""
        tokens = int(self.steps.decode.sum())
        if not tokens:
            return None
        sums = self.steps.decode.astype(np.float64) @ self.parts / tokens * 1e3
        return {name: float(value) for name, value in zip(PARTS, sums, strict=True)}

    def towards(self, other: Times, share: float) -> Times:
        """What the same steps take on average if a share of them goes as in another run."""
        seconds = self.seconds + share * (other.seconds - self.seconds)
        return replace(self, seconds=seconds, parts=self.parts + share * (other.parts - self.parts))

    def waiting(self, seconds: Reals) -> Times:
        """The same with a wait for storage in each step, float64[steps], next to which nothing is done."""
        parts = self.parts.copy()
        parts[:, PARTS.index("storage_wait")] += seconds
        return replace(self, seconds=self.seconds + seconds, parts=parts)

    def to_dict(self) -> dict[str, Any]:
        return {
            "tpot_ms": self.tpot_ms,
            "tokens_per_second": self.tokens_per_second,
            "ttft_ms": self.ttft_ms,
            "parts_ms": self.parts_ms,
        }


@dataclass(frozen=True)
class Log:
    """Events of the first steps: kind, step, layer and lane int32[n, 4] (`kernels.timeline`), start and end in seconds
    float64[n, 2]."""

    events: Int32s
    spans: Reals


def check_overlap(overlap: str | None) -> str:
    """The name of an overlap mode, the default for None; ValueError naming all if it is unknown."""
    if overlap is None:
        return DEFAULT_OVERLAP
    if overlap not in OVERLAPS:
        raise unknown("overlap", overlap, OVERLAPS)
    return overlap


def run(costs: Costs, steps: Steps, reads: Reads, overlap: str = "layer", compute_ms: float | None = None) -> Times:
    """The times of all steps.

    compute_ms: a measured computing time per decode token that takes the place of the modelled one, whose parts keep
    their proportions.
    """
    return _run(with_compute(costs, steps, reads, overlap, compute_ms), steps, reads, overlap)[0]


def with_compute(costs: Costs, steps: Steps, reads: Reads, overlap: str, compute_ms: float | None) -> Costs:
    """The costs with which these steps take the measured computing time; as they are without one."""
    return costs if compute_ms is None else costs.scaled(compute_factor(costs, steps, reads, overlap, compute_ms))


def compute_factor(costs: Costs, steps: Steps, reads: Reads, overlap: str, compute_ms: float) -> float:
    """The measured computing time per decode token over the modelled one; 1 where nothing is computed."""
    parts = _run(costs, steps, reads, overlap)[0].parts_ms
    modelled = 0.0 if parts is None else parts["dense"] + parts["experts"] + parts["fixed"]
    return compute_ms / modelled if modelled else 1.0


def log(costs: Costs, steps: Steps, reads: Reads, overlap: str, first: int, room: int = 200_000) -> Log:
    """The events of the first steps, at most `room` of them."""
    return _run(costs, steps.first(first), reads.first(first), overlap, room)[1]


def _run(costs: Costs, steps: Steps, reads: Reads, overlap: str, room: int = 0) -> tuple[Times, Log]:
    from remoe_sim.kernels import timeline as kernels

    count = steps.tokens.size
    seconds, parts, late = np.zeros(count), np.zeros((count, len(PARTS))), np.zeros(steps.needed.shape, np.int64)
    events, spans = np.zeros((room + 1, kernels.EVENT_COLUMNS), np.int32), np.zeros((room, 2))
    reads, cpu = given_to_cpu(costs, steps, reads, OVERLAPS.index(overlap))
    if count:
        counts = (steps.needed, reads.far, reads.near, reads.early, reads.used, cpu)
        kernels.run_timeline(
            kernels.Load(steps.tokens, steps.kv_tokens, *map(_counts, counts)),
            kernels.Mode(reads.depth, reads.guessed, OVERLAPS.index(overlap), costs.at_once),
            kernels.Seconds(costs.moe_of, _layer_costs(costs, steps), costs.head_costs, costs.expert_costs),
            kernels.Wires(costs.far_sizes, costs.near_sizes, costs.link, costs.lanes),
            kernels.Filled(seconds, parts, late),
            kernels.Journal(events, spans) if room else None,
        )
    written = int(events[0, 0])
    times = Times(steps, seconds, parts, late, _share(cpu, reads))
    return times, Log(events[1 : written + 1], spans[:written])


def _share(cpu: Counts, reads: Reads) -> float | None:
    """Of all misses, those that the CPU computes; None without misses."""
    read = reads.far, reads.near, reads.used
    if not cpu.any():
        return 0.0 if any(one.any() for one in read) else None
    computed = int(cpu.sum(dtype=np.int64))
    return computed / (computed + sum(int(one.sum(dtype=np.int64)) for one in read))


def _counts(array: Counts) -> Counts:
    """The array in the one layout that the kernel is compiled for."""
    return np.require(array, np.uint16, ["C", "W"])


def _layer_costs(costs: Costs, steps: Steps) -> Reals:
    """With the share of the context that layers of a sliding window look at, at the mean context of a token."""
    mean = float(steps.kv_tokens.sum()) / max(int(steps.decode.sum()), steps.tokens.size, 1)
    shares = [1.0 if window is None else min(1.0, window / max(mean, 1.0)) for window in costs.kv_windows]
    layers: Reals = costs.layer_costs.copy()
    layers[:, 1] *= shares
    return layers


def kinds_of_steps(kinds: npt.NDArray[np.uint8], starts: Longs) -> tuple[Longs, Longs]:
    """int64[steps] each: counted decode tokens and counted prefill tokens of every step."""
    if starts.size < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    decode = np.add.reduceat((kinds == DECODE_LOOKUP).astype(np.int64), starts[:-1])
    return decode, np.add.reduceat((kinds == PREFILL_LOOKUP).astype(np.int64), starts[:-1])


_KINDS = ("dense", "experts", "waiting", "experts on the CPU", "read", "copy")
_TRACKS = ("device", "device", "device", "CPU", "storage lane", "PCIe lane")


def write_events(path: str | os.PathLike[str], log: Log, title: str) -> None:
    """Write the events of a log; the file appears whole or not at all. Raises ValueError if that cannot be."""
    tracks: dict[str, int] = {}
    events: list[dict[str, object]] = []
    for (kind, step, layer, lane), (start, end) in zip(log.events.tolist(), log.spans.tolist(), strict=True):
        name = _TRACKS[kind] + (f" {lane}" if _TRACKS[kind].endswith("lane") else "")
        events.append(
            {
                "name": _KINDS[kind], "ph": "X", "pid": 1, "tid": tracks.setdefault(name, len(tracks) + 1),
                "ts": start * 1e6, "dur": (end - start) * 1e6, "args": {"step": step, "layer": layer},
            }
        )  # fmt: skip
    named = [{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": title}}]
    named += [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": number, "args": {"name": name}}
        for name, number in tracks.items()
    ]
    text = json.dumps({"displayTimeUnit": "ms", "traceEvents": [*named, *events]})
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
