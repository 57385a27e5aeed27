"""What `remoe-sim list models` shows."""

from __future__ import annotations

from typing import Any

import click

Row = dict[str, Any]
SHOWN = ("bf16", "q4_k_m")


def rows() -> list[Row]:
    """Every card with the mean size of a routed expert, in bytes, by quantisation."""
    from remoe_sim.cards import card_names
    from remoe_sim.model_cards import model

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


def show(rows: list[Row]) -> None:
    """A table of 80 columns; a question mark is behind models of which something has not been checked."""
    from rich.table import Table

    from remoe_sim.commands.info import print_table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    headings = ("name", "layers", "MoE", "experts", "top-k", "billions", *SHOWN)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "name" else "right", no_wrap=True)
    for row in rows:
        mark = "?" if row["unverified"] else ""
        sizes = [f"{row['mean_expert_bytes'][quant] / 2**20:,.2f}" for quant in SHOWN]
        counts = [str(row[name]) for name in ("layers", "moe_layers", "experts", "top_k")]
        table.add_row(row["name"] + mark, *counts, f"{row['parameters'] / 1e9:,.1f}", *sizes)
    print_table(table)
    click.echo(
        "\nMoE: layers with experts; billions: of parameters; then MiB of a routed expert,\n"
        "the mean over layers, by quantisation.\n"
        "?: something in the card has not been checked; --json says what."
    )
