"""`remoe-sim info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._options import memory_option
from remoe_sim.commands._tables import new_table, print_table

if TYPE_CHECKING:
    from rich.table import Table

    from remoe_sim.trace.info import Info

SECTION = "Start"

RANKS = 8  # of choices that have a column; --json has all

HEADINGS = (
    "layer",
    "tokens",
    "shared/wanted",
    "reuse",
    "last 8",
    "entropy",
    "CV",
    "experts",
    "top10",
    "streak",
    "set64",
)


@click.command()
@click.argument("trace", type=click.Path())
@click.option("--layers", is_flag=True, help="Add a table with one line per MoE layer.")
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.info.v1), always with the layers.")
def command(trace: str, layers: bool, as_json: bool) -> None:
    """Show what is in TRACE and how its model routes.

    Shows tokens, sizes, expert reuse, balance and the working set.

    Reuse is the share of a decode token's experts that the tokens before it in its request used too (adjacent: the
    one before, last 4: any of the four before). The token cycle is the bytes of all experts that one decode token uses.

    Columns of --layers: tokens that were routed there; adjacent reuse (experts shared with the token before / wanted),
    and with the last 8 tokens; routing entropy / ln E; coefficient of variation of the experts' load; experts that were
    used at all; share of slots of the 10 % most used experts; tokens that an expert stays chosen for; distinct experts
    in 64 decode tokens. Of a trace with look-ahead choices: the share of chosen experts that the layer's router named
    so many MoE layers earlier, of all and of the first, second, … choice.

    \b
    Examples:
      remoe-sim info qwen.parquet
      remoe-sim info qwen.parquet --layers
      remoe-sim info qwen.parquet --json | jq .reuse_rate
    """
    import remoe_sim

    result = remoe_sim.info(remoe_sim.read_trace(trace))
    if as_json:
        import json

        click.echo(json.dumps(result.to_dict(), indent=2, allow_nan=False))
        return
    print_table(facts_table(result))
    if layers:
        click.echo()
        print_table(layers_table(result))
        if result.ahead:
            click.echo()
            print_table(ahead_table(result))


def ahead_table(info: Info) -> Table:
    """One line per distance and layer: how much of what it chose its router said so many MoE layers earlier."""
    ranks = min(RANKS, max(len(one.by_rank) for one in info.ahead))
    headings = ("layer", "ahead", "recall", *(f"rank {rank + 1}" for rank in range(ranks)))
    table = new_table(*headings, left=0, gap=1, edge=False)
    for one in info.ahead:
        by_rank = [_figure(value, 3) for value in one.by_rank[:ranks]]
        table.add_row(
            str(one.layer), str(one.distance), _figure(one.recall, 3), *by_rank, *[""] * (ranks - len(by_rank))
        )
    return table


def facts_table(info: Info) -> Table:
    """Names and values."""
    from rich.table import Table

    table = Table.grid("", "", padding=(0, 2))
    table.columns[0].no_wrap = True
    for name, value in info.facts():
        table.add_row(name, value)
    return table


def layers_table(info: Info) -> Table:
    """One line per MoE layer."""
    table = new_table(*HEADINGS, left=0, gap=1, edge=False)
    for one in info.layers:
        table.add_row(
            str(one.layer),
            str(one.decisions),
            f"{one.shared}/{one.wanted}",
            _figure(one.reuse_rate),
            _figure(one.reuse_rate_w8),
            _figure(one.routing_entropy_normalised),
            _figure(one.load_balance_cv, 2),
            f"{one.distinct_experts}/{one.experts}",
            _figure(one.popularity_top10_share, 3),
            _figure(one.mean_streak, 2),
            _figure(one.working_set_64, 1),
        )
    return table


def _figure(value: Any, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
