"""Tables and lines that several commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    import pandas as pd
    from rich.table import Table

MOST_COLUMNS = 1000  # of a table in a pipe


def called(trace: Mapping[str, Any]) -> str:
    """What a table calls a trace, from the `trace` of an answer."""
    return f"{trace['model'] or 'unnamed model'}{' (synthetic trace)' if trace.get('synthetic') else ''}"


def held(capacity: dict[str, int]) -> str:
    """What a cache of this `capacity` holds."""
    from remoe_sim.util.units import format_bytes, plural

    unit, limit = next(iter(capacity.items()))
    return (
        format_bytes(limit) if unit == "bytes" else plural(limit, "expert") + " per layer" * unit.endswith("per_layer")
    )


def size_unit(largest: float) -> tuple[str, int]:
    """The unit in which a column of sizes is shown: MiB, or KiB when the largest is below one MiB."""
    return ("MiB", 2**20) if largest >= 2**20 else ("KiB", 2**10)


def new_table(*headings: str, left: int = 1, gap: int = 2, edge: bool = True, wrap: Container[str] = ()) -> Table:
    """Make a table without lines.

    left: how many columns start at the left; numbers in the others end at the right
    gap: spaces between columns; edge: also after the last
    wrap: headings of columns whose cells may break into lines
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=edge, padding=(0, gap, 0, 0), header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < left else "right", no_wrap=heading not in wrap)
    return table


def print_table(table: Table) -> None:
    """Print without spaces at the ends of lines; a pipe is as wide as it takes to cut no number."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        needed = console.measure(table, options=console.options.update(max_width=MOST_COLUMNS)).minimum
        console.width = max(console.width, needed)
    with console.capture() as text:
        console.print(table)
    for line in text.get().splitlines():
        click.echo(line.rstrip())


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows with plain numbers, null for rates over nothing."""
    clean = frame.astype(object).where(frame.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in clean.to_dict("records")]


def print_text(text: str) -> None:
    """Print in lines of up to 80 columns."""
    import textwrap

    unbroken = text.replace(" %", "\N{NO-BREAK SPACE}%")
    lines = textwrap.fill(unbroken, 80, break_on_hyphens=False)
    click.echo(lines.replace("\N{NO-BREAK SPACE}", " "))
