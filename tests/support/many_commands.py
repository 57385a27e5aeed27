"""Many command lines that are refused, in one process of their own, which may be stopped."""

import json
import subprocess
import sys

EACH = """
import contextlib, io, json, sys
from remoe_sim.cli import run
for name, command in json.loads(sys.argv[1]).items():
    sys.argv[1:] = command
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            run()
    except SystemExit as ended:
        print(json.dumps([name, ended.code, said.getvalue()]), flush=True)
"""


def how_they_end(commands, folder, seconds=120):
    """The exit code of each command and what it says, by its name; without those that did not end in time, or that a
    fault of the program ended."""
    command = [sys.executable, "-c", EACH, json.dumps(commands)]
    how = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL, "cwd": folder, "timeout": seconds}
    try:
        lines = subprocess.run(command, **how).stdout
    except subprocess.TimeoutExpired as error:
        lines = error.stdout or b""
    return {name: tuple(how) for name, *how in map(json.loads, lines.decode().splitlines())}
