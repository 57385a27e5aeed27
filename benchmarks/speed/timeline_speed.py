"""(Step, layer) pairs per second of the timeline, one core: real misses of a replay, medians of interleaved runs.

    python -m benchmarks.speed.timeline_speed [trace.parquet]

Beside it the same for a fixed number of misses, and a loop that only adds the arrays up, as what memory allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np

import remoe_sim
from benchmarks.script import options, show
from remoe_sim.devices.steps import Reads, Steps
from remoe_sim.devices.timeline import OVERLAPS, run
from tests.support.data import DEMO


def repeated(array: np.ndarray, times: int) -> np.ndarray:
    return np.ascontiguousarray(np.tile(array, (times,) + (1,) * (array.ndim - 1)))


def main() -> None:
    parser = options(__doc__, quick={"runs": 1, "pairs": 1000}, output=None)
    parser.add_argument("trace", nargs="?", default="sample:qwen-original")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--pairs", type=int, default=200_000, help="(step, layer) pairs of a run, at least")
    given = parser.parse_args()
    path = DEMO if given.quick else given.trace
    trace = remoe_sim.read_trace(path)
    cases: dict[str, Callable[[], object]] = {}
    pairs: dict[str, int] = {}
    misses: dict[str, float] = {}
    for cache in (4, 8, 16):
        timed = remoe_sim.replay(
            trace, cache=cache, policy="lru", phase="decode", device="jetson-orin-nx-16gb"
        )["lru"].timed  # fmt: skip
        assert timed is not None
        times = -(-given.pairs // timed.steps.needed.size)
        old = timed.steps
        steps = Steps(
            np.tile(old.tokens, times), np.tile(old.kv_tokens, times), np.tile(old.decode, times),
            repeated(old.needed, times),
        )  # fmt: skip
        missing = repeated(timed.reads.far, times)
        for overlap in OVERLAPS:
            name = f"cache {cache}, {overlap}"
            reads = Reads.of(timed.costs, missing, overlap)
            cases[name] = lambda costs=timed.costs, steps=steps, reads=reads, overlap=overlap: run(
                costs, steps, reads, overlap
            )
            pairs[name], misses[name] = steps.needed.size, float(missing.mean())
        cases[f"cache {cache}, sum of the arrays"] = lambda steps=steps, missing=missing: (
            steps.needed.sum() + missing.sum()
        )
        pairs[f"cache {cache}, sum of the arrays"] = steps.needed.size
    took: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(given.runs + 1):
        for name, call in cases.items():
            started = time.perf_counter()
            call()
            if number:  # the first compiles
                took[name].append(time.perf_counter() - started)
    rows = [
        {"case": name, "misses_per_pair": misses.get(name), "million_pairs_per_s": pairs[name] / median(of) / 1e6}
        for name, of in took.items()
    ]
    show({"trace": path, "runs": given.runs, "rows": rows}, indent=1)


if __name__ == "__main__":
    main()
