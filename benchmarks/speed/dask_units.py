"""What the units of a sweep on a cluster cost: one layer of a large trace by each kind of policy, and the scheduler.

    python -m benchmarks.speed.dask_units [--tokens 4e6] [--layers 2] [--tasks 2000]

Every unit runs by one thread in a process of its own, as on a worker with one thread: seconds to open the trace (its
columns that describe tokens), seconds of the unit without that (of the first one, which loads kernels, and of the
next), bytes of its columns in the file, and the peak memory of the process, of which `process_MiB` is there before any
trace. The trace is read layer by layer, as large ones are. All seconds are of processor time, so that it matters less
what else the machine does. The scheduler's share is that of scheduler and client together, for tasks that do nothing
and have a payload of the size of a unit. JSON, with the layout of a sweep over 80 billion lookups that follows: traces
like FLAME-MoE-1.7B's (52,428,800 tokens, 17 layers, top-6).
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.script import library, options, own_command, show

EXPERTS, TOP_K = 64, 6
TOKENS, LAYERS, LOOKUPS = 52_428_800, 17, 80e9  # of the layout
KINDS = "reuse,lru,lfu,belady,fifo,lru timed,lru global"
MIB = 2**20


def make(path: Path, tokens: int, layers: int) -> None:
    import remoe_sim

    trace = remoe_sim.synth(
        tokens=tokens, layers=layers, experts=EXPERTS, top_k=TOP_K, request_tokens=2048, prompt_tokens=0, seed=1
    )
    model = replace(
        trace.model, name="made", layers=layers, dense_bytes=(40 * MIB,) * layers, expert_bytes=(3 * MIB,) * layers
    )
    remoe_sim.write_trace(replace(trace, model=model), path)


def unit_of(path: Path, kind: str) -> Any:
    """The first unit of its kind: one layer at all capacities, one limit of fifo, or the whole trace at one limit."""
    from remoe_sim.studies.sweep.axes import axes_of
    from remoe_sim.studies.sweep.cells import Subject, passes_of
    from remoe_sim.studies.sweep.units import Cut, ReuseUnit, units_of

    policy, _, how = kind.partition(" ")
    device = "rtx-4090" if how == "timed" else None
    cache = "8" if how == "timed" else None if how else "1:64"
    scope = "global" if how == "global" else "layer"
    name = "lru" if kind == "reuse" else policy
    axes = axes_of(policy=name, scope=scope, cache=cache, timing={"device": device})
    passes = passes_of(axes, [Subject.of(str(path), 0, None)], None)
    return next(one for one in units_of(passes, Cut(1, 1, 1)) if isinstance(one, ReuseUnit) == (kind == "reuse"))


def peak_mib() -> int:
    """Of this process, resident; what `getrusage` says begins with what the parent had."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def run(payload: Path) -> dict[str, Any]:
    """One unit, as a worker runs it that has not seen its trace."""
    from remoe_sim.studies.sweep import worker
    from remoe_sim.trace import reader

    reader.RESIDENT_BYTES = 0  # as if it were a large one
    unit, wanted = pickle.loads(payload.read_bytes()), worker.fingerprint()
    before = peak_mib()
    start = time.process_time()
    worker._OPEN.get(unit.subject, unit.batch)
    opened = time.process_time()
    found = worker.work(payload.read_bytes(), wanted)
    assert not isinstance(found, str), found
    warm = time.process_time()
    worker.work(payload.read_bytes(), wanted)
    ended = time.process_time()
    return {
        "open_s": opened - start, "first_unit_s": warm - opened, "unit_s": ended - warm, "peak_MiB": peak_mib(),
        "process_MiB": before,
    }  # fmt: skip


def column_bytes(path: Path) -> dict[str, int]:
    """Bytes in the file of a layer's column, and of those that describe tokens."""
    import pyarrow.parquet as pq

    sizes = {"layer": 0, "tokens": 0}
    meta = pq.ParquetFile(path).metadata
    for group in range(meta.num_row_groups):
        for number in range(meta.num_columns):
            column = meta.row_group(group).column(number)
            name = column.path_in_schema.split(".")[0]
            if name == "experts_00" or not name.startswith("experts_"):
                sizes["layer" if name == "experts_00" else "tokens"] += column.total_compressed_size
    return sizes


