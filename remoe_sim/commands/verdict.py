"""`remoe-sim verdict`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._engine import engine_json, engine_profile, say_engine
from remoe_sim.commands._options import (
    batch_options,
    changes_table,
    end_of,
    fast_option,
    limit_options,
    measured_option,
    memory_option,
    note,
    note_all,
    print_json,
    schedule_in_words,
    scheduled,
    scope_option,
    setting_options,
    strict_option,
    timing_options,
)
from remoe_sim.commands._tables import called, new_table, print_table, print_text, size_unit
from remoe_sim.util.units import decimal, percent

if TYPE_CHECKING:
    from rich.table import Table

    from remoe_sim.cache.results import ReplayResult
    from remoe_sim.studies.verdict_result import Verdict
    from remoe_sim.studies.what_if import OnDevice

SECTION = "Start"


@click.command()
@click.argument("trace", type=click.Path())
@limit_options
@click.option(
    "--policy", metavar="NAME,…", help="Online policies to choose the best from; all that are usable if not given."
)
@fast_option
@scope_option
@setting_options
@batch_options
@click.option("--device", metavar="NAME", help="Also say what would help there: a name of 'list devices', or a card.")
@click.option(
    "--model", metavar="NAME", help="Whose sizes, if the trace does not tell: a name of 'list models', or a file."
)
@click.option("--context", metavar="N", help="Tokens of context that attention reads, instead of the trace's.")
@timing_options
@strict_option
@measured_option
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.verdict.v1).")
def command(as_json: bool, strict: bool, **arguments: Any) -> None:
    """Explain why a cache of this size misses.

    Names the cause: the policy, the working set, or neither because the trace fits.

    Compares the best online policy with Belady, which knows the future. fits: at most 1 % of the lookups are capacity
    misses (not first uses). policy: Belady at the same limit avoids at least half of them. working set: it avoids less.

    \b
    Examples:
      remoe-sim verdict sample:qwen-original --cache 8
      remoe-sim verdict sample:qwen-original --budget 6MiB --scope global
      remoe-sim verdict sample:qwen-original --cache 8 --device jetson-orin-nx-16gb
      remoe-sim verdict sample:qwen-original --cache 8 --phase decode --policy lru --json
    """
    import remoe_sim

    profile = engine_profile(arguments)
    found = remoe_sim.verdict(scheduled(arguments), **arguments)
    say_engine(profile, arguments, as_json)
    if as_json:
        print_json({**found.to_dict(), **engine_json(profile, arguments)})
    else:
        show(found)
    if found.best.bytes_read is None:
        note("bytes are not known because the trace has no expert sizes; pass --expert-bytes 3MiB or one per layer")
    if found.on_device is not None:
        note_all(found.on_device.timed.notes)
        end_of([found.on_device.fit], strict)


def show(found: Verdict) -> None:
    """The paragraph, then the numbers behind it; 80 columns wide."""
    from remoe_sim.studies.verdict_result import RULE
    from remoe_sim.util.units import plural

    of = found.settings
    trace = found.trace
    click.echo(f"{called(trace)}: {plural(trace['tokens'], 'token')}, {plural(trace['moe_layers'], 'MoE layer')}")
    click.echo(
        f"scope {of['scope']}, admission {of['admission']}, order {of['order']}, reset {of['reset']}, "
        f"phase {of['phase']}"
    )
    if found.trace.get("schedule"):
        print_text(schedule_in_words(found.trace["schedule"]))
    click.echo()
    print_text(found.paragraph)
    for table in (_policies(found), _regime(found), _needed(found)):
        click.echo()
        print_table(table)
    if found.on_device is not None:
        _times(found.on_device, found.best.policy)
    click.echo()
    if found.belady.optimal:
        print_text("belady*: no rule misses fewer under that admission.")
    print_text(f"Rule: {RULE}.")
    for why in dict.fromkeys(found.left_out.values()):
        names = ", ".join(name for name, reason in found.left_out.items() if reason == why)
        print_text(f"Left out because it {why}: {names}.")


def _times(on: OnDevice, policy: str) -> None:
    """What a token takes with the best policy, what bounds it, and what would help."""
    timed = on.timed
    click.echo()
    within = "" if timed.band is None else f", {timed.band.sentence}"
    text = f"On {timed.run.device.title} a token takes {timed.mean_ms:,.2f} ms with {policy} (modelled){within}."
    if timed.limits is not None:
        term, saved = timed.limits
        text += f" Limited by {term.replace('_', ' ')}: {saved[term]:,.2f} ms less without."
    print_text(text)
    click.echo()
    print_table(changes_table(on.changes))
    for one in on.changes:
        if one.note is not None:
            print_text(f"{one.change}: {one.note}.")


def _policies(found: Verdict) -> Table:
    results = [*found.online, *found.bounds.values()]
    unit, factor = size_unit(max(result.bytes_read_per_token or 0 for result in results))
    table = new_table("policy", "misses", "capacity", "regret", "hit rate", "decode", f"{unit}/token")

    def add(name: str, result: ReplayResult, regret: str) -> None:
        per_token = result.bytes_read_per_token
        table.add_row(
            name,
            str(result.misses),
            str(result.capacity_misses),
            regret,
            percent(result.hit_rate),
            percent(result.decode.hit_rate),
            "unknown" if result.bytes_read is None else "none" if per_token is None else decimal(per_token / factor, 1),
        )

    table.caption = f"hit rate: of {found.belady.lookups:,} lookups, decode: of {found.belady.decode.lookups:,}"
    table.caption_justify = "left"
    for result in found.online:
        add(result.policy, result, str(result.misses - found.belady.misses))
    for admission, bound in found.bounds.items():
        add(f"belady{'*' * bound.optimal}, {admission}", bound, "" if admission != found.settings["admission"] else "0")
    return table


def _regime(found: Verdict) -> Table:
    """Regime, token cycle and working sets."""
    from rich.table import Table

    from remoe_sim.studies.verdict_result import amount
    from remoe_sim.util.units import format_bytes

    table = Table.grid("", "", padding=(0, 2))
    table.columns[0].no_wrap = True
    what = "group/capacity" if found.settings["scope"] == "layer" else "step/capacity"
    for name in ("decode", "prefill"):
        one = found.regime[name]
        if one["groups"]:
            size = "the cache is empty" if one["mean"] is None else f"mean {one['mean']:.3f}, p95 {one['p95']:.3f}"
            table.add_row(f"r = {what}, {name}", f"{size}, {one['above_one']:,} of {one['groups']:,} above one")
    cycle = found.token_cycle
    table.add_row("token cycle, limit", f"{amount(cycle, 'token_cycle')}, {amount(cycle, 'limit')}")
    if cycle["lru_hits_nothing_below"] is not None:
        table.add_row("one LRU for all layers floods", f"below {amount(cycle, 'lru_hits_nothing_below')}")
    for one in found.working_set:
        if one["windows"]:
            size = "" if one["mean_bytes"] is None else f", {format_bytes(one['mean_bytes'])} in all"
            table.add_row(f"working set, {one['window']} tokens", f"{one['mean_experts']:.1f} experts per layer{size}")
    return table


def _needed(found: Verdict) -> Table:
    """Experts per layer by share of decode lookups that hit."""
    shares = [target["decode_hit_rate"] for target in found.experts_needed[0]["targets"]]
    table = new_table("experts per layer to hit", *(f"{100 * share:.0f} %" for share in shares), "all experts hit")
    for one in found.experts_needed:
        needed = [target["experts_per_layer"] for target in one["targets"]]
        table.add_row(one["policy"], *("never" if n is None else str(n) for n in needed), percent(one["most"]))
    return table
