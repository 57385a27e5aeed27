"""A sweep of 3 policies × all capacities × 3 devices, and without devices, beside a loop of `replay` calls per cell.

    python -m benchmarks.speed.sweep_speed [--loop 24] [--traces ../shared/traces] [--output speed.json]

The trace is the 67,653 tokens of gpt-oss-20b (or a bundled sample, where they are not there); nothing is shared
between calls of the loop. `--loop` takes only so many cells, evenly spread, and scales the time up. Every cell of the
loop must have the counts and the times of the sweep's. Kernels are compiled and the trace is read before. `seconds`
are those of the clock, `cpu_seconds` of all threads together, which other work on the machine does not stretch as much.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import remoe_sim
from benchmarks.script import NO_TRACES, TRACES, options, show
from tests.support.data import DEMO

POLICIES = ["lru", "lfu", "belady"]
DEVICES = ["rtx-4090", "jetson-orin-nx-16gb", "dgx-spark"]


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it returns; seconds of the clock and of the processors."""
    clock, busy = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - clock, time.process_time() - busy


def beside(trace: remoe_sim.Trace, device: list[str] | None, model: str | None, replays: int | None) -> dict[str, Any]:
    """A sweep, the same again, and a loop of so many replays, all by default, whose numbers must be the same."""
    with tempfile.TemporaryDirectory() as folder:

        def sweep(name: str, **what: Any) -> Any:
            return remoe_sim.sweep(trace, POLICIES, device=device, model=model, output=f"{folder}/{name}", **what)

        sweep("kernels.parquet", cache=8)
        rows, seconds, busy = timed(lambda: sweep("sweep.parquet"))
        same, again, _ = timed(lambda: sweep("sweep.parquet"))
    assert same.equals(rows)
    cells = rows.to_dict("records")
    chosen = [cells[at] for at in np.linspace(0, len(cells) - 1, replays or len(cells)).round().astype(int)]

    def loop() -> list[Any]:
        return [
            remoe_sim.replay(trace, cache=int(cell["capacity"]), policy=cell["policy"], device=cell["device"] if device
                             else None, model=model)[cell["policy"]]
            for cell in chosen
        ]  # fmt: skip

    results, loop_seconds, loop_busy = timed(loop)
    for cell, result in zip(chosen, results, strict=True):
        assert (cell["hits"], cell["lookups"]) == (result.hits, result.lookups), cell
        assert cell["cold_misses"] == result.cold_misses
        if device:
            np.testing.assert_allclose(cell["tpot_ms_mean"], result.tpot_ms["mean"], rtol=1e-12)
    scale = len(cells) / len(chosen)
    return {
        "cells": len(cells),
        "sweep": {"seconds": round(seconds, 2), "cpu_seconds": round(busy, 2)},
        "sweep_that_is_there_already": {"seconds": round(again, 2)},
        "loop_of_replays": {
            "cells_replayed": len(chosen), "seconds": round(loop_seconds * scale, 1),
            "cpu_seconds": round(loop_busy * scale, 1),
        },
        "ratio": round(loop_seconds * scale / seconds, 1),
        "cpu_ratio": round(loop_busy * scale / busy, 1),
    }  # fmt: skip


def main() -> None:
    parser = options(__doc__, quick={"loop": 2, "traces": NO_TRACES})
    parser.add_argument("--loop", type=int, help="cells that the loop replays; all by default")
    parser.add_argument("--traces", type=Path, default=TRACES)
    given = parser.parse_args()
    path = given.traces / "gpt-oss-20b" / "gptoss20b_decode_subset.npz"
    other = DEMO if given.quick else "sample:qwen-original"
    if path.exists():
        trace, model = remoe_sim.import_trace(path, experts=32), "gpt-oss-20b"
    else:
        trace, model = remoe_sim.read_trace(other), None
    answer: dict[str, Any] = {
        "trace": path.stem if path.exists() else other,
        "tokens": trace.tokens, "cores": os.cpu_count(),
    }  # fmt: skip
    for name, device in (("with_devices", DEVICES), ("without_devices", None)):
        answer[name] = beside(trace, device, model if device else None, given.loop)
    show(answer, given.output)


if __name__ == "__main__":
    main()
