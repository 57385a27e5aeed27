"""remoe-sim list"""

from __future__ import annotations

from collections.abc import Callable

import click

from remoe_sim.commands._options import print_json

Row = dict[str, str]


def _formats() -> list[Row]:
    from remoe_sim.importing import PACKAGE, TraceFormat
    from remoe_sim.registry import plugins

    return [{"name": name, "summary": format.summary} for name, format in plugins(PACKAGE, TraceFormat).items()]


def _policies() -> list[Row]:
    from remoe_sim.policy import Policy
    from remoe_sim.registry import plugins

    found = plugins("remoe_sim.policies", Policy)
    return [{"name": name, "summary": policy.summary, "source": policy.source} for name, policy in found.items()]


KINDS: dict[str, Callable[[], list[Row]]] = {"policies": _policies, "formats": _formats}


@click.command("list")
@click.argument("kind", metavar="|".join(KINDS))
@click.option("--json", "as_json", is_flag=True, help="Print JSON (schema remoe-sim.list.v1).")
def command(kind: str, as_json: bool) -> None:
    """Show what can be named on the command line: policies, or trace formats.

    \b
    Examples:
      remoe-sim list policies
      remoe-sim list formats --json
    """
    if kind not in KINDS:
        from remoe_sim.errors import unknown

        raise click.UsageError(str(unknown("kind", kind, KINDS)))
    rows = KINDS[kind]()
    if as_json:
        print_json({"schema": "remoe-sim.list.v1", "kind": kind, "items": rows})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in rows[0] if rows else ():
        table.add_column(heading)
    for row in rows:
        table.add_row(*row.values())
    Console(markup=False, highlight=False).print(table)
