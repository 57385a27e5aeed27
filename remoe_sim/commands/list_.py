"""`remoe-sim list`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import click

from remoe_sim.commands._options import print_json
from remoe_sim.commands._tables import new_table, print_table

SECTION = "This installation"

Row = dict[str, Any]
SHOWN = ("bf16", "q4_k_m")


def _model_rows() -> list[Row]:
    """Every card with the mean size of a routed expert, in bytes, by quantisation."""
    from remoe_sim.models.model import model
    from remoe_sim.util.cards import card_names

    found = []
    for name in card_names("model"):
        sized = {quant: model(name, quant) for quant in SHOWN}
        whole = sized[SHOWN[0]]
        found.append(
            {
                "name": name,
                "title": whole.title,
                "layers": whole.layers,
                "moe_layers": len(whole.moe_layers),
                "experts": whole.experts,
                "top_k": whole.top_k,
                "parameters": whole.parameters,
                "active_parameters": whole.active_parameters,
                "mean_expert_bytes": {q: sum(one.expert_bytes) / len(one.expert_bytes) for q, one in sized.items()},
                "status": whole.status,
                "unverified": list(whole.unverified),
                "notes": list(whole.notes),
                "source": whole.source,
            }
        )
    return found


def _show_models(rows: list[Row]) -> None:
    """A table of 80 columns; a question mark is behind models of which something has not been checked."""

    table = new_table("name", "layers", "experts", "top-k", "billions", "active", *SHOWN, edge=False, gap=1)
    for row in rows:
        mark = "?" if row["unverified"] else ""
        sizes = [f"{row['mean_expert_bytes'][quant] / 2**20:,.2f}" for quant in SHOWN]
        counts = [str(row[name]) for name in ("moe_layers", "experts", "top_k")]
        billions = (f"{row[name] / 1e9:,.1f}" for name in ("parameters", "active_parameters"))
        table.add_row(row["name"] + mark, *counts, *billions, *sizes)
    print_table(table)
    click.echo(
        "\nlayers: those with experts; billions of parameters, and those that a token uses;\n"
        "then MiB of a routed expert, the mean over layers, by quantisation.\n"
        "?: something in the card has not been checked; --json says what."
    )


REFERENCE = "qwen3-30b-a3b"


def _quant_rows() -> list[Row]:
    """Every quantisation with the bits per weight that a model's experts take in it."""
    from remoe_sim.models.model import model
    from remoe_sim.models.quantisation import quant_names

    whole = model(REFERENCE, "bf16")
    rows = []
    for name, summary in quant_names().items():
        sized = model(REFERENCE, name)
        rows.append(
            {
                "name": name,
                "expert_bits": 16 * sized.routed_bytes / whole.routed_bytes,
                "model_bits": 16 * sized.total_bytes / whole.total_bytes,
                "summary": summary,
                "assumptions": list(sized.assumptions),
            }
        )
    return rows


def _show_quants(rows: list[Row]) -> None:
    table = new_table("name", "experts", "whole", "what", left=4, edge=False, wrap=("what",))
    for row in rows:
        bits = (f"{row[name]:.3g}" for name in ("expert_bits", "model_bits"))
        table.add_row(row["name"], *bits, "; ".join([row["summary"], *(row["assumptions"] if len(rows) == 1 else [])]))
    print_table(table)
    click.echo(f"\nexperts, whole: bits per weight of the routed experts and of all of {REFERENCE}")


def _device_rows() -> list[Row]:
    """Every card, as `Device.to_dict` has it."""
    from remoe_sim.devices.device import device
    from remoe_sim.util.cards import card_names

    return [device(name).to_dict() for name in card_names("device")]


def _show_devices(rows: list[Row]) -> None:
    """A table of 80 columns; a question mark is behind what nobody has checked."""

    table = new_table("name", "memory GiB", "GB/s", "PCIe GB/s", "storage GB/s", "checked", edge=False)
    for row in rows:
        table.add_row(*_cells(row))
    print_table(table)
    click.echo("\nchecked: numbers of the card that are neither assumed nor unverified (marked ?)")


