"""How many files and functions of the package a command enters: what a reader has to follow.

    python benchmarks/files_entered.py                 replay, report and import
    python benchmarks/files_entered.py info t.parquet  any command line

Counted with `sys.setprofile` in every thread of a fresh process, imports of the package included. A file counts when a
function or a class of it runs (`imported` counts all others too), a function when it is called; lambdas, comprehensions
and generators count as functions, bodies of classes do not. What Numba compiled is not seen; a run before compiles the
kernels, so that compiling is not counted.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

SIX_ROWS = "request,position,phase,layer,expert\n0,0,prefill,0,3\n0,0,prefill,1,2\n0,1,decode,0,3\n0,1,decode,1,0\n"
SIX_ROWS += "0,2,decode,0,2\n0,2,decode,1,2\n"
COMMANDS = {
    "replay": ["replay", "sample:qwen-original", "--cache", "8"],
    "report": ["report", "sample:qwen-original", "--cache", "8", "-o", "report.html"],
    "import": ["import", "six.csv", "-o", "six.parquet"],
}
FOLDERS = ("remoe_sim", "policies", "traces")


def watch(line: list[str]) -> None:
    """Run a command line in this process, and write the counts to stderr's last line."""
    root = Path(__file__).resolve().parents[1]
    folders = tuple(f"{root / name}/" for name in FOLDERS)
    seen: set[tuple[str, str, int, bool]] = set()

    def look(frame: object, event: str, argument: object) -> None:
        code = frame.f_code  # type: ignore[attr-defined]
        if event == "call" and code.co_filename.startswith(folders):
            is_function = bool(code.co_flags & inspect.CO_OPTIMIZED)
            seen.add((code.co_filename, code.co_name, code.co_firstlineno, is_function))

    threading.setprofile(look)
    sys.setprofile(look)
    from remoe_sim import cli

    try:
        cli.main(line, standalone_mode=False)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        imported, entered = {one[0] for one in seen}, {one[0] for one in seen if one[1] != "<module>"}
        counts = {"imported": len(imported), "files": len(entered), "functions": sum(one[3] for one in seen)}
        print(json.dumps(counts), file=sys.stderr)


def entered(line: list[str], folder: str) -> dict[str, int]:
    """Files and functions that a command line enters in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--watch", *line]
    for _ in range(2):  # the first run compiles kernels
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    counted: dict[str, int] = json.loads(done.stderr.splitlines()[-1])
    return counted


def main() -> None:
    """Print what the commands enter, as JSON."""
    if sys.argv[1:2] == ["--watch"]:
        return watch(sys.argv[2:])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "six.csv").write_text(SIX_ROWS, "utf-8")
        lines = {"asked": sys.argv[1:]} if len(sys.argv) > 1 else COMMANDS
        print(json.dumps({name: entered(line, folder) for name, line in lines.items()}, indent=1))


if __name__ == "__main__":
    main()
