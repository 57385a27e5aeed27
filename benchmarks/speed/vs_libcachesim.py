"""Speed beside libCacheSim: whole curves (every capacity) and single capacities, same accesses, same number of threads.

    python -m benchmarks.speed.vs_libcachesim [--runs 5] [--full] [--traces ../shared/traces] [--output FILE]

A cache per layer. Ours is `remoe_sim.curve` of a trace in memory, at all capacities or at one, from call to table:
grouping, next uses, replay, counting. `replay` rows are `remoe_sim.replay`, which also counts evictions, bytes, cold
misses and the most that is held; no ratio is asked of them. Theirs is `process_trace` of a file in its binary format
(oracleGeneral, as `export` writes it, a file per layer, in the page cache, next uses already in it); opening it and
making caches is not counted, and hash tables start small, which is quickest here. All take turns in one process on one
processor, and neither is measured by a single call: theirs are the runs below, ours CALLS calls in a row; numbers are
means of those, medians over the rounds. `cpu` is processor time of the process, `wall` the clock's, which other
load on the machine lengthens; `met` is of the former.

Their whole curve is a run per layer and capacity. Unless --full is given it is the mean over LAYERS layers and
CAPACITIES capacities (evenly spread over 1 to E), times layers and E. Rows of two threads are ours (as `curve` runs by
default) by the clock, against half of their time on one, the best that two processes could do.

Misses are compared in the same run in sequential order (one access at a time, all that theirs can do; the timed runs
of ours are in set order, a token's experts at once) over the sampled layers and capacities: `misses_differ` counts
capacities that differ. Their LFU forgets what it evicts (our `lfu-forget`); the curve of our `lfu`, which does not,
stands beside the time of theirs without a comparison of misses.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import remoe_sim
from benchmarks.fidelity.agreement import LEAST, TABLE, TWINS
from benchmarks.script import NO_TRACES, TRACES, library, options, show
from remoe_sim import Decisions, InMemory, Model, Trace

libcachesim = library("libcachesim")
LAYERS, CAPACITIES = 2, 8  # of their curve, unless --full
CALLS = 4  # of ours in a round
CURVES = {"lru": (300, 500), "lfu": (250, 400), "belady": (100, 200)}  # policy: least ratio, goal
SINGLE = {"lru": 2.0, "belady": 1.5, "fifo": 1.5, "arc": 1.5, "s3fifo": 1.5, "sieve": 1.5, "lfu-forget": 1.5}
THEIRS = {**TWINS, "lfu": "LFU"}


@dataclass(frozen=True)
class Case:
    """A trace, where it lies in their format (a file per layer), and which of their layers and capacities are run."""

    name: str
    trace: Trace
    files: list[Path]
    layers: list[int]
    capacities: list[int]

    @property
    def experts(self) -> int:
        return max(self.trace.model.experts)

    def accesses(self, layers: list[int] | None = None) -> int:
        """Lookups of some layers, or of all."""
        chosen = range(self.trace.moe_layers) if layers is None else layers
        return sum(slots(self.trace.decisions(index)) for index in chosen)


def slots(decisions: Decisions) -> int:
    return decisions.experts.size if decisions.valid is None else int(np.count_nonzero(decisions.valid))


def synthetic(tokens: int, layers: int, experts: int, top_k: int, reuse: float) -> Trace:
    """A seeded trace of decode tokens, in memory."""
    drawn = remoe_sim.synth(
        tokens=tokens, layers=layers, experts=experts, top_k=top_k, reuse=reuse,
        request_tokens=tokens, prompt_tokens=0, seed=8,
    )  # fmt: skip
    return in_memory(drawn)


def in_memory(trace: Trace) -> Trace:
    """The same trace with all decisions in memory."""
    layers = [trace.decisions(index) for index in range(trace.moe_layers)]
    columns = (trace.request, trace.position, trace.step, trace.phase)
    return Trace(*columns, trace.layer_numbers, trace.model, InMemory(layers))


def traces(folder: Path, tokens: int) -> Iterator[tuple[str, Trace]]:
    """Names and traces; the real one only where it is there."""
    for reuse in (0.28, 0.45):
        yield f"26 layers, 6 of 64, reuse {reuse}", synthetic(tokens, 26, 64, 6, reuse)
    if (path := folder / "gpt-oss-20b" / "gptoss20b_decode_subset.npz").is_file():
        yield "gpt-oss-20b, 24 layers, 4 of 32", in_memory(remoe_sim.import_trace(path))
    yield "26 layers, 8 of 256, reuse 0.28", synthetic(tokens // 5, 26, 256, 8, 0.28)
    yield "26 layers, 10 of 512, reuse 0.28", synthetic(tokens // 5, 26, 512, 10, 0.28)


def one_layer(trace: Trace, index: int) -> Trace:
    """One layer of a trace, in which experts are of one byte."""
    model = Model(trace.model.experts[index : index + 1], trace.model.top_k[index : index + 1], "one layer")
    columns = (trace.request, trace.position, trace.step, trace.phase)
    return Trace(*columns, (0,), model, InMemory([trace.decisions(index)]))


def case_of(name: str, trace: Trace, folder: Path, full: bool) -> Case:
    count, experts = trace.moe_layers, max(trace.model.experts)
    layers = list(range(count)) if full else np.linspace(0, count - 1, LAYERS).astype(int).tolist()
    spread = (np.arange(CAPACITIES) + 0.5) * experts / CAPACITIES
    capacities = list(range(1, experts + 1)) if full else np.ceil(spread).astype(int).tolist()
    files = []
    for index in layers:
        files.append(folder / f"{index}.oracleGeneral")
        remoe_sim.export(trace, files[-1], "oracle-general", layer=trace.layer_numbers[index])
    return Case(name, trace, files, layers, capacities)


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of the processor and by the clock, and the answer."""
    wall, cpu = time.perf_counter(), time.process_time()
    answer = function()
    return time.process_time() - cpu, time.perf_counter() - wall, answer


