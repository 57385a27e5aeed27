"""Faults × commands: what happens to the file that a command writes, what is said, and whether a rerun finishes.

    python -m benchmarks.faults.faults [--commands import,sweep,…] [--faults killed,…] [--output FILE.json] [--table]

Each command is run undisturbed, then once for every fault, in a process of its own (a fork, as most of the time of a
process goes into loading): killed (SIGKILL), asked to end (SIGTERM) and interrupted (SIGINT) at the moment at which its
first file is written and not yet in its place; with a full disk, a read-only one (small file systems in memory, which
takes root; otherwise left out, with the reason) and without the folder; with input that is not there, is cut in half,
vanishes while it is read or may not be read; two at a time; and with its answer sent to a full device. A file counts as
whole if it equals that of the undisturbed run. `--table` prints the table of docs/robustness.md from a JSON that is
there. Exit code 1 if anything is not as it should be.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

import remoe_sim
from benchmarks.faults.fault_commands import COMMANDS, NO_INPUT, Command, inputs
from benchmarks.faults.fault_runs import arguments, finish
from remoe_sim import cli

WHOLE, ABSENT = "whole", "absent"


SIGNALS = {"killed": 9, "asked to end": 15, "interrupted": 2}
FAULTS = (*SIGNALS, "full disk", "read-only disk", "no folder", "no input", "half an input", "input vanishes",
          "unreadable input", "two at a time", "answer to a full device")  # fmt: skip
CAPABILITIES = 0x20080522  # version 3 of the system's structures for them
READ_ALL = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@dataclass
class Running:
    """A command in a process of its own; folder: where it runs."""

    process: int
    folder: Path
    files: tuple[IO[str], IO[str]]

    @classmethod
    def start(
        cls, command: Command, folder: Path, signal: int = 0, victim: str = "", full: bool = False, mortal: bool = False
    ) -> Running:
        """signal: that it gets at the last moment; victim: an input that vanishes; full: where its answer goes; mortal:
        without root's right to read every file."""
        files = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115
        process = os.fork()  # of one that has loaded everything, which takes longer than most commands
        if process == 0:
            with contextlib.suppress(BaseException):
                os.chdir(folder)
                os.dup2(os.open("/dev/full", os.O_WRONLY) if full else files[0].fileno(), 1)
                os.dup2(files[1].fileno(), 2)
                if mortal and os.geteuid() == 0:
                    give_up_reading_all()
                os._exit(inside(command, signal, victim))
            os._exit(99)
        return cls(process, folder, files)

    def end(self) -> tuple[int, str, bool]:
        """The exit code, what was said on stderr, and whether there was an answer on stdout."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        for file in self.files:
            file.seek(0)
        answered, said = (file.read() for file in self.files)
        return code, said, bool(answered)


def give_up_reading_all() -> None:
    """From now on this process of root may read what its permissions allow, as other users' processes may."""
    system, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the same of capabilities from 32 on
    system.capget(header, sets)
    for number in range(3):
        sets[number] &= ~READ_ALL
    if system.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")


def inside(command: Command, signal: int, victim: str) -> int:
    """What the new process does; its exit code."""
    replace, opened = os.replace, []

    def at_the_last_moment(source: Any, target: Any, **rest: Any) -> None:  # before a finished file takes its place
        if signal and os.path.abspath(target).startswith(os.path.abspath("out") + os.sep):
            os.replace = replace
            os.kill(os.getpid(), signal)
        replace(source, target, **rest)

    class Opened(pq.ParquetFile):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            Path(victim).unlink(missing_ok=True)

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith(victim):
            opened.append(arguments)
            if len(opened) == 2:
                Path(victim).unlink(missing_ok=True)

    os.replace = at_the_last_moment
    if victim:
        pq.ParquetFile = Opened
        sys.addaudithook(heard)
    sys.argv = ["remoe-sim", *command.arguments]
    try:
        cli.run()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run(command: Command, folder: Path, **how: Any) -> tuple[int, str, bool]:
    return Running.start(command, folder, **how).end()


