"""remoe-sim list"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import click

from remoe_sim.commands import _devices, _models
from remoe_sim.commands._options import print_json

Row = dict[str, Any]


def _formats() -> list[Row]:
    from remoe_sim.importing import PACKAGE, TraceFormat
    from remoe_sim.registry import plugins

    return [{"name": name, "summary": format.summary} for name, format in plugins(PACKAGE, TraceFormat).items()]


def _policies() -> list[Row]:
    """kind: "stack" where one pass serves all capacities, else "slot"; options: their defaults; needs: what the user
    must give for it to work."""
    from remoe_sim.policy import Policy, StackPolicy
    from remoe_sim.registry import plugins

    rows = []
    for name, policy in plugins("remoe_sim.policies", Policy).items():
        parameters = inspect.signature(policy).parameters.values()
        needs = [f"--admission {policy.admissions[0]}"] if len(policy.admissions) == 1 else []
        rows.append(
            {
                "name": name,
                "kind": "stack" if issubclass(policy, StackPolicy) else "slot",
                "options": {one.name: one.default for one in parameters if one.default is not one.empty},
                "needs": needs + ["--train"] * policy.needs_training,
                "summary": policy.summary,
                "source": policy.source,
            }
        )
    return rows


KINDS: dict[str, Callable[[], list[Row]]] = {
    "policies": _policies,
    "formats": _formats,
    "models": _models.rows,
    "devices": _devices.rows,
}


@click.command("list")
@click.argument("kind", metavar="|".join(KINDS))
@click.option("--json", "as_json", is_flag=True, help="Print JSON (schema remoe-sim.list.v1).")
def command(kind: str, as_json: bool) -> None:
    """Show what can be named on the command line: policies, trace formats, models, or devices.

    \b
    Examples:
      remoe-sim list policies
      remoe-sim list models
      remoe-sim list devices
      remoe-sim list formats --json
    """
    if kind not in KINDS:
        from remoe_sim.errors import unknown

        raise click.UsageError(str(unknown("kind", kind, KINDS)))
    rows = KINDS[kind]()
    if as_json:
        from remoe_sim.stamps import stamp

        print_json({**stamp("remoe-sim.list.v1"), "kind": kind, "items": rows})
        return
    SHOW.get(kind, show)(rows)


def show(rows: list[Row]) -> None:
    """A table for people; what belongs to a policy besides its name and summary stands under these."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in rows[0] if rows else ():
        if heading not in ("needs", "source"):
            table.add_column(heading, no_wrap=heading != "summary")
    for row in rows:
        cells = {name: _text(value) for name, value in row.items()}
        needs, source = cells.pop("needs", ""), cells.pop("source", "")
        notes = [f"needs {needs}" if needs else "", f"source: {source}" if source else ""]
        cells["summary"] = "\n".join(part for part in (cells["summary"], *notes) if part)
        table.add_row(*cells.values())
    Console(markup=False, highlight=False).print(table)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={default}" for name, default in value.items())
    return " ".join(value) if isinstance(value, list) else str(value)


SHOW: dict[str, Callable[[list[Row]], None]] = {"models": _models.show, "devices": _devices.show}
