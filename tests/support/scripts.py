"""Benchmark scripts, run as their users run them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def benchmark(name, *arguments, **how):
    """Run `python -m benchmarks.NAME` in a process of its own; return what it printed on stdout."""
    done = tried(name, *arguments, **how)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def tried(name, *arguments, **how):
    """Run `python -m benchmarks.NAME`; return the finished process, however it ended."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **how)