def _cells(row: Row) -> list[str]:
    from remoe_sim.devices.machine import machine
    from remoe_sim.util.cards import DOUBTFUL

    doubted = {name for name, fact in row["facts"].items() if fact["status"] in DOUBTFUL}
    shown = [row["name"]]
    for name, unit in (("memory_bytes", 2**30), ("bandwidth_bytes_per_s", 1e9)):
        shown.append(f"{row[name] / unit:,.1f}{'?' if name in doubted else ' '}")
    whole = machine(row["name"]).to_dict()  # with the storage that its card names, if it has no numbers of its own
    for kind, otherwise in (("host", "unified " if row["unified"] else "none "), ("storage", "none ")):
        link = whole[kind]
        mark = "?" if f"{kind}.bandwidth_bytes_per_s" in doubted else " "
        shown.append(f"{link['bandwidth_bytes_per_s'] / 1e9:,.1f}{mark}" if link else otherwise)
    return [*shown, f"{len(row['facts']) - len(doubted)}/{len(row['facts'])}"]


def _formats() -> list[Row]:
    from remoe_sim.formats.format import PACKAGE, TraceFormat
    from remoe_sim.util.plugins import plugins

    return [{"name": name, "summary": format.summary} for name, format in plugins(PACKAGE, TraceFormat).items()]


def _policies() -> list[Row]:
    """kind: "stack" where one pass serves all capacities, else "slot"; options: their defaults; needs: what the user
    must give for it to work."""
    from remoe_sim.policy.base import Policy
    from remoe_sim.policy.stack import StackPolicy
    from remoe_sim.util.plugins import plugins

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


def _part_rows(kind: str) -> Callable[[], list[Row]]:
    """Every card of a kind of part, as its `to_dict` has it."""

    def rows() -> list[Row]:
        from remoe_sim.util.cards import card_names

        return [_part(kind, name) for name in card_names(kind)]

    return rows


def _part(kind: str, name: str) -> Row:
    from remoe_sim.devices.device import device
    from remoe_sim.devices.engine import engine
    from remoe_sim.devices.host import host
    from remoe_sim.devices.storage import storage

    found: Any = {"device": device, "host": host, "storage": storage, "engine": engine}[kind](name)
    row: Row = found.to_dict()
    return row


def _show_hosts(rows: list[Row]) -> None:
    table = new_table("name", "memory GiB", "GB/s", "experts GB/s", "title", left=1, edge=False, wrap=("title",))
    for row in rows:
        rates = row["matvec_bytes_per_s"]
        memory = "-" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**30:,.0f}"
        fastest = f"{max(rates.values()) / 1e9:,.1f}" if rates else "-"
        table.add_row(row["name"], memory, f"{row['bandwidth_bytes_per_s'] / 1e9:,.1f}", fastest, row["title"])
    print_table(table)
    click.echo("\nGB/s: read by all cores; experts GB/s: quantised experts that the CPU computes")


def _show_storage(rows: list[Row]) -> None:
    table = new_table("name", "GB/s", "latency ms", "fault ms", "title", left=1, edge=False, wrap=("title",))
    for row in rows:
        link, fault = row["link"], row["fault_latency_s"]
        table.add_row(
            row["name"], f"{link['bandwidth_bytes_per_s'] / 1e9:,.2f}", f"{link['latency_s'] * 1e3:,.3f}",
            "-" if fault is None else f"{fault * 1e3:,.3f}", row["title"],
        )  # fmt: skip
    print_table(table)


def _show_engines(rows: list[Row]) -> None:
    table = new_table("name", "cache", "policy", "a miss", "title", left=5, edge=False, wrap=("title",))
    for row in rows:
        cache = row["cache"]
        shown = (str(cache.get(name, "-")) for name in ("scope", "policy", "miss"))
        table.add_row(row["name"], *shown, row["title"])
    print_table(table)


def _show_one(kind: str, name: str) -> None:
    """Every number of a card, with its status and source."""
    row = _part(kind, name)
    click.echo(f"{row['title']}\n")
    table = new_table("number", "value", "status", "source", left=4, edge=False, wrap=("source",))
    for number, fact in row["facts"].items():
        value = fact["value"]
        text = f"{value:g}" if isinstance(value, float) or (isinstance(value, int) and value >= 1e6) else str(value)
        table.add_row(number, text, fact["status"], fact["source"])
    print_table(table)
    for name in ("default_host", "default_storage", "default_engine", "fitted_from", "note"):
        if row.get(name):
            click.echo(f"\n{name.replace('_', ' ')}: {row[name]}")


