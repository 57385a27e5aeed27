"""The command line: every command is one file in `remoe_sim.commands` and a thin shell around one library function."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import pkgutil
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import click

import remoe_sim
from remoe_sim import commands
from remoe_sim.commands._progress import shown

_TRACEBACK: ContextVar[bool] = ContextVar("whether errors show their traceback", default=False)
_SECTION = re.compile(r'^SECTION = "(.*)"$', re.MULTILINE)
SECTIONS = (
    "Start", "Time and memory", "Compare and ask what if", "Many runs and output", "Make traces", "This installation"
)  # fmt: skip
_DOCSTRING = re.compile(r'^def command\(.*?\) -> \w+:\n    """(.*?)"""', re.DOTALL | re.MULTILINE)


class Group(click.Group):
    """A group whose commands are the files of a package, and whose bad input ends in one sentence and exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_modules())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _modules():
            return None
        command: click.Command = importlib.import_module(f"remoe_sim.commands.{_modules()[name]}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, from the files' texts: importing all of them takes long.

        A command names its section in a line `SECTION = "…"`; those of other names follow at the end.
        """
        texts = {name: _text(name) for name in self.list_commands(ctx)}
        width = formatter.width - 6 - max(len(name) for name in texts)
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in SECTIONS}
        for name, text in texts.items():
            found = _SECTION.search(text)
            title = found[1] if found else "More"
            sections.setdefault(title, []).append((name, self._summary(ctx, name, text, width)))
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def _summary(self, ctx: click.Context, name: str, text: str, width: int) -> str:
        found = _DOCSTRING.search(text)
        command = click.Command(name, help=found[1]) if found else self.get_command(ctx, name)
        return command.get_short_help_str(width) if command else ""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            from remoe_sim.util.errors import unknown

            raise click.UsageError(str(unknown("command", args[0], self.list_commands(ctx))))
        return super().resolve_command(ctx, args)


@cache
def _modules() -> dict[str, str]:
    """Command names and their modules; a name that is a word of the language has a module with `_` behind it."""
    names = [module.name for module in pkgutil.iter_modules(commands.__path__)]
    return {name.rstrip("_"): name for name in names if not name.startswith("_")}


def _text(name: str) -> str:
    """The source of a command; nothing where only compiled files are installed."""
    file = Path(commands.__path__[0], f"{_modules()[name]}.py")
    return file.read_text("utf-8") if file.is_file() else ""


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(remoe_sim.__version__, prog_name="remoe-sim")
@click.option("--traceback", is_flag=True, help="Show the Python traceback of an error, too.")
def main(**shown: bool) -> None:
    """Replay recorded expert routing of Mixture-of-Experts models through a cache.

    \b
    Start here:
      remoe-sim demo                             a bundled trace, replayed
      remoe-sim import capture.csv -o t.parquet  your own recording
      remoe-sim replay t.parquet --cache 8       hit rates, bytes, and the optimum
    """
    _TRACEBACK.set(shown["traceback"])


def run() -> None:
    """Entry point: errors are one sentence on stderr, exit code 2 for bad usage or input, 130 when interrupted, 143
    when it is asked to end."""
    gc.set_threshold(200_000)  # importing the compiler makes many objects and frees none
    atexit.register(gc.freeze)  # nor are they looked through once more at the end, which takes 0.1 s
    for ending in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(ending) is signal.SIG_DFL:
            signal.signal(ending, _end)
    try:
        if any(name.startswith("NUMBA_") for name in os.environ):
            from remoe_sim.util.errors import check_compiler_settings

            check_compiler_settings()
        with shown():
            status = main.main(prog_name="remoe-sim", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _stop("interrupted", 130)
    except click.ClickException as error:
        where = f" (see '{error.ctx.command_path} --help')" if isinstance(error, click.UsageError) and error.ctx else ""
        _stop(error.format_message().rstrip(".") + where, 2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except (ValueError, OSError) as error:
        from remoe_sim.util.errors import TraceError

        _stop(_in_words(error), 2, getattr(error, "__notes__", []) if isinstance(error, TraceError) else [])
    except (MemoryError, OverflowError, RuntimeError) as error:
        from remoe_sim.util.errors import in_words

        sentence = in_words(error)
        if sentence is None:
            raise
        _stop(sentence, 2)


def _end(number: int, frame: Any) -> None:
    """A signal asks the process to end; what is half written is removed on the way out."""
    signal.signal(number, signal.SIG_IGN)
    print("remoe-sim: terminated", file=sys.stderr)
    raise SystemExit(128 + number)


def _in_words(error: Exception) -> str:
    """An error of the system names the file that it is about, if it knows it, and the reason."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    about = f"'{error.filename}'" if error.filename else "the answer cannot be written"
    return f"{about}: {error.strerror.lower()}"


def _stop(sentence: str, code: int, more: Sequence[str] = ()) -> None:
    from remoe_sim.util.errors import one_line

    if _TRACEBACK.get() and sys.exc_info()[1] is not None:
        traceback.print_exc()
    print(f"remoe-sim: {one_line(sentence)}", *more, sep="\n", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # it is what went wrong, and Python would say so again, at length
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