def theirs(case: Case, policy: str, capacities: list[int]) -> tuple[float, float, dict[int, int]]:
    """Seconds (cpu, wall) per layer and capacity, and misses over the sampled layers per capacity."""
    cpu = wall = 0.0
    misses = dict.fromkeys(capacities, 0)
    for index, file in zip(case.layers, case.files, strict=True):
        for capacity in capacities:
            options = libcachesim.ReaderInitParam(ignore_obj_size=True)
            reader = libcachesim.TraceReader(str(file), libcachesim.TraceType.ORACLE_GENERAL_TRACE, options)
            cache = getattr(libcachesim, THEIRS[policy])(capacity, hashpower=TABLE)
            one_cpu, one_wall, (ratio, _) = timed(partial(cache.process_trace, reader))
            cpu, wall = cpu + one_cpu, wall + one_wall
            misses[capacity] += round(ratio * case.accesses([index]))
    runs = len(case.layers) * len(capacities)
    return cpu / runs, wall / runs, misses


def differences(case: Case, policy: str, misses: dict[int, int]) -> int:
    """At how many capacities our misses, one access at a time, are not theirs."""
    parts = [one_layer(case.trace, index) for index in case.layers]
    ours = dict.fromkeys(misses, 0)
    for part in parts:
        frame = remoe_sim.curve(part, policy, cache=sorted(misses), order="sequential")
        for row in frame[frame["layer"] == "all"].itertuples():
            ours[int(row.capacity)] += int(row.lookups - row.hits)
    return sum(ours[capacity] != misses[capacity] for capacity in misses)