def state(folder: Path, name: str, wanted: Any) -> str:
    """What has become of the output."""
    found = content(folder / "out" / name)
    if not found:
        return ABSENT
    if found == wanted or (name == "card.toml" and remoe_sim.device(folder / "out" / name)):  # what is measured varies
        return WHOLE
    if name == "figures" and all(wanted.get(one) == data for one, data in found.items()):
        return "some figures, each whole"
    if name == "s.parquet":
        import pandas as pd

        rows = pd.read_parquet(folder / "out" / name)
        return "readable, without the rows that were not done" if rows["key"].is_unique else "damaged"
    return "damaged"


def content(path: Path) -> Any:
    """The bytes of a file, or of the finished files of a folder."""
    if path.is_dir():
        files = [one for one in sorted(path.rglob("[!.]*")) if one.is_file()]
        return {str(one.relative_to(path)): one.read_bytes() for one in files}
    return path.read_bytes() if path.exists() else b""


def left(folder: Path) -> list[str]:
    """Hidden files that a command left, but for the state from which finetune goes on."""
    return sorted(one.name for one in (folder / "out").rglob(".*") if one.name != ".tuned.part")


@contextlib.contextmanager
def disk(folder: Path, *options: str) -> Iterator[None]:
    """A small file system in memory as out/."""
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(("size=64k", *options)), "tmpfs", str(folder / "out")]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder / "out")], check=True)


def may_mount() -> bool:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "out").mkdir()
        try:
            with disk(Path(name)):
                return True
        except (subprocess.CalledProcessError, FileNotFoundError):
            return False


