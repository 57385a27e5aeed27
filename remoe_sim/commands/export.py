"""`remoe-sim export`."""

from __future__ import annotations

import os
from typing import Any

import click

from remoe_sim.commands._options import note

SECTION = "Many runs and output"


class ExportCommand(click.Command):
    """Its help ends with the formats, which are found when help is asked for."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from remoe_sim.formats.format import PACKAGE, ExportFormat
        from remoe_sim.util.plugins import plugins

        with formatter.section("Formats"):
            known = plugins(PACKAGE, ExportFormat).items()
            formatter.write_dl(
                [(f"{name} ({one.suffix})", f"{one.summary}; not kept: {one.lost}") for name, one in known]
            )


@click.command(cls=ExportCommand)
@click.argument("trace")
@click.option("-o", "--output", required=True, type=click.Path(), help="The file to write.")
@click.option("--format", metavar="NAME", help="Its format; by the suffix of the file if not given.")
@click.option("--layer", metavar="N", help="Only the layer of this number.")
def command(trace: str, output: str, **given: Any) -> None:
    """Write TRACE for another program.

    csv and npz come back with 'remoe-sim import'. oracleGeneral is read by libCacheSim: one cache of all layers, or
    with --layer that of one; a miss there is a miss of 'replay --order sequential' here.

    \b
    Examples:
      remoe-sim export sample:qwen-original -o qwen.npz
      remoe-sim export sample:qwen-original -o layer3.oracleGeneral --layer 3
      remoe-sim export qwen.parquet -o routing.csv
    """
    import remoe_sim

    if os.path.realpath(trace) == os.path.realpath(output):
        raise click.UsageError(f"{output} is the trace and would be overwritten; give another path with -o")
    written = remoe_sim.export(trace, output, **given)
    click.echo(f"wrote {output}: {written.name}{_size(output)}")
    note(f"not kept: {written.lost}")


def _size(output: str) -> str:
    from remoe_sim.util.remote import is_url

    return "" if is_url(output) else f", {os.path.getsize(output):,} bytes"
