"""`remoe-sim fit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._options import note_all, print_json
from remoe_sim.commands._tables import new_table, print_table, print_text
from remoe_sim.util.units import decimal, percent

if TYPE_CHECKING:
    from remoe_sim.studies.fit_result import FitReport, FitRow

SECTION = "Start"


@click.command()
@click.argument("model", metavar="MODEL,…")
@click.option(
    "--device", required=True, metavar="NAME[=PRICE],…|all", help="Names of 'list devices', your own cards, or all."
)
@click.option("--host", metavar="NAME", help="Its host: of 'list hosts', or a card of your own.")
@click.option("--storage", metavar="NAME", help="Its storage: of 'list storage', or a card of your own.")
@click.option("--engine", metavar="NAME", help="What runs the model: of 'list engines', or a card of your own.")
@click.option("--memory", metavar="SIZE", help="Of the device, for everything, instead of what its card says.")
@click.option("--host-memory", metavar="SIZE", help="Of the host, such as 128GiB, instead of what its card says.")
@click.option("--context", metavar="N", help="Tokens of context; 4096 if not given.")
@click.option("--quant", default="auto", metavar="NAME,…|auto", help="Quantisations; auto tries q8_0 to q4_k_m.")
@click.option("--min-tps", metavar="X", help="Tokens per second that are asked for.")
@click.option("--target-tpot", metavar="TIME", help="Or the time per token, such as 100ms.")
@click.option("--prompt", metavar="N", help="Tokens before the first one, for the time to it; 512 if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.fit.v1).")
def command(as_json: bool, context: str | None, prompt: str | None, **arguments: Any) -> None:
    """Say how MODEL runs on a machine, without a trace.

    Every placement that fits, with the tokens per second that 80 % of comparable runs had: all on the device, experts
    of some layers on the CPU, or a cache of experts with the hit rate of known curves. What does not fit is told by how
    much. All times are modelled; TTFT is the time to the first token after --prompt tokens, not known (-) where the CPU
    computes experts.

    \b
    Examples:
      remoe-sim fit qwen3-30b-a3b --device rtx-3060
      remoe-sim fit gpt-oss-120b --device rtx-3060 --host desktop-ddr5-5600 --host-memory 128GiB
      remoe-sim fit qwen3-30b-a3b --device rtx-3060=280,rtx-4090=1600 --min-tps 60
      remoe-sim fit qwen3-30b-a3b --device all --quant q4_k_m --min-tps 30 --json
    """
    import remoe_sim

    given = {name: value for name, value in (("context", context), ("prompt", prompt)) if value is not None}
    report = remoe_sim.fit(**arguments, **given)
    if as_json:
        print_json(report.to_dict())
    else:
        show(report)
    note_all(report.notes)


def show(report: FitReport) -> None:
    """The answer in a sentence, a table, and how the first row is done."""
    from remoe_sim.studies.fit_result import in_gib, nearest

    print_text(report.sentence)
    several = len(report.leading) > 1
    rows = [row for row in (report.leading if several else report.results) if row.fits]
    if rows:
        click.echo()
        names = _names(report)
        headings = (*names, "quant", "placement", "hits", "tokens/s", "80 % of runs", "TTFT s", "limit")
        table = new_table(*headings, left=len(names) + 2, gap=1)
        cells = [(*_own(row, names), row.model.quant, *_cells(row)) for row in rows]
        for column, texts in zip(table.columns, zip(*cells, strict=True), strict=True):
            column.min_width = max(map(len, (str(column.header), *texts)))  # in a pipe none is cut
        for each in cells:
            table.add_row(*each)
        print_table(table)
        click.echo()
        print_text(in_gib(rows[0]))
    short = [row for row in (report.leading if several else report.results) if not row.fits]
    if short and rows:
        print_text(f"does not fit: {len(short)} of {len(short) + len(rows)}; nearest: {nearest(short)}")
    if rows and rows[0].flags:
        click.echo("flags of the first row, untested:")
        for one in rows[0].flags:
            click.echo(f"  {one['engine']}: {one['flags']}")


def _names(report: FitReport) -> dict[str, str]:
    """Columns that tell models and devices apart, where there are several."""
    models, devices = ({getattr(row, part).name for row in report.results} for part in ("model", "device"))
    return {name: name for name, many in (("model", models), ("device", devices)) if len(many) > 1}


def _own(row: FitRow, names: dict[str, str]) -> list[str]:
    return [getattr(row, name).name for name in names]


_PLACES = {
    "device": "all on the device", "cache-cpu": "cache, misses: CPU", "cache-link": "cache, misses: link",
    "cache-storage": "cache, misses: storage", "mapped": "mapped file",
}  # fmt: skip


def _cells(row: FitRow) -> list[str]:
    """The placement, and what is expected of it."""
    from remoe_sim.studies.fit_result import LIMITS

    values = row.to_dict()
    band = values["tpot_ms"]["band"]
    on_cpu = f"{row.cpu_layers} of {len(row.model.moe_layers)} layers on CPU"
    low, high = (decimal(1e3 / band[end], 1) for end in ("high", "low"))
    hits = percent(values["hit_rate"], decimals=0)
    place = _PLACES.get(row.placement, on_cpu)
    first = "-" if row.first_ms is None else decimal(row.first_ms / 1e3, 2)
    speed = decimal(values["tokens_per_second"], 1)
    return [place, hits, speed, f"{low} to {high}", first, LIMITS[str(row.limited_by)]]
