"""How time and memory of curves grow with tokens, layers, experts, chosen experts, capacities and threads.

    python -m benchmarks.speed.growth [--most 1e7] [--runs 3] [--output benchmarks/results/growth.json]

One axis at a time, each with a policy in a process of its own that has compiled before: processor seconds of a curve
(the least of the runs), seconds by the clock, and by how much the most memory that the process held rose meanwhile
(`rise_mib`; it was `trace_mib` with the trace). `tokens` and `layers` are of traces that come in parts, as large files
do: the same 65,536 drawn tokens over and over, checked and grouped anew each time. `--most` is the most tokens; 1e8
take several GiB, for what describes a token is in memory. The other axes are of traces in memory. `exponent` is the
slope of the logarithm of time over that of the axis (of threads: by the clock), a line fitted through the last three
points: 1 is linear, 0 does not grow.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import remoe_sim
from benchmarks.script import options, own_command, show
from remoe_sim.trace.sources import joined
from remoe_sim.util.threads import one_thread

BLOCK = 2**16
USUAL = {"tokens": BLOCK, "layers": 4, "experts": 64, "top_k": 6, "capacities": 0, "threads": 1}  # 0: every capacity
AXES: dict[str, tuple[list[int], list[str], dict[str, int]]] = {  # points, policies, what else is not as usual
    "tokens": ([10**4, 10**5, 10**6, 10**7, 10**8], ["lru", "lfu", "belady"], {"layers": 2}),
    "layers": ([2, 4, 8, 16, 32], ["lru", "belady"], {"tokens": 4 * BLOCK}),
    "experts": ([16, 32, 64, 128, 256, 512], ["lru", "lfu", "belady"], {"top_k": 8}),
    "top_k": ([1, 2, 4, 8, 16], ["lru", "lfu", "belady"], {}),
    "capacities": ([1, 4, 16, 64, 256], ["lru", "lfu", "belady", "fifo"], {"experts": 256, "top_k": 8}),
    "threads": ([1, 2], ["lru", "lfu", "belady"], {"layers": 32}),
}
IN_PARTS = ("tokens", "layers")


@dataclass(frozen=True)
class Repeated:
    """A source that gives layers in parts: the same tokens over and over."""

    block: npt.NDArray[np.uint16]
    tokens: int
    resident = False

    def parts(self, index: int) -> Iterator[remoe_sim.Decisions]:
        for start in range(0, self.tokens, BLOCK):
            yield remoe_sim.Decisions(self.block[: self.tokens - start].copy())

    def decisions(self, index: int) -> remoe_sim.Decisions:
        return joined(self.parts(index), self.tokens, self.block.shape[1])

    def weights(self, index: int) -> None:
        return None

    def probs(self, index: int) -> None:
        return None


def trace_of(point: dict[str, int], in_parts: bool) -> remoe_sim.Trace:
    tokens, layers, experts, top_k = (point[name] for name in ("tokens", "layers", "experts", "top_k"))
    drawn = remoe_sim.synth(
        tokens=BLOCK, layers=1 if in_parts else layers, experts=experts, top_k=top_k, reuse=0.28, request_tokens=BLOCK,
        prompt_tokens=0, seed=8,
    )  # fmt: skip
    numbers = np.arange(tokens, dtype=np.int32)
    columns = np.zeros(tokens, np.int32), numbers, numbers, np.ones(tokens, np.uint8)
    model = remoe_sim.Model((experts,) * layers, (top_k,) * layers)
    if in_parts:
        source: Any = Repeated(drawn.decisions(0).experts, tokens)
    else:
        whole = np.arange(tokens)
        source = remoe_sim.InMemory([drawn.decisions(index).take(whole) for index in range(layers)])
    return remoe_sim.Trace(*columns, tuple(range(layers)), model, source)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_axis(axis: str, policy: str, most: int, runs: int) -> list[dict[str, float]]:
    """The curves of one policy along an axis, the smallest first."""
    points, _, other = AXES[axis]
    rows = []
    for value in points:
        point = USUAL | other | {axis: value}
        if point["tokens"] > most:
            continue
        cache = None
        if point["capacities"]:
            cache = np.linspace(1, point["experts"], point["capacities"] + 1)[1:].astype(int).tolist()
        small = trace_of(point | {"tokens": 1000, "layers": 4}, axis in IN_PARTS)
        remoe_sim.curve(small, policy, cache=cache)  # compiles
        trace = trace_of(point, axis in IN_PARTS)
        before, cpu, wall = peak_mib(), [], []
        for _ in range(runs if point["tokens"] < 10**7 else 1):
            start, started = time.process_time(), time.perf_counter()
            if point["threads"] == 1:
                with one_thread():
                    remoe_sim.curve(trace, policy, cache=cache)
            else:
                remoe_sim.curve(trace, policy, cache=cache)
            cpu.append(time.process_time() - start)
            wall.append(time.perf_counter() - started)
        lookups = point["tokens"] * point["layers"] * point["top_k"]
        rows.append({
            axis: value, "cpu_s": round(min(cpu), 4), "wall_s": round(min(wall), 4),
            "ns_per_lookup": round(min(cpu) / lookups * 1e9, 2), "trace_mib": round(before),
            "rise_mib": round(peak_mib() - before),
        })  # fmt: skip
    return rows


def exponent(rows: list[dict[str, Any]], axis: str, unit: str) -> float:
    """The slope through the last three points in logarithms."""
    last = rows[-3:]
    over, times = np.log([row[axis] for row in last]), np.log([row[unit] for row in last])
    return round(float(np.polyfit(over, times, 1)[0]), 2)


def measure(axes: list[str], most: int, runs: int) -> Iterator[dict[str, Any]]:
    for axis in axes:
        _, policies, other = AXES[axis]
        for policy in policies:
            asked = json.dumps([axis, policy, most, runs])
            done = subprocess.run(own_command("--step", asked), capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            rows = json.loads(done.stdout)
            yield {
                "axis": axis, "policy": policy, "fixed": USUAL | other, "in_parts": axis in IN_PARTS, "points": rows,
                "exponent": exponent(rows, axis, "wall_s" if axis == "threads" else "cpu_s"),
            }  # fmt: skip


def main() -> None:
    parser = options(__doc__, quick={"most": 1e5, "runs": 1, "axes": "tokens"})
    parser.add_argument("--most", type=float, default=1e7, help="the most tokens")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--axes", default=",".join(AXES), metavar="AXIS,…")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(run_axis(*json.loads(given.step))))
        return
    answer = {
        "most_tokens": int(given.most), "runs": given.runs, "processors": os.cpu_count(),
        "axes": list(measure(given.axes.split(","), int(given.most), given.runs)),
    }  # fmt: skip
    show(answer, given.output)


if __name__ == "__main__":
    main()
