"""Options of the commands that turn misses into milliseconds, and tables of their answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from remoe_sim.commands._options import note

if TYPE_CHECKING:
    from rich.table import Table

LOGGED_STEPS = 24  # in a timeline file

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--quant", metavar="NAME", help="Quantisation, such as q4_k_m; bf16 if nothing else is known."),
    click.option(
        "--overlap",
        default="layer",
        show_default=True,
        metavar="none|layer|prefetch",
        help="Load then compute; compute hits while misses stream; or all misses foreseen one layer ahead.",
    ),
    click.option(
        "--misses-from",
        metavar="host|storage|cpu",
        help="Read from host memory or storage, or computed by the CPU; host if the device has a link from it.",
    ),
    click.option("--lanes", metavar="N", help="Reads in flight on that link, if not the device's own number."),
    click.option("--compute-ms", metavar="X", help="A measured computing time per token instead of the modelled one."),
)
_TIMELINE = click.option(
    "--timeline", metavar="FILE", help="Write the first steps as a Chrome trace, which Perfetto opens."
)


def timing_options(function: F) -> F:
    """The options that go with --device and --model."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def device_options(function: F) -> F:
    """`timing_options` and the file of a timeline."""
    return timing_options(_TIMELINE(function))


def note_all(sentences: tuple[str, ...]) -> None:
    """What nobody has checked or what is not known, on stderr."""
    for sentence in dict.fromkeys(sentences):
        note(sentence)


def parts_table(heading: str, rows: list[tuple[str, dict[str, float]]], rates: list[float] | None = None) -> Table:
    """Milliseconds per cause and token, one row for each answer, with tokens per second if they are given."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    more = ("tok/s",) if rates else ()
    for number, name in enumerate((heading, "TPOT", *more, "dense", "experts", "storage", "PCIe", "fixed")):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for number, (label, parts) in enumerate(rows):
        shown = [sum(parts.values()), *([rates[number]] if rates else []), *parts.values()]
        table.add_row(label, *(f"{value:,.2f}" for value in shown))
    return table
