"""`remoe-sim check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._options import note, print_json
from remoe_sim.commands._tables import new_table, print_table
from remoe_sim.util.units import decimal, plural

if TYPE_CHECKING:
    from remoe_sim.studies.check import CheckReport

SECTION = "Time and memory"


@click.command()
@click.argument("run")
@click.option("--device", metavar="NAME", help="What it ran on, where the file does not say: of 'list devices'.")
@click.option("--host", metavar="NAME", help="Its host, where the file does not say: of 'list hosts'.")
@click.option("--engine", metavar="NAME", help="What ran it, where the file does not say: of 'list engines'.")
@click.option("--model", metavar="NAME", help="Which model ran, where the file does not say.")
@click.option("--quant", metavar="NAME", help="Its quantisation, where the file does not say.")
@click.option("-o", "--output", metavar="FILE", help="Write the runs as CSV, a row each, ready to be given to others.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.check.v1).")
def command(as_json: bool, output: str | None, **arguments: Any) -> None:
    """Compare a measured run with its estimate.

    RUN is what llama-bench writes (JSON, CSV or its table), an answer of llama-server with its timings, what vllm bench
    serve saves, or a CSV or JSON file with a row per run: model, quant, device, and tok_s or tpot_ms; optional id,
    host, engine, context, cpu_moe_layers, hit_rate. Says whether each speed is inside the band of its estimate, and how
    much longer the largest part would have to take to explain it.

    \b
    Examples:
      remoe-sim check bench.json --device rtx-3090
      remoe-sim check speeds.csv --json
      remoe-sim check bench.json --device rtx-3090 -o mine.csv
    """
    import remoe_sim

    report = remoe_sim.check(**arguments)
    if output is not None:
        from remoe_sim.util.files import replacing

        with replacing(Path(output)) as beside:
            report.measurements().to_csv(beside, index=False)
        note(f"wrote {plural(len(report), 'run')} to {output}")
    if as_json:
        print_json(report.to_dict())
    else:
        show(report)
    for name, reason in report.left_out:
        note(f"left out {name}: {reason}")


def show(report: CheckReport) -> None:
    """How many runs are inside, and a line for each."""
    click.echo(f"{report.inside} of {plural(len(report), 'run')} inside the band of 80 % of comparable runs\n")
    table = new_table("run", "model", "device", "tok/s", "estimate", "80 % of runs", "", left=3, gap=1)
    rows = []
    for one in report.results:
        band, why = one.predicted.band, one.explained_by
        text = "inside" if one.inside else "outside"
        if why is not None and not one.inside:
            text += f": {why[0]} × {why[1]:.1f}"
        low, high = (decimal(1e3 / end, 1) for end in (band.high, band.low))
        speeds = decimal(1e3 / one.measured_ms, 1), decimal(1e3 / one.predicted.tpot_ms, 1)
        rows.append((one.id, one.predicted.model.name, one.predicted.device.name, *speeds, f"{low} to {high}", text))
    for column, texts in zip(table.columns, zip(*rows, strict=True), strict=True):
        column.min_width = max(map(len, texts))  # in a pipe none is cut
    table.columns[-1].justify = "left"
    for row in rows:
        table.add_row(*row)
    print_table(table)
