"""`remoe-sim demo`."""

from __future__ import annotations

import click

SECTION = "Start"


@click.command()
@click.option("--cache", default="8", show_default=True, metavar="N", help="Experts per layer.")
def command(cache: str) -> None:
    """Replay a bundled trace and show what the tool answers.

    \b
    Examples:
      remoe-sim demo
      remoe-sim demo --cache 16
    """
    import remoe_sim
    from remoe_sim.commands.replay import show

    click.echo(f"$ remoe-sim replay sample:qwen-original --cache {cache}\n")
    show(remoe_sim.replay("sample:qwen-original", cache=cache))  # type: ignore[arg-type]
