"""From a Parquet file to finished LRU curves, beside what Arrow takes to read the same columns on all processors.

    python -m benchmarks.speed.parquet_to_curve [--tokens 1e6] [--layers 26] [--runs 5] [--output FILE]

`read_table` is `pyarrow.parquet.read_table` of the columns that a curve needs (what tokens are, and the experts of
every layer), on all processors and with nothing checked. `curve` is `remoe_sim.curve(path, "lru")`: the same columns
read, held to their checksums and hashes, checked, grouped and replayed at every capacity. Both take turns, each in a
process of its own that does it once before; numbers are medians, by the clock and of the processors.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.script import options, own_command, show

EXPERTS, TOP_K, REUSE = 64, 6, 0.28
MOST_RATIO = 1.5


def make(path: Path, tokens: int, layers: int) -> None:
    import remoe_sim

    trace = remoe_sim.synth(
        tokens=tokens, layers=layers, experts=EXPERTS, top_k=TOP_K, reuse=REUSE, request_tokens=tokens, prompt_tokens=0,
        seed=8,
    )  # fmt: skip
    remoe_sim.write_trace(trace, path)


def serve(path: Path, what: str) -> None:
    """Do it once for every line of input, and say how long it took: by the clock, and of the processors."""
    import pyarrow.parquet as pq

    import remoe_sim

    names = [name for name in pq.read_schema(path).names if not name.startswith(("weights_", "probs_", "token_id"))]

    def once() -> int:
        if what == "read_table":
            return int(pq.read_table(path, columns=names).num_rows)
        return len(remoe_sim.curve(path, "lru"))

    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        once()
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


def measure(path: Path, runs: int) -> dict[str, Any]:
    own = own_command("--file", path, "--step")
    servers = {
        what: subprocess.Popen([*own, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for what in ("read_table", "curve")
    }
    rounds: list[dict[str, list[float]]] = []
    for _ in range(runs + 1):
        times = {}
        for what, server in servers.items():
            assert server.stdin is not None
            assert server.stdout is not None
            print("go", file=server.stdin, flush=True)
            times[what] = [float(number) for number in server.stdout.readline().split()]
        rounds.append(times)
    for server in servers.values():
        server.communicate()
    rounds = rounds[1:]  # the first compiles, and brings the file into memory
    answer: dict[str, Any] = {}
    for at, unit in enumerate(("wall", "cpu")):
        for what in servers:
            answer[f"{what}_{unit}_s"] = round(statistics.median(times[what][at] for times in rounds), 3)
        ratios = [times["curve"][at] / times["read_table"][at] for times in rounds]
        answer[f"ratio_{unit}"] = round(statistics.median(ratios), 2)
    return answer


def main() -> None:
    parser = options(__doc__, quick={"tokens": 2000, "layers": 2, "runs": 1})
    parser.add_argument("--tokens", type=float, default=1e6)
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--file", type=Path, help="where the trace goes; what is there already is used")
    parser.add_argument("--step", choices=("read_table", "curve"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        return serve(given.file, given.step)
    with tempfile.TemporaryDirectory() as scratch:
        path = given.file or Path(scratch, "trace.parquet")
        if not path.exists():
            make(path, int(given.tokens), given.layers)
        found = measure(path, given.runs)
    answer = {
        "tokens": int(given.tokens), "layers": given.layers, "experts": EXPERTS, "top_k": TOP_K,
        "lookups": int(given.tokens) * given.layers * TOP_K, "runs": given.runs, "processors": os.cpu_count(),
        **found, "target": f"at most {MOST_RATIO} times read_table", "met": found["ratio_wall"] <= MOST_RATIO,
    }  # fmt: skip
    show(answer, given.output)


if __name__ == "__main__":
    main()
