"""What benchmark scripts share: their options, their answers in JSON, and what some of them need."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TRACES = Path(os.environ.get("REMOE_SIM_TRACES") or ROOT.parent / "shared" / "traces")  # recordings of others
NO_TRACES = Path(os.devnull)  # a folder without any, for quick forms
QUICK = "tiny sizes: shows that it runs, and says nothing else"


class _Quick(argparse.Action):
    """Set `quick`, and every option to its value in the quick form."""

    def __init__(self, option_strings: Sequence[str], dest: str, sizes: Mapping[str, Any], **more: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=False, help=QUICK, **more)
        self.sizes = sizes

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        vars(namespace).update(self.sizes, quick=True)


def options(
    doc: str | None, quick: Mapping[str, Any], output: str | None = "also write the JSON there"
) -> argparse.ArgumentParser:
    """Return a parser with `--quick` and `--output`.

    quick: values of options in the quick form; options after `--quick` override them
    output: the help text of `--output`; None if the script has no such option, or one of its own
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action=_Quick, sizes=quick)
    if output:
        parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=output)
    return parser


def show(answer: Any, output: Path | None = None, indent: int = 2) -> None:
    """Print an answer as JSON, and keep it in a file if one is named."""
    if output:
        keep(answer, output, indent)
    print(json.dumps(answer, indent=indent, default=float))


def keep(answer: Any, output: Path, indent: int = 2) -> None:
    """Write an answer to a file as JSON."""
    output.write_text(json.dumps(answer, indent=indent, default=float) + "\n")


def library(name: str, package: str | None = None) -> Any:
    """Import a library that a script cannot do without.

    Where it is not installed the script ends with a sentence: with exit code 0 in the quick form, else with 1.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        end(f"this benchmark needs {package or name}, which is not installed")


def end(sentence: str) -> None:
    """End a script that cannot run here: with exit code 0 in the quick form, else with 1."""
    if "--quick" not in sys.argv:
        sys.exit(sentence)
    print(sentence)
    sys.exit(0)


def own_command(*arguments: object) -> list[str]:
    """Return the command that runs the script that is running now, with other arguments."""
    spec = sys.modules["__main__"].__spec__
    return [sys.executable, "-m", spec.name if spec else "", *map(str, arguments)]
