"""Time and memory of a capture like FLAME-MoE-1.7B's: 52,428,800 tokens, 17 layers, top-6, one Parquet file per layer.

    python -m benchmarks.speed.scale --tokens 5e6 [--folder /var/tmp/scale] [--keep]
    python -m benchmarks.speed.scale                  the whole size: 5.3 billion lookups, 9 GB of disk while it runs

Every step is a process of its own, whose peak memory is what the operating system says (resident, mapped files
included). `plain read` reads the same columns with pyarrow, layer by layer by as many threads as there are
processors, and does nothing with them. The steps take turns, and of every step the medians are given, by the clock and
of the processors (which says more where the machine has other work), also as multiples of the plain read. Prints JSON.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.script import options, own_command, show

TOKENS, LAYERS, FIRST_LAYER, EXPERTS, TOP_K = 52_428_800, 17, 2, 64, 6
BLOCK = 2**20
COMMAND = [sys.executable, "-c", "from remoe_sim.cli import run; run()"]


def make(folder: Path, tokens: int) -> None:
    """The capture, in the layout of FLAME-MoE-Traces; scores are the same for all tokens."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    import remoe_sim

    trace = remoe_sim.synth(
        tokens=tokens, layers=LAYERS, experts=EXPERTS, top_k=TOP_K, request_tokens=tokens, prompt_tokens=0, seed=1
    )
    scores = np.linspace(0.4, 0.05, TOP_K).astype(np.float16)
    place = folder / "actives" / "iter_0010"
    place.mkdir(parents=True)
    schema = pa.schema({"scores": pa.list_(pa.float16()), "indices": pa.list_(pa.int16())})
    files = [pq.ParquetWriter(place / f"layer_{FIRST_LAYER + at:02d}.parquet", schema) for at in range(LAYERS)]
    for block in parts(trace):
        for file, decisions in zip(files, block, strict=True):
            count = len(decisions)
            bounds = pa.array(np.arange(0, (count + 1) * TOP_K, TOP_K, dtype=np.int32))
            columns = [pa.array(np.tile(scores, count)), pa.array(decisions.astype(np.int16).reshape(-1))]
            lists = [pa.ListArray.from_arrays(bounds, values) for values in columns]
            file.write_table(pa.Table.from_arrays(lists, schema=schema))
    for file in files:
        file.close()


def parts(trace: Any) -> Iterator[list[Any]]:
    """The decisions of all layers, a block of tokens at a time."""
    if hasattr(trace.source, "blocks"):
        for block in trace.source.blocks(BLOCK):
            yield [layer.experts for layer in block.layers]
    else:
        yield [trace.decisions(index).experts for index in range(trace.moe_layers)]


def plain_read(path: Path) -> None:
    """What the Parquet library takes for the columns that a curve reads: what tokens are, and the experts of layers."""
    import pyarrow.parquet as pq

    from remoe_sim.util.threads import map_layers

    names = [name for name in pq.read_schema(path).names if not name.startswith("weights_")]

    def one(index: int) -> int:
        with pq.ParquetFile(path) as file:
            return sum(
                file.read_row_group(group, columns=[names[index]], use_threads=False).num_rows
                for group in range(file.num_row_groups)
            )

    print(sum(map_layers(one, len(names))))


def timed(name: str, command: list[str]) -> dict[str, Any]:
    """Runs a command; seconds by the clock and of the processors, and the most memory it held."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} ended with {status}")
    return {
        "step": name,
        "seconds": time.perf_counter() - start,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": round(used.ru_maxrss / 1024),
    }


def measure(folder: Path, tokens: int, rounds: int, choices: list[str]) -> dict[str, Any]:
    capture, trace = folder / "flame", folder / "flame.parquet"
    own = own_command("--folder", folder, "--tokens", tokens)
    once = []
    if not capture.exists():
        once.append(timed("make", [*own, "--step", "make"]))
    if not trace.exists():
        given = ["--experts", str(EXPERTS), "--expert-bytes", "16.5MiB", "--name", "like-flame-moe-1.7b"]
        once.append(timed("import", [*COMMAND, "import", str(capture), "-o", str(trace), *given]))
    steps = {"plain read": [*own, "--step", "read"], "info": [*COMMAND, "info", str(trace)]}
    for policies in choices:
        asked = ["--policy", policies]
        steps[f"curve {policies}"] = [*COMMAND, "curve", str(trace), *asked, "-o", str(folder / "curve.csv")]
        steps[f"replay {policies}"] = [*COMMAND, "replay", str(trace), "--cache", "16", *asked]
    runs = [{name: timed(name, command) for name, command in steps.items()} for _ in range(rounds)]
    return {
        "tokens": tokens, "layers": LAYERS, "experts": EXPERTS, "top_k": TOP_K, "lookups": tokens * LAYERS * TOP_K,
        "processors": os.cpu_count(), "rounds": rounds, "trace_bytes": trace.stat().st_size,
        "once": [row | {"seconds": round(row["seconds"], 1)} for row in once],
        "steps": [summary(name, runs) for name in steps],
    }  # fmt: skip


def summary(name: str, runs: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians over rounds, of the ratios to the same round's plain read too; the most memory of any round."""
    row: dict[str, Any] = {"step": name, "peak_mib": max(run[name]["peak_mib"] for run in runs)}
    for unit in ("seconds", "processor_seconds"):
        row[unit] = round(statistics.median(run[name][unit] for run in runs), 1)
        ratios = [run[name][unit] / run["plain read"][unit] for run in runs]
        row[f"{unit}_by_plain_read"] = round(statistics.median(ratios), 2)
    return row


def main() -> None:
    parser = options(__doc__, quick={"tokens": 2e4, "rounds": 1, "policies": "lru"}, output=None)
    parser.add_argument("--tokens", type=float, default=TOKENS)
    parser.add_argument("--folder", type=Path, help="where the files go; what is there already is used again")
    parser.add_argument("--keep", action="store_true", help="leave the files there")
    parser.add_argument("--rounds", type=int, default=3, help="how often every step runs, in turns")
    parser.add_argument("--policies", default="lru,lfu,belady", metavar="NAME,…", help="each alone, and all together")
    parser.add_argument("--step", choices=("make", "read"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step == "make":
        return make(given.folder / "flame", int(given.tokens))
    if given.step == "read":
        return plain_read(given.folder / "flame.parquet")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="scale-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        chosen = given.policies.split(",")
        together = [given.policies] if len(chosen) > 1 else []  # what `curve` and `replay` take by default
        show(measure(folder, int(given.tokens), given.rounds, chosen + together))
    finally:
        if not given.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
