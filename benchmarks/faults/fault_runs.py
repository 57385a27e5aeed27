"""How the scripts that make faults end: the table of a run that is kept, or a run, kept if that is asked for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from benchmarks.script import options, show


def arguments(description: str | None, faults: tuple[str, ...], quick: dict[str, str]) -> argparse.ArgumentParser:
    parser = options(description, quick, output="write the JSON there; with --table, read it")
    parser.add_argument("--faults", default=",".join(faults), metavar="FAULT,…")
    parser.add_argument("--table", action="store_true", help="print the table of a JSON that is there")
    return parser


def finish(
    asked: argparse.Namespace, measure: Callable[[], dict[str, Any]], table: Callable[[dict[str, Any]], str]
) -> int:
    """The exit code: 1 if anything is not as it should be."""
    if asked.table:
        print(table(json.loads(asked.output.read_text())))
        return 0
    answer = measure()
    show(answer, asked.output, indent=1)
    return int(not all(row.get("fine", True) for row in answer["rows"]))