def one(command: Command, fault: str, folder: Path, wanted: Any) -> dict[str, Any]:
    """What a fault does, and a rerun after it."""
    before, given = None, command.source()
    source = None if given is None else folder / given
    answer: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        out = folder / "out"
        if fault in SIGNALS:
            code, said, _ = run(command, folder, signal=SIGNALS[fault])
        elif fault == "full disk":
            stack.enter_context(disk(folder))
            with contextlib.suppress(OSError), open(out / "others", "wb") as filler:
                while True:
                    filler.write(bytes(4096))
                    filler.flush()
            code, said, _ = run(command, folder)
        elif fault == "read-only disk":
            stack.enter_context(disk(folder, "ro"))
            code, said, _ = run(command, folder)
        elif fault == "no folder":
            out.rmdir()
            code, said, _ = run(command, folder)
        elif fault == "input vanishes":
            assert source is not None
            before = source.read_bytes()
            code, said, _ = run(command, folder, victim=str(source.relative_to(folder)))
        elif fault in ("no input", "half an input"):
            assert source is not None
            before = source.read_bytes()
            source.unlink() if fault == "no input" else source.write_bytes(before[: len(before) // 2])
            code, said, _ = run(command, folder)
        elif fault == "unreadable input":
            assert source is not None
            source.chmod(0)
            code, said, _ = run(command, folder, mortal=True)
            source.chmod(0o644)
        elif fault == "two at a time":
            other = Running.start(command, folder)
            code, said, _ = run(command, folder)
            answer["other"] = other.end()[0]
        else:
            code, said, _ = run(command, folder, full=True)
        answer |= {"exit": code, "says": sentences(said), "file": state(folder, command.output, wanted)}
        answer["left"] = left(folder) if out.exists() else []
    if before is not None and source is not None:
        source.write_bytes(before)
    out.mkdir(exist_ok=True)
    if command.refuses and answer["file"] == WHOLE:
        shutil.rmtree(out / command.output)
    again, _, _ = run(command, folder)
    answer["rerun"] = state(folder, command.output, wanted) if again == 0 else f"exit {again}"
    answer["left_after_rerun"] = left(folder)
    return answer | {"fine": fine(fault, answer)}


def sentences(said: str) -> list[str]:
    """The last thing that was said, or all of a traceback."""
    lines = [line for line in said.splitlines() if line]
    return lines if any(line.startswith("Traceback") for line in lines) else lines[-1:]


CODES = {
    "killed": (-9,), "asked to end": (143,), "interrupted": (130,), "two at a time": (0, 2), "input vanishes": (0, 2),
}  # fmt: skip


def fine(fault: str, answer: dict[str, Any]) -> bool:
    """Whether it is as it should be."""
    code = answer["exit"] in CODES.get(fault, (2,))
    whole = answer["file"] != "damaged" and (answer["exit"] != 0 or answer["file"] == WHOLE)
    told = not any("Traceback" in line for line in answer["says"]) and bool(answer["says"] or fault == "killed")
    kept = fault == "killed" or not answer["left"]
    one_done = 0 in (answer["exit"], answer.get("other", 0))
    again = answer["rerun"] == WHOLE and not answer["left_after_rerun"]
    return code and whole and (told or answer["exit"] == 0) and kept and one_done | (fault != "two at a time") and again


def possible(name: str, fault: str, answers: bool) -> str:
    """Why a fault cannot be made, or nothing; answers: whether the command prints anything on stdout."""
    if fault == "answer to a full device" and not answers:
        return "its answer is the file"
    if fault.endswith(("input", "vanishes")) and name in NO_INPUT:
        return "it reads no file"
    if fault == "no folder" and name == "plot":
        return "it makes its folder"
    if fault == "half an input" and name in ("calibrate", "capture", "finetune"):
        return "half of a table is a table, and half of a text a text"
    if fault == "unreadable input" and os.geteuid() == 0 and sys.platform != "linux":
        return "root may read every file here"
    return "" if not fault.endswith("disk") or may_mount() else "no file system can be mounted here"


def measure(commands: list[str], faults: list[str]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for name in commands:
        command, wanted, answers = COMMANDS[name], None, True
        for fault in faults:
            if reason := possible(name, fault, answers):
                rows.append({"command": name, "fault": fault, "left_out": reason})
                continue
            with tempfile.TemporaryDirectory(prefix="remoe-sim-faults-") as scratch:
                folder = Path(scratch)
                inputs(folder / "in", command)
                (folder / "out").mkdir()
                if wanted is None:
                    code, said, answers = run(command, folder)
                    if code:
                        raise RuntimeError(f"{name} failed undisturbed: {said}")
                    wanted = content(folder / "out" / command.output)
                    shutil.rmtree(folder / "out")
                    (folder / "out").mkdir()
                rows.append({"command": name, "fault": fault, **one(command, fault, folder, wanted)})
            print(rows[-1], file=sys.stderr)
    return {"version": remoe_sim.__version__, "rows": rows}


def table(answer: dict[str, Any]) -> str:
    """A Markdown table: commands down, faults across; the exit code and what became of the file."""
    rows = {(row["command"], row["fault"]): row for row in answer["rows"]}
    commands, faults = (list(dict.fromkeys(names)) for names in zip(*rows, strict=True))
    lines = ["| | " + " | ".join(faults) + " |", "|---|" + "---|" * len(faults)]
    for name in commands:
        lines.append(f"| `{name}` | " + " | ".join(cell(rows[name, fault]) for fault in faults) + " |")
    return "\n".join(lines)


def cell(row: dict[str, Any]) -> str:
    if "left_out" in row:
        return "–"
    codes = [row["exit"], *([row["other"]] if "other" in row else [])]
    return f"{' and '.join(map(str, sorted(codes)))}, {row['file']}" + ("" if row["fine"] else " (!)")


def main() -> int:
    parser = arguments(__doc__, FAULTS, quick={"commands": "import", "faults": "killed,no input"})
    parser.add_argument("--commands", default=",".join(COMMANDS), metavar="NAME,…")
    asked = parser.parse_args()
    return finish(asked, lambda: measure(asked.commands.split(","), asked.faults.split(",")), table)


if __name__ == "__main__":
    sys.exit(main())