def _samples() -> list[Row]:
    from remoe_sim.reports.names import names
    from remoe_sim.trace.reader import read_trace

    rows = []
    for name in names("samples"):
        trace = read_trace(f"sample:{name}")
        rows.append(
            {
                "name": f"sample:{name}",
                "model": trace.model.name or "not known",
                "tokens": trace.tokens,
                "requests": trace.requests,
                "layers": trace.moe_layers,
                "experts": max(trace.model.experts),
                "top_k": max(trace.model.top_k),
            }
        )
    return rows


def _figures() -> list[Row]:
    from remoe_sim.figures import functions

    return [
        {"name": name.replace("_", "-"), "summary": (inspect.getdoc(function) or "").split("\n")[0]}
        for name, function in functions().items()
    ]


def _show_plain(rows: list[Row]) -> None:
    """All columns, the first two from the left."""
    table = new_table(*rows[0], left=2, edge=False, wrap=("summary",))
    for row in rows:
        table.add_row(*map(str, row.values()))
    print_table(table)


KINDS: dict[str, Callable[[], list[Row]]] = {
    "policies": _policies,
    "formats": _formats,
    "models": _model_rows,
    "quants": _quant_rows,
    "devices": _device_rows,
    "hosts": _part_rows("host"),
    "storage": _part_rows("storage"),
    "engines": _part_rows("engine"),
    "samples": _samples,
    "figures": _figures,
}


@click.command("list")
@click.argument("kind", metavar="|".join(KINDS))
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON (schema remoe-sim.list.v1).")
def command(kind: str, name: str | None, as_json: bool) -> None:
    """List policies, formats, models, machines and more; or show one.

    The names listed are those that options of other commands take.

    \b
    Examples:
      remoe-sim list policies
      remoe-sim list models
      remoe-sim list quants
      remoe-sim list devices
      remoe-sim list devices rtx-4090
      remoe-sim list samples
      remoe-sim list formats --json
    """
    if kind not in KINDS:
        from remoe_sim.util.errors import unknown

        raise click.UsageError(str(unknown("kind", kind, KINDS)))
    if name is not None:
        _one(kind, name, as_json)
        return
    rows = KINDS[kind]()
    if as_json:
        from remoe_sim.util.display import stamp

        print_json({**stamp("remoe-sim.list.v1"), "kind": kind, "items": rows})
        return
    SHOW.get(kind, show)(rows)


def show(rows: list[Row]) -> None:
    """A table for people; what belongs to a policy besides its name and summary stands under these."""
    from rich.console import Console

    headings = [name for name in (rows[0] if rows else ()) if name not in ("needs", "source")]
    table = new_table(*headings, left=len(headings), edge=False, wrap=("summary",))
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


def _one(kind: str, name: str, as_json: bool) -> None:
    """One of a kind: all that its card says, or the row of the list."""
    from remoe_sim.util.cards import FOLDERS, listed

    card = next((one for one in FOLDERS if listed(one) == kind and one != "model"), None)
    if card is not None and not as_json:
        _show_one(card, name)
        return
    rows = [_part(card, name)] if card is not None else [row for row in KINDS[kind]() if row["name"] == name]
    if not rows:
        from remoe_sim.util.errors import unknown

        raise unknown(kind, name, [row["name"] for row in KINDS[kind]()])
    if as_json:
        from remoe_sim.util.display import stamp

        print_json({**stamp("remoe-sim.list.v1"), "kind": kind, "items": rows})
    else:
        SHOW.get(kind, show)(rows)


SHOW: dict[str, Callable[[list[Row]], None]] = {
    "quants": _show_quants, "models": _show_models, "devices": _show_devices, "hosts": _show_hosts,
    "storage": _show_storage, "engines": _show_engines, "samples": _show_plain, "figures": _show_plain,
}  # fmt: skip
