"""`remoe-sim reroute`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._options import memory_option, note, print_json
from remoe_sim.commands._tables import called, new_table, size_unit
from remoe_sim.util.units import decimal, percent

if TYPE_CHECKING:
    from remoe_sim.studies.reroute import RerouteReport

SECTION = "Compare and ask what if"


@click.command()
@click.argument("trace", type=click.Path())
@click.option("--cache", required=True, metavar="N", help="Experts per layer of the LRU cache that routing looks at.")
@click.option(
    "--method",
    default="cache-aware",
    show_default=True,
    metavar="NAME",
    help="cache-prior (or cache-aware), max-rank, cumulative and substitute replace experts, drop leaves them out.",
)
@click.option("--bias", metavar="L", help="Of cache-prior: share of the router's range, 0 to 1; 0 changes nothing.")
@click.option("--max-rank", metavar="M", help="Of max-rank: residents among the M most probable experts go first.")
@click.option(
    "--threshold",
    metavar="F",
    help="Of cumulative, drop and substitute; see above.",
)
@click.option("--keep", default="1", show_default=True, metavar="J", help="The J strongest experts always stay.")
@click.option(
    "--expert-bytes", metavar="SIZE,…", help="Size of an expert, or one per MoE layer, if the trace has none."
)
@click.option("-o", "--output", metavar="FILE", help="Write the re-routed trace, to be replayed as any other.")
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.reroute.v1).")
def command(as_json: bool, output: str | None, **arguments: Any) -> None:
    """Replay TRACE as if its router preferred cached experts.

    Shows hits, bytes and how much of the router's choice is lost.

    Decode tokens only, and open loop: the tokens after a re-routed one are those of the original routing, so the gain
    is an upper bound, and what it does to the text is not measured.

    cache-prior raises the log-probability of cached experts by L times the mean range of log-probabilities, and takes
    the k largest; max-rank and cumulative prefer cached experts among the M most probable, or among the most probable
    that together have probability F (Skliar et al., arXiv 2412.00099). substitute puts the most probable cached expert
    in the place of one that is not cached if it has at least F of its probability. These need the whole distribution of
    the router (probs_NN). drop leaves out an expert that is not cached and has less than F / k of its token's gate
    weight, and needs weights_NN.

    \b
    Examples:
      remoe-sim reroute probs.parquet --cache 8 --bias 0.15
      remoe-sim reroute probs.parquet --cache 8 --method drop --threshold 0.75 -o dropped.parquet
      remoe-sim reroute probs.parquet --cache 8 --method max-rank --max-rank 12 --keep 2 --json
    """
    import remoe_sim

    report = remoe_sim.reroute(**arguments)
    if output is not None:
        remoe_sim.write_trace(report.rerouted, output)
        note(f"wrote the re-routed trace to {output}")
    if as_json:
        print_json(report.to_dict())
    else:
        show(report)
    if report.before.bytes_read is None:
        note("bytes are not known because the trace has no expert sizes; pass --expert-bytes 3MiB or one per layer")


def show(report: RerouteReport) -> None:
    """A table for people, 80 columns wide."""
    from rich.console import Console

    from remoe_sim.util.units import plural

    console = Console(highlight=False, markup=False)
    rule, lost, counts = report.rule, report.lost_mass, report.to_dict()
    taken = [
        f"{name.replace('_', ' ')} {rule[name]:g}"
        for name in ("bias", "threshold", "max_rank")
        if rule[name] is not None
    ]
    console.print(
        f"{called(report.trace)}: {rule['method']}, {taken[0]}, keep {rule['keep']}, LRU, "
        f"{plural(rule['experts_per_layer'], 'expert')} per layer\n"
    )
    unit, factor = size_unit(max(counts[one]["bytes_read_per_token"] or 0 for one in ("before", "after")))
    table = new_table("decode", "hit rate", "hits / lookups", "misses", f"{unit}/token")
    for name in ("before", "after"):
        one = counts[name]
        per_token = one["bytes_read_per_token"]
        table.add_row(
            name,
            percent(one["hit_rate"]),
            f"{one['hits']} / {one['lookups']}",
            str(one["misses"]),
            "unknown" if one["bytes_read"] is None else "none" if per_token is None else decimal(per_token / factor, 1),
        )
    console.print(table)
    if report.slots:
        share = percent(report.changed_slots, report.slots)
        console.print(f"\nchanged slots: {share} ({report.changed_slots} / {report.slots})")
        console.print(
            f"lost {lost['of']} of the chosen experts: mean {percent(lost['mean'])}, p95 {percent(lost['p95'])}\n"
            f"(of {report.decisions} decisions)"
        )
    console.print(f"\n{report.warning[0].upper()}{report.warning[1:]}.")
