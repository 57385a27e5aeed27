"""`remoe-sim batches`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._engine import engine_json, engine_profile, say_engine
from remoe_sim.commands._options import (
    end_of,
    limit_options,
    memory_option,
    note,
    note_all,
    print_json,
    replay_options,
    schedule_arguments,
    schedule_in_words,
    schedule_options,
    show_times,
    strict_option,
    timing_options,
)
from remoe_sim.commands._tables import called, held, new_table, size_unit
from remoe_sim.util.units import decimal, percent

if TYPE_CHECKING:
    from rich.table import Table

    from remoe_sim.studies.batches import BatchReport

SECTION = "Compare and ask what if"


@click.command()
@click.argument("trace", type=click.Path())
@click.option("--batch", "sizes", default="1,2,4,8", show_default=True, metavar="B,…", help="Requests at once.")
@limit_options
@replay_options
@click.option("--admit-after", default="1", metavar="N", help="An expert may enter from its N-th use on.")
@click.option("--inserts", metavar="N", help="At most N experts enter per layer and step; all if not given.")
@schedule_options
@click.option("--device", metavar="NAME", help="Also say how long it takes there: a name of 'list devices', or a card.")
@click.option("--model", metavar="NAME", help="Whose sizes, if the trace does not tell: as in 'list models'.")
@click.option("--context", metavar="N", help="Tokens of context that attention reads, instead of the trace's.")
@timing_options
@strict_option
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.batches.v1).")
def command(as_json: bool, strict: bool, **arguments: Any) -> None:
    """Replay TRACE at several batch sizes.

    Shows experts per step, hit rate and bytes per token.

    Requests run at once and a finished one is replaced (continuous batching); a step needs every expert that any of its
    tokens chose. Experts per group are the distinct ones that the decode tokens of a step need at a layer; uniform is
    what they would be if tokens chose their k of E experts at random, E (1 - (1 - k/E)^tokens), with the tokens of each
    step, and in the column behind it with those of a full batch. Hits are those of decode lookups.

    \b
    Examples:
      remoe-sim batches sample:qwen-original --cache 8
      remoe-sim batches sample:qwen-original --batch 1:4 --budget 8MiB --scope global --policy lru
      remoe-sim batches sample:qwen-original --batch 1,8 --cache 8 --policy lru --device rtx-3090
      remoe-sim batches sample:qwen-original --batch 1,4 --cache 8 --draft 3 --accept 0.7 --json
    """
    import remoe_sim
    from remoe_sim.util.units import plural

    profile = engine_profile(arguments)
    report = remoe_sim.batches(**schedule_arguments(arguments), **arguments)
    say_engine(profile, arguments, as_json)
    if as_json:
        print_json({**report.to_dict(), **engine_json(profile, arguments)})
    else:
        show(report)
    if report.batches[0].results[0].bytes_read is None:
        note("bytes are not known because the trace has no expert sizes; pass --expert-bytes 3MiB or one per layer")
    most, requests = max(one.batch for one in report), report.trace["requests"]
    if most > requests:
        note(f"the trace has {plural(requests, 'request')}, so no step of a larger batch is ever full")
    every = [result for one in report for result in one.results]
    if every[0].timed is not None:
        note_all(every[0].timed.notes)
    end_of((result.fit for result in every), strict)


def show(report: BatchReport) -> None:
    """Tables for people, 80 columns wide: groups of decode steps, then what the cache makes of them."""
    from rich.console import Console

    from remoe_sim.util.units import plural

    console = Console(highlight=False, markup=False)
    trace, first = report.trace, report.batches[0].results[0]
    tokens = plural(trace["tokens"], "token")
    console.print(f"{called(trace)}: {tokens}, {plural(trace['requests'], 'request')}")
    sizes = "/".join(str(one.batch) for one in report)
    console.print(schedule_in_words({**report.schedule, "batch": sizes}))
    console.print(
        f"cache: {held(first.capacity)}, scope {first.scope}, admission {first.admission}, order {first.order}"
    )
    console.print("\nDecode steps, and the distinct experts that one needs at a layer:\n")
    console.print(_groups_table(report))
    console.print()
    console.print(_hits_table(report))
    times = [(f"{one.batch} {result.policy}", result.timed) for one in report for result in one.results if result.timed]
    if times:
        console.print("\nTimes per token of each batch size and policy:\n")
        show_times(console, times)


def _groups_table(report: BatchReport) -> Table:
    table = new_table("batch", "steps", "tokens/step", "experts/group", "uniform", "if full", "lookups/token", left=0)
    for one in report:
        values = one.groups.to_dict()
        names = (
            "tokens_per_step",
            "experts_per_group",
            "uniform_experts_per_group",
            "uniform_experts_per_full_group",
            "lookups_per_token",
        )
        shown = ["-" if values[name] is None else f"{values[name]:.2f}" for name in names]
        table.add_row(str(one.batch), str(one.groups.steps), *shown)
    return table


def _hits_table(report: BatchReport) -> Table:
    unit, factor = size_unit(max(result.bytes_read_per_token or 0 for one in report for result in one.results))
    table = new_table("batch", "policy", "hit rate", "hits / lookups", f"{unit}/token", left=0)
    for one in report:
        for number, result in enumerate(one.results):
            decode, per_token = result.decode, result.bytes_read_per_token
            table.add_row(
                "" if number else str(one.batch),
                result.policy + ("*" if result.optimal else ""),
                percent(decode.hit_rate),
                f"{decode.hits} / {decode.lookups}",
                "unknown" if decode.bytes_read is None else "" if per_token is None else decimal(per_token / factor, 1),
            )
    return table
