"""`remoe-sim tiers`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._options import (
    batch_options,
    driven_device_options,
    driven_options,
    end_of,
    fast_option,
    memory_option,
    note,
    note_all,
    print_json,
    schedule_in_words,
    scheduled,
    show_times,
    sized,
    strict_option,
)
from remoe_sim.commands._tables import called, held, new_table, size_unit
from remoe_sim.util.units import percent

if TYPE_CHECKING:
    from rich.table import Table

    from remoe_sim.studies.tiers_result import TierReport

SECTION = "Compare and ask what if"


@click.command()
@click.argument("trace", type=click.Path())
@click.option("--device-cache", metavar="N", help="Experts per layer (scope layer) or in all (global), or 'all'.")
@click.option("--device-budget", metavar="SIZE", help="Bytes instead; shared equally by layers under scope layer.")
@click.option("--host-cache", metavar="N", help="The same of the host, by --host-scope.")
@click.option("--host-budget", metavar="SIZE", help="Bytes instead.")
@click.option("--device-policy", default="lru", show_default=True, metavar="NAME,…", help="Policies of the device.")
@click.option("--host-policy", default="lru", show_default=True, metavar="NAME,…", help="Policies of the host.")
@fast_option
@click.option(
    "--relation",
    default="inclusive",
    show_default=True,
    metavar="NAME,…",
    help="inclusive: the host holds what the device does; exclusive: a hit moves up, victims come down; "
    "independent: each evicts as it likes.",
)
@click.option("--scope", default="layer", show_default=True, metavar="layer|global", help="Of the device.")
@click.option("--host-scope", default="global", show_default=True, metavar="layer|global", help="Of the host.")
@click.option(
    "--order",
    default="set",
    show_default=True,
    metavar="set|sequential",
    help="All distinct experts of a step at once, or every slot as an access of its own.",
)
@driven_options
@batch_options
@driven_device_options(
    click.option(
        "--overlap",
        metavar="none|layer",
        help="Load then compute, or compute hits while misses stream; layer if not given.",
    )
)
@strict_option
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.tiers.v1).")
def command(as_json: bool, strict: bool, **arguments: Any) -> None:
    """Replay TRACE through a device, a host and a storage tier.

    Shows hits per tier and bytes per link.

    What misses the device is looked up in the host, and what misses there is read from storage. Several policies or
    relations, separated by commas, are replayed in all combinations.

    \b
    Examples:
      remoe-sim tiers sample:qwen-original --device-cache 8 --host-cache 20 --host-scope layer
      remoe-sim tiers sample:qwen-original --device-budget 6MiB --host-budget 12MiB \\
          --host-policy lru,lfu-forget --relation inclusive,exclusive
      remoe-sim tiers sample:qwen-original --device-cache 8 --host-cache all --json
      remoe-sim tiers sample:qwen-original --device-cache 8 --host-cache 64 --device rtx-3090
    """
    import remoe_sim

    report = remoe_sim.tiers(scheduled(arguments), **arguments)
    if as_json:
        print_json(report.to_dict())
    else:
        show(report)
    if report[0].counts.host_to_device_bytes is None:
        note("bytes are not known because the trace has no expert sizes; pass --expert-bytes 3MiB or one per layer")
    timed = report[0].timed
    if timed is not None:
        note_all(timed.costs.notes)
    end_of((result.fit for result in report), strict)


def show(report: TierReport) -> None:
    """Tables for people, 80 columns wide: hits of each tier by phase, then what crossed the links."""
    from rich.console import Console

    from remoe_sim.util.units import plural

    console = Console(highlight=False, markup=False)
    trace, first = report.trace, report[0]
    console.print(
        f"{called(trace)}: {plural(trace['tokens'], 'token')}, "
        f"{plural(trace['requests'], 'request')}, {plural(trace['moe_layers'], 'MoE layer')}"
    )
    for name in ("device", "host"):
        tier = getattr(first, name)
        console.print(f"{name}: {held(tier.capacity)}, scope {tier.scope}")
    console.print(", ".join(f"{name} {first.settings[name]}" for name in ("admission", "order", "reset")))
    if trace.get("schedule"):
        console.print(schedule_in_words(trace["schedule"]))
    for phase in ("decode", "prefill"):
        if any(getattr(result, phase).device_lookups for result in report):
            console.print()
            console.print(_hits_table(report, phase))
            if first.counts.host_to_device_bytes is not None:
                console.print()
                console.print(_links_table(report, phase))
    if first.timed is not None:
        console.print()
        rows = [(f"{one.relation} {one.device.policy} {one.host.policy}", one.timed) for one in report if one.timed]
        show_times(console, rows, "what the host misses")


def _hits_table(report: TierReport, phase: str) -> Table:
    """Shares of all lookups of the phase."""
    lookups = getattr(report[0], phase).device_lookups
    table = new_table(f"{lookups} {phase} lookups", "device", "host", "on device", "in host", "storage", left=3)
    for result in report:
        one = getattr(result, phase)
        table.add_row(
            result.relation,
            result.device.policy,
            result.host.policy,
            percent(one.device_hits, lookups),
            percent(one.host_hits, lookups),
            percent(one.storage_reads, lookups),
        )
    return table


def _links_table(report: TierReport, phase: str) -> Table:
    """Bytes per link and token of the phase."""
    names = ("storage_to_host_bytes", "host_to_device_bytes", "device_to_host_bytes")
    tokens = max(getattr(report[0], phase).tokens, 1)
    rows = [[getattr(getattr(result, phase), name) for name in names] for result in report]
    unit, factor = size_unit(max((amount or 0) / tokens for row in rows for amount in row))
    table = new_table(f"{unit}/{phase} token", "device", "host", "storage→host", "host→device", "device→host", left=3)
    for result, row in zip(report, rows, strict=True):
        shown = [sized(None if amount is None else amount / tokens, factor) for amount in row]
        table.add_row(result.relation, result.device.policy, result.host.policy, *shown)
    return table
