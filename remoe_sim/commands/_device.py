"""Options of the commands that turn misses into milliseconds, and tables of their answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from remoe_sim.commands._options import note

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from remoe_sim.timing import Timed

LOGGED_STEPS = 24  # in a timeline file

F = TypeVar("F", bound=Callable[..., Any])

_QUANT = click.option("--quant", metavar="NAME", help="Quantisation, such as q4_k_m; bf16 if nothing else is known.")
_MEASURED = (
    click.option("--lanes", metavar="N", help="Reads in flight on that link, if not the device's own number."),
    click.option("--compute-ms", metavar="X", help="A measured computing time per token instead of the modelled one."),
)
_OPTIONS = (
    _QUANT,
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
    *_MEASURED,
)
_TIMELINE = click.option(
    "--timeline", metavar="FILE", help="Write the first steps as a Chrome trace, which Perfetto opens."
)


def driven_device_options(*own: Any) -> Callable[[F], F]:
    """--device, and what goes with it where a command itself knows what is read when; `own` are the command's own."""
    options: tuple[Any, ...] = (
        click.option("--device", metavar="NAME", help="Also say how long it takes: of 'list devices', or a card."),
        click.option("--model", metavar="NAME", help="Whose sizes, if the trace does not tell: as in 'list models'."),
        click.option("--context", metavar="N", help="Tokens of context that attention reads, instead of the trace's."),
        _QUANT,
        *own,
        *_MEASURED,
    )

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


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


def show_times(console: Console, times: list[tuple[str, Timed]], reads: str = "misses") -> None:
    """Modelled times: what runs where, where `reads` come from, a line per answer, and the time to the first token."""
    from rich.table import Table

    first = times[0][1]
    place = "computed by the CPU" if first.costs.misses_from == "cpu" else f"read from {first.costs.misses_from}"
    console.print(
        f"{first.model.title} {first.model.quant} on {first.run.device.title}: {reads} {place}, overlap "
        f"{first.run.overlap}",
        soft_wrap=True,
    )
    rows = [(label, timed.times.parts_ms) for label, timed in times]
    if any(parts for _, parts in rows):
        console.print(parts_table("modelled ms, decode", [(label, parts) for label, parts in rows if parts]))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, heading in enumerate(("", "p50 ms", "p95 ms", "p99 ms", "tokens/s", "TTFT ms, mean")):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for label, timed in times:
        tpot, ttft, rate = timed.times.tpot_ms, timed.times.ttft_ms, timed.times.tokens_per_second
        table.add_row(
            label,
            *(f"{tpot[name]:,.2f}" if tpot else "" for name in ("p50", "p95", "p99")),
            f"{rate:,.2f}" if rate else "",
            f"{ttft['mean']:,.1f}" if ttft else "",
        )
    console.print(table)


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
