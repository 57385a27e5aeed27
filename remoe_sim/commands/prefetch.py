"""`remoe-sim prefetch`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._options import (
    batch_options,
    driven_device_options,
    driven_options,
    end_of,
    fast_option,
    limit_options,
    memory_option,
    note,
    note_all,
    parts_table,
    print_json,
    schedule_in_words,
    scheduled,
    scope_option,
    sized,
    strict_option,
)
from remoe_sim.commands._tables import called, held, new_table, size_unit
from remoe_sim.util.units import decimal, percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from remoe_sim.devices.run import Timed
    from remoe_sim.studies.prefetch_result import PrefetchReport

SECTION = "Compare and ask what if"


@click.command()
@click.argument("trace", type=click.Path())
@limit_options
@click.option(
    "--predictor",
    default="previous,frequent,oracle",
    show_default=True,
    metavar="NAME,…",
    help="Also transition, which needs --train or --train-share; lookahead, which needs a trace of capture --ahead; "
    "and noisy, which needs --recall and --precision.",
)
@click.option("--depth", default="1", show_default=True, metavar="LAYERS", help="How many layers ahead.")
@click.option("--cap", metavar="SIZE", help="Most bytes that may be prefetched in a step; any number if not given.")
@click.option(
    "--guesses", metavar="N", help="Experts named for a layer at once (default: its top-k; of lookahead all)."
)
@click.option("--recall", metavar="SHARE", help="Of noisy: the share of what is wanted that it names.")
@click.option("--precision", metavar="SHARE", help="Of noisy: the share of what it names that is wanted.")
@click.option("--noise-seed", "noise_seed", default="0", show_default=True, metavar="N", help="Of noisy.")
@click.option("--train", metavar="TRACE", help="What transition and frequent learn from.")
@click.option("--train-share", metavar="SHARE", help="Learn from this first share of the steps, and count the rest.")
@click.option("--policy", default="lru", show_default=True, metavar="NAME,…", help="Policies, separated by commas.")
@fast_option
@scope_option
@driven_options
@batch_options
@driven_device_options(
    click.option(
        "--misses-from", metavar="host|storage", help="Where reads come from; host if the device has a link from it."
    )
)
@click.option("--layers", "by_layer", is_flag=True, help="Show the layers, too.")
@strict_option
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.prefetch.v1).")
def command(as_json: bool, strict: bool, by_layer: bool, noise_seed: str, **arguments: Any) -> None:
    """Replay TRACE while a predictor loads experts ahead.

    previous names the experts of the token before, frequent those most often wanted so far, transition those that
    followed the experts DEPTH layers earlier, lookahead what the layer's router says on the input of the layer DEPTH
    earlier, oracle the right ones, noisy the right ones with errors. Counts take all loads to arrive in time; with
    --device a timeline says how long it takes and what comes late.

    Of what is loaded, useful is used before it leaves, wasted is not, and wrong is not wanted by the step and layer it
    was loaded for. Capped is what the byte cap refused, there what needed no load.

    \b
    Examples:
      remoe-sim prefetch sample:qwen-original --cache 8
      remoe-sim prefetch sample:qwen-original --cache 8 --predictor transition,noisy \\
          --train-share 0.5 --recall 0.8 --precision 0.6 --cap 64MiB
      remoe-sim prefetch sample:qwen-original --budget 6MiB --scope global --depth 2 --json
      remoe-sim prefetch sample:qwen-original --cache 8 --device rtx-3090
    """
    import remoe_sim

    report = remoe_sim.prefetch(scheduled(arguments), seed=noise_seed, **arguments)  # type: ignore[arg-type]
    if as_json:
        print_json(report.to_dict())
    else:
        show(report, by_layer)
    if report[0].total.demand_bytes is None:
        note("bytes are not known because the trace has no expert sizes; pass --expert-bytes 3MiB or one per layer")
    timed = report[0].timed
    if timed is not None:
        note_all(timed.costs.notes)
    end_of((result.fit for result in report), strict)


def show(report: PrefetchReport, by_layer: bool = False) -> None:
    """Tables for people, 80 columns wide: hits of each phase, then what became of the guesses."""
    from rich.console import Console

    from remoe_sim.util.units import format_bytes, plural

    console = Console(highlight=False, markup=False)
    trace, first = report.trace, report[0]
    said = first.settings
    console.print(
        f"{called(trace)}: {first.total.tokens} of {plural(trace['tokens'], 'token')} counted, "
        f"{plural(trace['moe_layers'], 'MoE layer')}"
    )
    console.print(f"cache: {held(said['capacity'])}, scope {said['scope']}, admission {said['admission']}, ", end="")
    console.print(f"reset {said['reset']}")
    cap = "no byte cap" if said["cap_bytes"] is None else f"at most {format_bytes(said['cap_bytes'])} per step"
    console.print(f"prefetch: {plural(said['depth'], 'layer')} ahead, {cap}")
    if trace.get("schedule"):
        console.print(schedule_in_words(trace["schedule"]))
    for phase in ("decode", "prefill"):
        if getattr(first, phase).lookups:
            console.print()
            console.print(_hits_table(report, phase))
    for table in (_guesses_table(report), *_bytes_tables(report)):
        console.print()
        console.print(table)
    if first.timed is not None:
        console.print()
        _show_times(console, report, first.timed)
    for result in report if by_layer else ():
        console.print()
        console.print(f"{result.predictor}, {result.policy}:")
        console.print(_layers_table(result.layers))


def _show_times(console: Console, report: PrefetchReport, timed: Timed) -> None:
    """Modelled times without prefetching and with it, and what came late."""
    console.print(
        f"{timed.model.title} {timed.model.quant} on {timed.run.device.title}: reads from {timed.costs.misses_from}, "
        "hits are computed meanwhile",
        soft_wrap=True,
    )
    rows = {}
    late = new_table("decode", "policy", "tokens/s", "loaded", "came late", "MiB/token late", left=2)
    for result in report:
        bare = result.without
        if result.timed is None or bare is None or bare.timed is None:
            continue
        rows[f"none {bare.policy}"] = bare.timed.times.parts_ms
        rows[f"{result.predictor} {result.policy}"] = result.timed.times.parts_ms
        rate, loaded, tokens = result.timed.times.tokens_per_second, result.decode.prefetched, result.decode.tokens
        late.add_row(
            result.predictor,
            result.policy,
            f"{rate:,.2f}" if rate else "",
            str(loaded),
            percent(result.late or 0, loaded),
            decimal((result.late_bytes or 0) / 2**20 / tokens) if tokens else "",
        )
    if any(rows.values()):
        console.print(parts_table("modelled ms, decode", [(label, parts) for label, parts in rows.items() if parts]))
    console.print(late)


def _hits_table(report: PrefetchReport, phase: str) -> Table:
    table = new_table(phase, "policy", "hit rate", "without", "resident", "by prefetch", "misses", left=2)
    lookups = " and ".join(f"{count:,}" for count in sorted({getattr(result, phase).lookups for result in report}))
    table.caption, table.caption_justify = f"of {lookups} lookups", "left"
    for result in report:
        one, bare = getattr(result, phase), getattr(result.without, phase)
        table.add_row(
            result.predictor,
            result.policy,
            percent(one.hits, one.lookups),
            percent(bare.hits, bare.lookups),
            str(one.hits_resident),
            str(one.hits_by_prefetch),
            str(one.misses),
        )
    return table


def _guesses_table(report: PrefetchReport) -> Table:
    """What became of the experts that were named, in both phases."""
    table = new_table("guesses", "policy", "named", "right", "there", "capped", "no room", "loaded", left=2)
    if all(getattr(report[0], phase).tokens for phase in ("decode", "prefill")):
        table.caption, table.caption_justify = "for decode and prefill", "left"
    for result in report:
        one = result.total
        counts = (one.resident, one.cap_refused, one.room_refused, one.prefetched)
        right = percent(one.right, one.named)
        table.add_row(result.predictor, result.policy, str(one.named), right, *map(str, counts))
    return table


def _bytes_tables(report: PrefetchReport) -> Iterator[Table]:
    """Per decode token, as everywhere, or per prefill token where nothing is decoded; in bytes or, where sizes are
    unknown, experts: the demand beside what is prefetched, then what became of this."""
    phase = "decode" if report[0].decode.tokens else "prefill"
    counts = [(getattr(one, phase), getattr(one.without, phase)) for one in report]
    tokens = max(counts[0][0].tokens, 1)
    sizes = counts[0][0].total_bytes is not None
    unit, factor = ("experts", 1)
    if sizes:
        unit, factor = size_unit(max((one.total_bytes or 0) / tokens for one, _ in counts))
    read = new_table(f"{phase} {unit}/token", "policy", "without", "demand", "prefetch", "in all", left=2)
    loaded = new_table(f"{phase} {unit}/token", "policy", "useful", "wasted", "wrong", "capped", left=2)
    for result, (one, bare) in zip(report, counts, strict=True):
        amounts: tuple[int | None, ...] = (bare.misses, one.misses, one.prefetched, one.misses + one.prefetched)
        fates: tuple[int | None, ...] = (one.useful, one.wasted, one.wrong, one.cap_refused)
        if sizes:
            amounts = (bare.demand_bytes, one.demand_bytes, one.prefetch_bytes, one.total_bytes)
            fates = (one.useful_bytes, one.wasted_bytes, one.wrong_bytes, one.cap_refused_bytes)
        for table, some in ((read, amounts), (loaded, fates)):
            shown = (sized(None if amount is None else amount / tokens, factor) for amount in some)
            table.add_row(result.predictor, result.policy, *shown)
    yield read
    yield loaded


def _layers_table(layers: dict[int, Any]) -> Table:
    table = new_table(
        "layer", "lookups", "hits", "by prefetch", "misses", "named", "loaded", "useful", "wasted", left=0
    )
    for number, one in layers.items():
        counts = (one.lookups, one.hits, one.hits_by_prefetch, one.misses, one.named, one.prefetched, one.useful)
        table.add_row(str(number), *map(str, (*counts, one.wasted)))
    return table
