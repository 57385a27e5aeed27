"""Faults of the folder in which compiled kernels are kept: the answer is right all the same.

    python -m benchmarks.faults.kernel_faults [--faults "full disk,truncated file,…"] [--output FILE.json] [--table]

`curve` runs in new processes whose kernels are kept on a full and on a read-only disk (which takes root; otherwise left
out), in files that were cut, changed in one bit and emptied, and by two that compile at a time. Its rows are compared
with those of an undisturbed run, and the next command says whether it had to compile again. `--table` prints the table
of docs/robustness.md from a JSON that is there. Exit code 1 if anything is not as it should be.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import remoe_sim
from benchmarks.faults.fault_runs import arguments, finish
from benchmarks.faults.faults import disk, may_mount

FAULTS = ("full disk", "read-only disk", "truncated file", "damaged file", "empty file", "two at a time")


def kernel_faults(faults: list[str]) -> Iterator[dict[str, Any]]:
    """`curve` in new processes, whose kernels are kept in a folder that a fault befalls; whether its rows are right."""
    with tempfile.TemporaryDirectory(prefix="remoe-sim-faults-") as scratch:
        folder = Path(scratch)
        kept, good = folder / "out", folder / "good"
        wanted, _, _ = curve(good)
        for fault in faults:
            if fault.endswith("disk") and not may_mount():
                yield {"fault": fault, "left_out": "no file system can be mounted here"}
                continue
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir()
            with contextlib.ExitStack() as stack:
                if fault.endswith("disk"):
                    stack.enter_context(disk(folder, *(["ro"] if fault.startswith("read") else [])))
                elif fault.endswith("file"):
                    shutil.copytree(good, kept, dirs_exist_ok=True)
                    for file in [*kept.rglob("*.nbi"), *kept.rglob("*.nbc")]:
                        whole = file.read_bytes()
                        middle = len(whole) // 2
                        damaged = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
                        file.write_bytes({"t": whole[:middle], "d": damaged, "e": b""}[fault[0]])
                others = [start_curve(kept)] if fault == "two at a time" else []
                rows, said, code = curve(kept)
                same = [rows, *(other.communicate()[0] for other in others)]
                # if there is a place for them, the next command compiles nothing
                again = "compiling" in curve(kept)[1]
            right = code == 0 and all(one == wanted for one in same)
            says = [line for line in said.splitlines() if "once for all" not in line]
            fine = right and "Traceback" not in said and again == fault.endswith("disk")
            yield {"fault": fault, "exit": code, "rows": "right" if right else "wrong", "says": says,
                   "compiled_again_by_the_next": again, "fine": fine}  # fmt: skip


def start_curve(kernels: Path) -> subprocess.Popen[str]:
    command = "import sys; sys.argv[0] = 'remoe-sim'; from remoe_sim import cli; cli.run()"
    arguments = ("curve", "sample:qwen-original", "--policy", "lru", "--cache", "4:16:4", "--json")
    return subprocess.Popen(
        [sys.executable, "-c", command, *arguments], env=os.environ | {"REMOE_SIM_CACHE_DIR": str(kernels)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def curve(kernels: Path) -> tuple[str, str, int]:
    """What it answers, what it says, and its exit code."""
    process = start_curve(kernels)
    answered, said = process.communicate()
    return answered, said, process.returncode


def table(answer: dict[str, Any]) -> str:
    """A Markdown table: what `curve` answers, and whether the next command has to compile."""
    lines = ["| kernels kept on, or in | exit code, rows | compiled again by the next command |", "|---|---|---|"]
    for row in answer["rows"]:
        if "left_out" not in row:
            again = "no" if not row["compiled_again_by_the_next"] else "yes, and it is said" if row["says"] else "yes"
            mark = "" if row["fine"] else " (!)"
            lines.append(f"| {row['fault']} | {row['exit']}, {row['rows']}{mark} | {again} |")
    return "\n".join(lines)


def main() -> int:
    asked = arguments(__doc__, FAULTS, quick={"faults": "truncated file"}).parse_args()
    return finish(
        asked,
        lambda: {"version": remoe_sim.__version__, "rows": list(kernel_faults(asked.faults.split(",")))},
        table,
    )


if __name__ == "__main__":
    sys.exit(main())
