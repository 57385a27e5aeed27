"""`remoe-sim verify`."""

from __future__ import annotations

from typing import Any

import click

from remoe_sim.commands._options import fast_option, memory_option, note, print_json

SECTION = "Many runs and output"


@click.command()
@click.argument("result")
@click.argument("traces", nargs=-1)
@click.option("--sample", default="20", show_default=True, metavar="N|all", help="How many cells.")
@click.option("--seed", default="0", show_default=True, metavar="N", help="Which cells are drawn.")
@click.option("--policy", metavar="FILE,…", help="Policies of your own that the sweep used.")
@fast_option
@click.option("--device", metavar="CARD,…", help="Device cards of your own that the sweep used.")
@click.option("--model", metavar="NAME", help="The --model of the sweep, if it was a card of your own.")
@click.option("--expert-bytes", metavar="SIZE,…", help="The --expert-bytes of the sweep.")
@click.option("--train", metavar="TRACE", help="The --train of the sweep.")
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.verify.v1).")
def command(as_json: bool, result: str, traces: tuple[str, ...], **arguments: Any) -> None:
    """Compute cells of a sweep again and compare them.

    The cells of RESULT are computed from its TRACES, and must be the same to the last bit.

    Traces are told by their content; without any they are looked for under the paths that the rows have. Exit code 1
    if a cell differs, 2 if a trace is not there, is another one, or the rows are of another version.

    \b
    Examples:
      remoe-sim verify sweep.parquet
      remoe-sim verify sweep.parquet --sample all --json
      remoe-sim verify sweep.parquet moved.parquet --sample 5 --seed 1
    """
    import remoe_sim

    answer = remoe_sim.verify(result, traces, **arguments)
    if as_json:
        print_json(answer.to_dict())
    elif answer.equal:
        click.echo(answer._sentence())
    if not answer.equal:
        note(answer._sentence())
        raise click.exceptions.Exit(1)
