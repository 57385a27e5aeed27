"""Lookups per second of slot policies here and in libCacheSim: policy × scope × size, and how many times as fast.

    python -m benchmarks.speed.slot_speed [--runs 15] [--output slot_speed.json]

Every slot of every decision is an access of its own (`--order sequential`) to entries of one size, mandatory admission.
Ours is the replay of a stream of accesses, theirs `process_trace` of a file in libCacheSim's binary format; both keep
to one core and take turns in one process, so that a busy machine slows them alike. Numbers are medians over the runs.
The accesses are synthetic (`agreement.synthetic`): a layer of 64 experts of which each token takes 6, and, for policies
that need large caches, one cache of 26 such layers.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fidelity.agreement import ACCESS, LEAST, TABLE, TWINS, next_uses, synthetic
from benchmarks.script import library, options, show
from remoe_sim.policy import Rules, Stream
from remoe_sim.policy.find import find_policy
from remoe_sim.trace.accesses import global_stream, layer_stream, select_tokens

libcachesim = library("libcachesim")
TARGET = 1.5  # times their throughput
LAYER = ("fifo", "lfu-forget", "sieve", "arc", "slru", "2q", "s3fifo")
GLOBAL = ("w-tinylfu", "lecar")
NAMES = {**TWINS, "lecar": "LeCaR"}
SIZES = {"layer": (8, 16, 32, 48), "global": (150, 300, 600, 1000)}


def stream_of(scope: str, tokens: int) -> Stream:
    """The accesses of one cache."""
    if scope == "layer":
        trace = synthetic(tokens, layers=1)
        return layer_stream(trace, 0, trace.decisions(0), select_tokens(trace), "sequential")
    trace = synthetic(tokens // 25, layers=26)
    return global_stream(trace, select_tokens(trace), "sequential", False)


def write(stream: Stream, path: Path) -> None:
    """The same in libCacheSim's format."""
    records = np.zeros(stream.entries.size, ACCESS)
    ids = stream.entries.astype(np.int64)
    records["time"], records["id"], records["size"], records["next"] = np.arange(ids.size), ids, 1, next_uses(ids)
    records.tofile(path)


def race(name: str, stream: Stream, size: int, path: Path, runs: int) -> dict[str, Any]:
    """Both take turns; the first of ours, which compiles, does not count."""
    policy, rules = find_policy(name), Rules()
    outcome = policy.replay(stream, size, rules)
    lookups, ours, theirs, ratio = stream.entries.size, [], [], 0.0
    for _ in range(runs):
        start = time.perf_counter()
        policy.replay(stream, size, rules)
        ours.append(time.perf_counter() - start)
        options = libcachesim.ReaderInitParam(ignore_obj_size=True)
        reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE, options)
        cache = getattr(libcachesim, NAMES[name])(size, hashpower=TABLE)
        start = time.perf_counter()
        ratio, _ = cache.process_trace(reader)
        theirs.append(time.perf_counter() - start)
    fast, slow = (lookups / statistics.median(times) for times in (ours, theirs))
    misses = int(lookups - np.count_nonzero(outcome.hit))
    return {
        "policy": name, "size": size, "lookups_per_s": round(fast), "lookups_per_s_libcachesim": round(slow),
        "ratio": round(fast / slow, 2), "misses": misses, "misses_libcachesim": round(ratio * lookups),
    }  # fmt: skip


def measure(runs: int, tokens: int) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.oracleGeneral"
        for scope, names in (("layer", LAYER), ("global", GLOBAL)):
            stream = stream_of(scope, tokens)
            write(stream, path)
            for name in names:
                for size in SIZES[scope]:
                    if size >= LEAST.get(name, 1):
                        rows.append({"scope": scope, **race(name, stream, size, path, runs)})
    return {
        "runs": runs,
        "machine": {"processors": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "versions": {library: version(library) for library in ("libcachesim", "numba", "numpy")},
        "target_ratio": TARGET,
        "least_ratio": min(row["ratio"] for row in rows),
        "met": all(row["ratio"] >= TARGET for row in rows),
        "rows": rows,
    }


def main() -> None:
    parser = options(__doc__, quick={"runs": 1, "tokens": 1000})
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=50_000, help="of one layer; of 26 layers, a 25th of it")
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    show(measure(given.runs, given.tokens), given.output)


if __name__ == "__main__":
    sys.exit(main())
