"""`remoe-sim split`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._options import (
    batch_options,
    fast_option,
    memory_option,
    note,
    print_json,
    schedule_in_words,
    scheduled,
    setting_options,
)
from remoe_sim.commands._tables import called, new_table, print_table, print_text, size_unit
from remoe_sim.util.units import decimal, percent

if TYPE_CHECKING:
    from remoe_sim.studies.split_result import Division, PolicySplit, SplitReport

SECTION = "Compare and ask what if"


@click.command()
@click.argument("trace", type=click.Path())
@click.option("--budget", metavar="SIZE", help="Bytes of all layers together, such as 4000MiB.")
@click.option("--cache", metavar="N", help="Experts per layer on average instead: N times the MoE layers are divided.")
@click.option("--memory", metavar="SIZE", help="Total device memory; the cache gets what --reserve leaves.")
@click.option(
    "--reserve", default="", metavar="SIZE,…", help="What others take: sizes, or 'dense' for the dense layers."
)
@click.option("--policy", default="lru", show_default=True, help="Policies, separated by commas; each is divided anew.")
@fast_option
@click.option(
    "--minimise",
    default="misses",
    show_default=True,
    metavar="misses|bytes",
    help="What the division makes the fewest: misses, or the bytes they read.",
)
@setting_options
@click.option("--train-share", metavar="X", help="Count on this share of the requests alone, and judge on the others.")
@click.option("--train-seed", default="0", metavar="N", help="Which requests those are; 0 if not given.")
@click.option("--apply", metavar="FILE|N,…", help="Count a division of another trace too.")
@click.option("--output", "-o", metavar="FILE", help="Write the first best division, for replay --division.")
@batch_options
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.split.v1).")
def command(as_json: bool, output: str | None, **arguments: Any) -> None:
    """Divide a cache among the layers so that it misses least.

    Shows four caches of the same size: equal (every layer the same), greedy (along the convex hulls of the layers' miss
    curves), best (the optimum, proven by dynamic programming) and shared (one cache for all layers). The division is
    fitted to this trace; another one of the same model may gain less from it.

    \b
    Examples:
      remoe-sim split sample:qwen-original --budget 6MiB
      remoe-sim split sample:qwen-original --cache 8 --policy lru,belady --phase decode
      remoe-sim split sample:qwen-original --budget 6MiB --minimise bytes --json
      remoe-sim split sample:qwen-original --budget 6MiB --train-share 0.5
    """
    import remoe_sim

    report = remoe_sim.split(scheduled(arguments), **arguments)
    if output is not None:
        from remoe_sim.cache.learning import write_kept

        write_kept("division", output, dict(zip(report.layers, report.results[0].best.experts or (), strict=True)))
    if as_json:
        print_json(report.to_dict())
    else:
        show(report)
    if report.expert_bytes is None:
        note("bytes are not known because the trace has no expert sizes; pass --expert-bytes 3MiB or one per layer")


def show(report: SplitReport) -> None:
    """A table per policy, then how many experts each layer gets; 80 columns wide."""
    from remoe_sim.util.units import format_bytes, plural

    unit, limit = next(iter(report.capacity.items()))
    of = report.settings
    held = format_bytes(limit) if unit == "bytes" else plural(limit, "expert")
    click.echo(f"{called(report.trace)}: a cache of {held} divided among {plural(len(report.layers), 'MoE layer')}")
    click.echo(
        f"fewest {report.minimise}, admission {of['admission']}, order {of['order']}, reset {of['reset']}, "
        f"phase {of['phase']}"
    )
    if report.trace.get("schedule"):
        print_text(schedule_in_words(report.trace["schedule"]))
    for result in report:
        click.echo()
        _show_policy(result)
    click.echo("\nExperts of each layer (layer:experts)")
    _show_experts(report, "equal", report.results[0].equal)
    for result in report:
        _show_experts(report, f"best for {result.policy}", result.best)


def _show_policy(result: PolicySplit) -> None:
    unit, factor = size_unit(result.equal.bytes_read or 0)
    table = new_table(result.policy, "misses", "beside equal", "hit rate", "hits / lookups", f"{unit} read")
    for name in ("equal", "greedy", "best", "shared", "applied"):
        division = getattr(result, name)
        if division is None:
            continue
        read, change = division.bytes_read, division.misses - result.equal.misses
        table.add_row(
            name + "*" * (name == "shared" and result.shared_is_optimal),
            str(division.misses),
            "" if name == "equal" or not result.equal.misses else f"{100 * change / result.equal.misses:+.2f} %",
            percent(division.hit_rate),
            f"{division.hits} / {division.lookups}",
            "unknown" if read is None else decimal(read / factor, 1),
        )
    print_table(table)
    held = result.held_out
    if held is not None:
        at_home, away = _gain(held.trained_saved, held.trained_misses), _gain(held.misses_saved, held.equal.misses)
        ends = () if held.interval is None else (f"{-100 * one:+.2f}" for one in reversed(held.interval))
        between = "too few for an interval" if held.interval is None else f"95 % interval {' to '.join(ends)} %"
        print_text(
            f"best against equal: {at_home} misses on the {held.trained} requests it was fitted to, {away} on the "
            f"{held.judged} others ({held.best.misses} and {held.equal.misses} misses; {between}): "
            + ("it holds on new requests." if held.holds else "it does not hold on new requests.")
        )
    if result.shared_is_optimal:
        click.echo("shared*: no policy misses less in one cache for all layers.")


def _gain(saved: int, of: int) -> str:
    return f"{-100 * saved / of:+.2f} %" if of else "no"


def _show_experts(report: SplitReport, name: str, division: Division) -> None:
    import textwrap

    experts = division.experts or ()
    if len(set(experts)) == 1:
        click.echo(f"{name}: {experts[0]} each")
        return
    pairs = " ".join(f"{layer}:{n}" for layer, n in zip(report.layers, experts, strict=True))
    click.echo(textwrap.fill(f"{name}: {pairs}", 80, subsequent_indent="  "))
