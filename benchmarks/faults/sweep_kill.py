"""Kills a sweep at random moments until it is complete, and compares the result with that of an uninterrupted one.

    python -m benchmarks.faults.sweep_kill [--kills 20] [--seed 0]

Each run of a sweep over a small trace is killed (SIGKILL) after a random time within what an uninterrupted one
computes; then the file must be readable, hold no cell twice and only rows that the uninterrupted sweep
has too. A run that ends before its time has come, because little was left, starts over with an empty file. JSON: kills,
how often the file was there and how many cells it held each time, and the times that the completed result was compared.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from benchmarks.script import options, show
from tests.support.data import DEMO

CHILD = """
import sys
import remoe_sim
from benchmarks.script import options, show
said = []
def progress(done, total):
    if not said:
        said.append(print("begun", flush=True))
remoe_sim.sweep(
    sys.argv[2], policy="lru,lfu,belady,fifo,arc", scope="layer,global", cache=sys.argv[3], budget="10%,50%",
    batch="trace,3", device=["rtx-4090", "jetson-orin-nx-16gb"], overlap="layer,prefetch", output=sys.argv[1],
    progress=progress,
)
"""


def start(path: Path, cache: str) -> subprocess.Popen[str]:
    """A sweep in a process of its own, which begins with its work now."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path), DEMO, cache], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    return child


def check(path: Path, whole: pd.DataFrame) -> int:
    """How many cells the file holds; AssertionError if one is there twice or differs from the uninterrupted sweep."""
    if not path.exists():
        return 0
    found = pd.read_parquet(path)
    assert found["key"].is_unique
    same = whole.set_index("key").loc[found["key"]].reset_index()[list(found.columns)]
    pd.testing.assert_frame_equal(found, same, check_dtype=False)
    return len(found)


def main() -> None:
    parser = options(__doc__, quick={"kills": 1, "cache": "8"}, output=None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", default="1:40:3", help="of the sweep")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        first, path = Path(name) / "whole.parquet", Path(name) / "killed.parquet"
        assert start(first, given.cache).wait() == 0  # kernels are compiled now
        first.unlink()
        child, began = start(first, given.cache), time.monotonic()
        assert child.wait() == 0
        seconds = time.monotonic() - began
        whole = pd.read_parquet(first)
        held, compared = [], 0
        while len(held) < given.kills or path.exists():
            child = start(path, given.cache)
            try:
                child.wait(chance.uniform(0.0, seconds) if len(held) < given.kills else None)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                held.append(check(path, whole))
                continue
            assert child.returncode == 0
            done = pd.read_parquet(path)
            pd.testing.assert_frame_equal(done, whole)
            assert [left.name for left in Path(name).iterdir() if left.name.startswith(".")] == []
            compared += 1
            path.unlink()
    counts = {"kills": len(held), "cells": len(whole), "seconds_uninterrupted": round(seconds, 2)}
    show(counts | {"cells_held_after_each_kill": held, "completed_and_equal": compared})


if __name__ == "__main__":
    main()
