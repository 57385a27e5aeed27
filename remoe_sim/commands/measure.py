"""`remoe-sim measure`."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._options import note, print_json
from remoe_sim.commands._tables import new_table, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from remoe_sim.devices.measure import Measurement

SECTION = "Time and memory"

UNASKED = 2**30  # bytes that are written without a question


@click.command()
@click.option("-o", "output", metavar="CARD", help="Write the device card to this TOML file.")
@click.option("--scratch", default=".", show_default=True, metavar="DIR", help="Where to write; the storage measured.")
@click.option("--scratch-bytes", default="1GiB", show_default=True, metavar="SIZE", help="Size of the scratch file.")
@click.option("--quick", is_flag=True, help="Few and short runs; the numbers are marked unverified.")
@click.option("--yes", is_flag=True, help="Write more than 1 GiB without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.measure.v1).")
def command(output: str | None, yes: bool, as_json: bool, **arguments: Any) -> None:
    """Measure this machine and write its device card.

    Measures memory (triad and matrix-vector products), storage (random direct reads of a scratch file, which is removed
    again, at four sizes and up to eight at once) and, where torch with CUDA is present, the device and copies to it.
    Takes half a minute, on an idle machine: other programs make it look slow. The fixed times per layer, expert and
    step are not measured but assumed.

    \b
    Examples:
      remoe-sim measure -o mine.toml
    """
    import remoe_sim
    from remoe_sim.util.units import format_bytes, parse_bytes

    size = parse_bytes(arguments["scratch_bytes"])
    if size > UNASKED and not yes:
        _ask(f"write a scratch file of {format_bytes(size)} to '{arguments['scratch']}'?")
    if output and not Path(output).parent.is_dir():
        raise click.UsageError(f"folder '{Path(output).parent}' does not exist; give -o a path in one that does")
    name = Path(output).name.removesuffix(".toml") if output else "this-machine"
    measurement = remoe_sim.measure(**arguments, name=name, progress=_progress())
    if output:
        measurement.device.to_toml(output)
    if as_json:
        print_json(measurement.to_dict())
    else:
        show(measurement)
    for sentence in (*measurement.notes, *measurement.device.unverified):
        note(sentence)
    if output:
        note(f"wrote {output}; use it as --device {output}")


def _ask(question: str) -> None:
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:  # nobody is there to answer
        agreed = False
    if not agreed:
        raise click.UsageError("nothing was written; pass --yes, or a smaller --scratch-bytes")


def _progress() -> Callable[[str], None]:
    """Says what is being done on one line of a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda sentence: None
    return lambda sentence: click.echo(f"\r\x1b[2K{sentence}\r", err=True, nl=False)


def show(measurement: Measurement) -> None:
    """Memory in a line each, then a table of reads for every link, with the error of the fitted link."""
    memory, device = measurement.memory, measurement.device
    if sys.stderr.isatty():
        click.echo("\x1b[2K", err=True, nl=False)
    click.echo(device.title)
    speeds = {
        "triad on one core": memory.one_core,
        f"triad on {memory.threads} cores": memory.all_cores,
        "matrix-vector products": memory.matrix_vector,
    }
    if measurement.cuda is not None:
        speeds["copies within the device"] = measurement.cuda.copied
        speeds["products on the device"] = measurement.cuda.matrix_vector
    for what, speed in speeds.items():
        click.echo(f"{what:25}{speed / 1e9:8.1f} GB/s")
    rows = measurement.rows()
    for kind in dict.fromkeys(row["link"] for row in rows):
        _show_link(measurement, kind, [row for row in rows if row["link"] == kind])


def _show_link(measurement: Measurement, kind: str, rows: list[dict[str, Any]]) -> None:

    depths = list(dict.fromkeys(row["lanes"] for row in rows))
    table = new_table(f"{kind}, MiB/s", *(f"{depth} at once" for depth in depths), edge=False)
    for size in dict.fromkeys(row["bytes"] for row in rows):
        cells = [row for row in rows if row["bytes"] == size]
        table.add_row(
            f"{size // 1024:,} KiB",
            *(f"{row['bytes_per_s'] / 2**20:,.0f} ({100 * row['error']:+.0f} %)" for row in cells),
        )
    click.echo()
    print_table(table)
    link = getattr(measurement.device, kind)
    own = link.lane_bandwidth_bytes_per_s
    way = "copies" if kind == "host" else "direct random reads" if measurement.storage.direct else "random reads"
    text = (
        f"{way}, in brackets the error of the fitted link: latency {1e6 * link.latency_s:.1f} µs, overhead "
        f"{1e6 * link.overhead_s:.1f} µs, {link.bandwidth_bytes_per_s / 1e9:.2f} GB/s"
        + (f" ({own / 1e9:.2f} GB/s for one lane)" if own else "")
        + f", {link.lanes} lanes"
    )
    click.echo(textwrap.fill(text, 80))