def per_task(tasks: int, payload: bytes) -> dict[str, float]:
    """Milliseconds of client and scheduler for a task that does nothing, and what it takes to connect."""
    from distributed import LocalCluster, as_completed

    from remoe_sim.studies.sweep.cluster import connected

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        start = time.process_time()
        with connected(cluster.scheduler_address) as client:
            reached = time.process_time()
            waiting = [client.submit(len, payload + b"%d" % number, pure=False) for number in range(tasks)]
            sent = time.process_time()
            for _ in as_completed(waiting, loop=client.loop, with_results=True):
                pass
            done = time.process_time()
    return {
        "tasks": tasks, "payload_bytes": len(payload), "connect_and_check_s": reached - start,
        "submit_ms_per_task": (sent - reached) / tasks * 1e3, "ms_per_task": (done - reached) / tasks * 1e3,
    }  # fmt: skip


def layout(units: dict[str, Any], columns: dict[str, int], tokens: int, task: dict[str, float]) -> dict[str, Any]:
    """A sweep over 80 billion lookups by units of one layer: what was measured, times the tokens of such a trace."""
    scale, traces = TOKENS / tokens, round(LOOKUPS / (TOKENS * LAYERS * TOP_K))
    count, rows = traces * LAYERS, {}
    for kind in ("reuse", "lru", "lfu", "belady"):
        one = units[kind]
        rows[kind] = {
            "units": count, "read_MB_per_unit": columns["layer"] * scale / 1e6, "s_per_unit": one["unit_s"] * scale,
            "memory_MiB": (one["peak_MiB"] - one["process_MiB"]) * scale,
            "thread_hours": count * one["unit_s"] * scale / 3600,
        }  # fmt: skip
    return {
        "traces": traces, "lookups": traces * TOKENS * LAYERS * TOP_K, "by_policy": rows,
        "open_s_per_worker_and_trace": units["lru"]["open_s"] * scale,
        "read_MB_to_open": columns["tokens"] * scale / 1e6,
        "scheduler_s": sum(row["units"] for row in rows.values()) * task["ms_per_task"] / 1e3,
    }  # fmt: skip


def main() -> None:
    quick = {"tokens": 2000, "layers": 1, "tasks": 10, "kinds": "reuse,lru,lfu,belady"}
    parser = options(__doc__, quick, output=None)
    parser.add_argument("--tokens", type=float, default=4e6)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--kinds", default=KINDS, metavar="KIND,…", help="of units; the first four at least")
    parser.add_argument("--unit", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.unit:
        print(json.dumps(run(given.unit)))
        return
    library("distributed")
    from remoe_sim.studies.sweep.cluster import _alone

    tokens = int(given.tokens)
    with tempfile.TemporaryDirectory() as folder:
        path, little, payload = (Path(folder) / name for name in ("trace.parquet", "little.parquet", "unit"))
        make(path, tokens, given.layers)
        make(little, 1000, given.layers)
        units = {}
        for kind in given.kinds.split(","):
            for place in (path,) if given.quick else (little, path):  # so that kernels are on disk when it matters
                unit = unit_of(place, kind)
                payload.write_bytes(pickle.dumps(_alone(unit)))
                command = own_command("--unit", payload)
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            units[kind] = one = json.loads(done.stdout)
            one["layers"], one["payload_bytes"] = len(unit.layers), payload.stat().st_size
            one["ns_per_lookup"] = one["unit_s"] / (tokens * TOP_K * one["layers"]) * 1e9
        columns = column_bytes(path)
    task = per_task(given.tasks, bytes(units["lru"]["payload_bytes"]))
    said = {
        "tokens": tokens, "lookups_per_layer": tokens * TOP_K, "processors": os.cpu_count(), "units": units,
        "column_bytes": columns, "scheduler": task,
        "layout_of_80_billion_lookups": layout(units, columns, tokens, task),
    }  # fmt: skip
    show(said)


if __name__ == "__main__":
    main()
