"""Whole-process times of the command line, beside what its libraries take to load alone.

    python -m benchmarks.speed.startup [--runs 7] [--traces ../shared/traces] [--output startup.json]

All commands take turns, so that a busy machine slows them alike; times are medians over the runs, in seconds: `wall_s`
as a clock shows it, `cpu_s` of the process in user and system mode, which `met` is of. Replays are of the
bundled `sample:qwen-original` and of BigMoeOnEdge's qwen trace if it is there. The cold run compiles into an empty
REMOE_SIM_CACHE_DIR and must say so in one line. Where SciPy is installed, Numba loads it to compile, though nothing
here needs it, and so does the cold run; `versions` says whether it is.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import remoe_sim
from benchmarks.script import NO_TRACES, TRACES, options, show

BUNDLED = ["replay", "sample:qwen-original", "--cache", "8"]
TARGETS = {
    "--help": "at most 1.5 times import click",
    "replay of the bundled trace": "at most 0.6 s more than import numba, pyarrow.parquet",
    "cold replay": "at most 8 s, with one line that says what it does",
}
LIBRARIES = ("numba", "numpy", "pyarrow", "click", "scipy")


def timed(command: list[str], cache: str) -> tuple[float, float, list[str]]:
    """Wall and processor seconds of a process that must succeed, and what it says on stderr."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    said = run(command, cache)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return wall, seconds, said.splitlines()


def run(command: list[str], cache: str) -> str:
    """What a process that must succeed says on stderr."""
    env = os.environ | {"REMOE_SIM_CACHE_DIR": cache}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # where it is set, Python compiles every module anew
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stderr


def prepare(traces: Path, folder: Path) -> tuple[str, list[str]]:
    """What is replayed besides the bundled trace: its name, and the arguments."""
    capture = traces / "bigmoe" / "qwen.route.csv"
    if not capture.exists():
        return "the bundled trace again", BUNDLED[1:]
    remoe_sim.write_trace(remoe_sim.import_trace(capture), folder / "qwen.parquet")
    return "qwen.route.csv of BigMoeOnEdge", [str(folder / "qwen.parquet"), "--cache", "8"]


def measure(traces: Path, runs: int, cold_times: int) -> dict[str, object]:
    """Medians of all commands, with what they ran on."""
    command, python = [str(Path(sys.executable).with_name("remoe-sim"))], [sys.executable, "-c"]
    with tempfile.TemporaryDirectory() as folder:
        name, arguments = prepare(traces, Path(folder))
        warm, cold = str(Path(folder, "warm")), str(Path(folder, "cold"))
        commands = {
            "replay of the bundled trace": [*command, *BUNDLED],
            "replay": [*command, "replay", *arguments],
            "replay --json": [*command, "replay", *arguments, "--json"],
            "import numba": [*python, "import numba"],
            "import numba, pyarrow.parquet": [*python, "import numba, pyarrow.parquet"],
            "--help": [*command, "--help"],
            "import click": [*python, "import click"],
        }
        cold_runs = []
        for _ in range(cold_times):
            shutil.rmtree(cold, ignore_errors=True)
            *seconds, said = timed(commands["replay of the bundled trace"], cold)
            cold_runs.append(seconds)
        for one in commands.values():
            timed(one, warm)  # compiled, and in the page cache
        times = {name: [] for name in commands}
        for _ in range(runs):
            for key, one in commands.items():
                times[key].append(timed(one, warm)[:2])
    medians = {key: _median(found) for key, found in {**times, "cold replay": cold_runs}.items()}
    return {
        "trace": name,
        "runs": runs,
        "machine": {"processors": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "versions": {library: version_of(library) for library in LIBRARIES},
        "seconds": medians,
        "said_when_cold": said,
        "targets": TARGETS,
        "met": {
            "--help": medians["--help"]["cpu_s"] <= 1.5 * medians["import click"]["cpu_s"],
            "replay of the bundled trace": medians["replay of the bundled trace"]["cpu_s"]
            <= medians["import numba, pyarrow.parquet"]["cpu_s"] + 0.6,
            "cold replay": medians["cold replay"]["cpu_s"] <= 8 and len(said) == 1,
        },
    }


def version_of(library: str) -> str | None:
    """The installed version, None where there is none."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _median(found: list[tuple[float, float]]) -> dict[str, float]:
    walls, cpus = zip(*found, strict=True)
    return {
        "wall_s": round(statistics.median(walls), 3),
        "least_wall_s": round(min(walls), 3),
        "cpu_s": round(statistics.median(cpus), 3),
    }


def main() -> None:
    parser = options(__doc__, quick={"runs": 1, "cold_runs": 1, "traces": NO_TRACES})
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--traces", type=Path, default=TRACES)
    parser.add_argument("--cold-runs", type=int, default=3)
    given = parser.parse_args()
    show(measure(given.traces, given.runs, given.cold_runs), given.output)


if __name__ == "__main__":
    main()