def median(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    cpu, wall = zip(*pairs, strict=True)
    return statistics.median(cpu), statistics.median(wall)


def mean(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    cpu, wall = zip(*pairs, strict=True)
    return statistics.mean(cpu), statistics.mean(wall)


def race(
    case: Case, policy: str, capacities: list[int], call: Callable[[], Any], scale: int, runs: int
) -> dict[str, Any]:
    """Rounds of ours, CALLS times, and theirs in turn; theirs counts `scale` times the mean of a layer and capacity."""
    call()  # compiles
    ours, others, misses = [], [], {}
    for _ in range(runs):
        ours.append(mean([timed(call)[:2] for _ in range(CALLS)]))
        cpu, wall, misses = theirs(case, policy, capacities)
        others.append((cpu * scale, wall * scale))
    (cpu, wall), (their_cpu, their_wall) = median(ours), median(others)
    return {
        "cpu_s": round(cpu, 4), "wall_s": round(wall, 4), "libcachesim_cpu_s": round(their_cpu, 3),
        "libcachesim_wall_s": round(their_wall, 3), "ratio_cpu": round(their_cpu / cpu, 2),
        "ratio_wall": round(their_wall / wall, 2), "lookups_per_s": round(case.accesses() / cpu), "misses": misses,
    }  # fmt: skip


def curves(case: Case, runs: int) -> Iterator[dict[str, Any]]:
    cells = case.trace.moe_layers * case.experts
    for policy, (least, goal) in CURVES.items():
        row = race(case, policy, case.capacities, partial(remoe_sim.curve, case.trace, policy), cells, runs)
        misses = row.pop("misses")
        differ = differences(case, policy, misses) if policy in TWINS else None
        reached = {"goal_ratio": goal, "goal_met": row["ratio_cpu"] >= goal, "misses_differ": differ}
        yield {
            "trace": case.name, "what": "curve", "policy": policy, "threads": 1, **row,
            **verdict(row, least, **reached),
        }  # fmt: skip


def single(case: Case, runs: int) -> Iterator[dict[str, Any]]:
    capacity = case.experts // 4
    for policy, least in SINGLE.items():
        if capacity < LEAST.get(policy, 1):
            continue
        for what, wanted in ((remoe_sim.curve, least), (remoe_sim.replay, None)):
            call = partial(what, case.trace, cache=capacity, policy=policy)
            row = race(case, policy, [capacity], call, case.trace.moe_layers, runs)
            misses = row.pop("misses")
            yield {
                "trace": case.name, "what": f"{what.__name__} at one capacity", "capacity": capacity,
                "policy": policy, "threads": 1, **row,
                **verdict(row, wanted, misses_differ=differences(case, policy, misses) if wanted else None),
            }  # fmt: skip


def verdict(row: dict[str, Any], least: float | None, **more: Any) -> dict[str, Any]:
    return {} if least is None else {"least_ratio": least, **more, "met": row["ratio_cpu"] >= least}


def two_threads(case: Case, runs: int, of_one: list[dict[str, Any]], processors: set[int]) -> Iterator[dict[str, Any]]:
    """Ours on all processors of the machine, by the clock, against half of their time on one."""
    os.sched_setaffinity(0, processors)
    for row in of_one:
        walls = [timed(partial(remoe_sim.curve, case.trace, row["policy"]))[1] for _ in range(runs)]
        wall, other = statistics.median(walls), row["libcachesim_cpu_s"] / len(processors)
        yield {
            "trace": case.name, "what": "curve", "policy": row["policy"], "threads": len(processors),
            "wall_s": round(wall, 4), "libcachesim_wall_s": round(other, 3), "ratio_wall": round(other / wall, 2),
        }  # fmt: skip
    os.sched_setaffinity(0, {max(processors)})


def measure(folder: Path, tokens: int, runs: int, full: bool) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(processors)})
    for name, trace in traces(folder, tokens):
        with tempfile.TemporaryDirectory() as scratch:
            case = case_of(name, trace, Path(scratch), full)
            of_one = list(curves(case, runs))
            rows += [*of_one, *single(case, runs), *two_threads(case, runs, of_one, processors)]
    return {
        "runs": runs, "tokens": tokens,
        "theirs": "every layer and capacity" if full else f"{LAYERS} layers × {CAPACITIES} capacities, scaled",
        "machine": {"processors": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "versions": {library: version(library) for library in ("libcachesim", "numba", "numpy")},
        "met": all(row.get("met", True) and not row.get("misses_differ") for row in rows),
        "rows": rows,
    }  # fmt: skip


def main() -> None:
    parser = options(__doc__, quick={"runs": 1, "tokens": 200, "traces": NO_TRACES})
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--full", action="store_true", help="run theirs at every layer and capacity: an hour or more")
    parser.add_argument("--traces", type=Path, default=TRACES, metavar="FOLDER")
    given = parser.parse_args()
    show(measure(given.traces, given.tokens, given.runs, given.full), given.output)


if __name__ == "__main__":
    sys.exit(main())
