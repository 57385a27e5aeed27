"""`remoe-sim calibrate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._options import note, print_json
from remoe_sim.commands._tables import new_table

if TYPE_CHECKING:
    from remoe_sim.devices.calibrate import Calibration

SECTION = "Time and memory"


@click.command()
@click.argument("measurements")
@click.option(
    "--device", required=True, metavar="NAME", help="The card to start from: a name of 'list devices', a file."
)
@click.option("--fit", metavar="NUMBER,…", help="Which of its numbers; efficiency, layer_s and expert_s if not given.")
@click.option("--hardware", metavar="TEXT", help="Only rows whose hardware contains this.")
@click.option("--model", metavar="NAME", help="Which model ran, where the file does not say.")
@click.option("--quant", metavar="NAME", help="Its quantisation, where the file does not say.")
@click.option("--top-k", metavar="K", help="Experts per token, where the file does not say.")
@click.option(
    "--overlap", default="layer", show_default=True, metavar="none|layer", help="Where the file does not say."
)
@click.option("--lanes", metavar="N", help="Reads in flight, where the file does not say.")
@click.option("--misses-from", metavar="host|storage|cpu", help="As in estimate.")
@click.option("--name", metavar="NAME", help="Of the new device; the old one's with -fitted if not given.")
@click.option("-o", "--output", metavar="FILE.toml", help="Write the fitted card.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.calibrate.v1).")
def command(as_json: bool, output: str | None, fit: str | None, **arguments: Any) -> None:
    """Fit numbers of a device card to measured runs.

    MEASUREMENTS is a CSV file with a row per run (columns model, tpot_ms, MiB_read_per_token or hit_rate_pct; optional
    hardware, quant, topk_used, compute_ms, overlap, lanes, mode), or an engine's metrics with a row per token (wall_ms,
    read_bytes, stall_ms). Times are modelled as in estimate, errors are those of the runs that were fitted.

    \b
    Examples:
      remoe-sim calibrate runs.csv --device laptop --fit efficiency,expert_s -o mine.toml
      remoe-sim calibrate runs.csv --device laptop --fit storage.bandwidth_bytes_per_s --json
    """
    import remoe_sim

    top_k, lanes = (_count(arguments.pop(name), name) for name in ("top_k", "lanes"))
    chosen = {} if fit is None else {"fit": fit}
    answer = remoe_sim.calibrate(**arguments, top_k=top_k, lanes=lanes, **chosen)
    if output is not None:
        answer.device.to_toml(output)
    if as_json:
        print_json(answer.to_dict())
    else:
        show(answer)
    for one in answer.left_out:
        note(f"left out {one.id}: {one.reason}")


def _count(given: str | None, what: str) -> int | None:
    from remoe_sim.util.units import parse_count

    return None if given is None else parse_count(given, what.replace("_", "-"))


def show(answer: Calibration) -> None:
    """Fitted numbers with intervals, then measured and predicted times."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    table = new_table("fitted", "value", "95 % interval", "before")
    for one in answer.fitted:
        before = "" if one.before is None else f"{one.before:.4g}"
        table.add_row(one.name, f"{one.value:.4g}", one.interval, before)
    console.print(table)
    console.print()
    errors = new_table("run", "measured ms", "predicted", "error", "given compute", "error")
    for row in answer.to_dict()["runs"]:
        given = row["predicted_with_compute_ms"]
        errors.add_row(
            row["id"],
            f"{row['measured_ms']:,.1f}",
            f"{row['predicted_ms']:,.1f}",
            f"{100 * row['error']:+.1f} %",
            "" if given is None else f"{given:,.1f}",
            "" if given is None else f"{100 * row['error_with_compute']:+.1f} %",
        )
    console.print(errors)
    console.print()
    given = answer.median_error_with_compute
    console.print(
        f"median absolute error {100 * answer.median_error:.1f} %"
        + ("" if given is None else f", {100 * given:.1f} % given the compute time")
        + ", of the runs that were fitted",
        soft_wrap=True,
    )
