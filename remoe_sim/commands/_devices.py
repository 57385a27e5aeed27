"""What `remoe-sim list devices` shows."""

from __future__ import annotations

from typing import Any

import click

Row = dict[str, Any]


def rows() -> list[Row]:
    """Every card, as `Device.to_dict` has it."""
    from remoe_sim.cards import card_names
    from remoe_sim.device_cards import device

    return [device(name).to_dict() for name in card_names("device")]


def show(rows: list[Row]) -> None:
    """A table of 80 columns; a question mark is behind what nobody has checked."""
    from rich.table import Table

    from remoe_sim.commands.info import print_table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("name", "memory GiB", "GB/s", "PCIe GB/s", "storage GB/s", "checked"):
        table.add_column(heading, justify="left" if heading == "name" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    print_table(table)
    click.echo("\nchecked: numbers of the card that are neither assumed nor unverified (marked ?)")


def _cells(row: Row) -> list[str]:
    from remoe_sim.cards import DOUBTFUL

    doubted = {name for name, fact in row["facts"].items() if fact["status"] in DOUBTFUL}
    shown = [row["name"]]
    for name, unit in (("memory_bytes", 2**30), ("bandwidth_bytes_per_s", 1e9)):
        shown.append(f"{row[name] / unit:,.1f}{'?' if name in doubted else ' '}")
    for kind, otherwise in (("host", "unified " if row["unified"] else "none "), ("storage", "none ")):
        link = row[kind]
        mark = "?" if f"{kind}.bandwidth_bytes_per_s" in doubted else " "
        shown.append(f"{link['bandwidth_bytes_per_s'] / 1e9:,.1f}{mark}" if link else otherwise)
    return [*shown, f"{len(row['facts']) - len(doubted)} of {len(row['facts'])}"]
