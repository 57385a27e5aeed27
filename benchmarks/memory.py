"""The most memory that commands take, by threads and under a limit: a million tokens, 26 layers, top-6 of 64.

    python benchmarks/memory.py [--tokens 1e6] [--keep FOLDER] [--output benchmarks/results/memory.json]

Each command runs in a process of its own, with REMOE_SIM_THREADS and --memory-limit; `peak_mib` is the most that was
resident, the interpreter and the compiler's library (about 200 MiB) included, and `cpu_s` processor time. Kernels are
compiled before, on a small trace. The script ends with an error if an answer depends on either.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMANDS = {
    "curve": "curve TRACE --json",
    "replay": "replay TRACE --cache 16 --json",
    "replay, one cache": "replay TRACE --budget 24GiB --scope global --json",
    "verdict": "verdict TRACE --cache 16 --policy lru,lfu,fifo --json",
    "info": "info TRACE --json",
}
SETTINGS: list[tuple[int, str | None]] = [(2, None), (26, None), (26, "1GiB")]  # threads, limit
RUN = """
import resource, sys, time
from remoe_sim import cli
try:
    cli.run()
finally:
    sys.stdout.flush()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.process_time(), file=sys.stderr)
"""


def run(words: list[str], threads: int, limit: str | None) -> tuple[bytes, float, float]:
    """What the command prints, its peak in MiB and its processor time in s."""
    line = [sys.executable, "-c", RUN, *words, *(["--memory-limit", limit] if limit else [])]
    done = subprocess.run(line, capture_output=True, env={**os.environ, "REMOE_SIM_THREADS": str(threads)})
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    peak, seconds = done.stderr.split()[-2:]
    return done.stdout, float(peak), float(seconds)


def synth(path: Path, tokens: int) -> None:
    words = f"synth -o {path} --tokens {tokens} --layers 26 --top-k 6 --experts 64 --expert-bytes 3MiB --seed 1"
    run(words.split(), 2, None)


def measure(folder: Path, tokens: int, keep: Path | None) -> Iterator[dict[str, Any]]:
    small, large = folder / "small.parquet", folder / "big.parquet"
    synth(small, 2000)
    synth(large, tokens)
    for name, command in COMMANDS.items():
        run(command.replace("TRACE", str(small)).split(), 2, None)
        seen = set()
        for threads, limit in SETTINGS:
            answer, peak, seconds = run(command.replace("TRACE", large.name).split(), threads, limit)
            seen.add(hashlib.sha256(answer).hexdigest())
            if keep is not None:
                (keep / f"{name}-{threads}-{limit}.json").write_bytes(answer)
            yield {
                "command": name, "threads": threads, "limit": limit, "peak_mib": round(peak),
                "cpu_s": round(seconds, 1),
            }  # fmt: skip
        if len(seen) > 1:
            raise SystemExit(f"{name}: the answer depends on threads or on the limit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, default=1e6)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="also write the answers there")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the JSON there")
    given = parser.parse_args()
    keep, output = (None if one is None else one.resolve() for one in (given.keep, given.output))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # so that answers name the trace alike
        rows = []
        for row in measure(Path(folder), int(given.tokens), keep):
            print(json.dumps(row), flush=True)
            rows.append(row)
        os.chdir("/")
    if output is not None:
        answer = {"tokens": int(given.tokens), "processors": os.cpu_count(), "rows": rows}
        output.write_text(json.dumps(answer, indent=2) + "\n")


if __name__ == "__main__":
    main()
