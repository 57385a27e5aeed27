"""`remoe-sim replay`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._engine import engine_json, engine_profile, say_engine
from remoe_sim.commands._options import (
    LOGGED_STEPS,
    batch_options,
    device_options,
    end_of,
    limit_options,
    measured_option,
    memory_option,
    note,
    note_all,
    print_json,
    replay_options,
    residency_options,
    schedule_in_words,
    scheduled,
    show_times,
    strict_option,
)
from remoe_sim.commands._tables import called, held, new_table, size_unit
from remoe_sim.util.units import decimal, percent

if TYPE_CHECKING:
    from rich.table import Table

    from remoe_sim.cache.results import ReplayReport, ReplayResult

SECTION = "Start"


@click.command()
@click.argument("trace", type=click.Path())
@limit_options
@click.option("--pin", metavar="LAYER:EXPERT,…", help="Experts that always stay, also layers:0-7, hot:25% or a file.")
@click.option("--division", metavar="FILE|N,…", help="Experts of each layer, in place of a limit.")
@click.option("--train-share", metavar="X", help="Learn from this share of the requests, and count the others alone.")
@click.option("--train-seed", default="0", metavar="N", help="Which requests those are; 0 if not given.")
@replay_options
@click.option("--admit-after", default="1", metavar="N", help="An expert may enter from its N-th use on.")
@click.option("--inserts", metavar="N", help="At most N experts enter per layer and step; all if not given.")
@batch_options
@click.option("--device", metavar="NAME", help="Also say how long it takes there: a name of 'list devices', or a card.")
@click.option(
    "--model", metavar="NAME", help="Whose sizes, if the trace does not tell: a name of 'list models', or a file."
)
@click.option("--context", metavar="N", help="Tokens of context that attention reads, instead of the trace's.")
@device_options
@measured_option
@residency_options
@strict_option
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.replay.v1).")
def command(as_json: bool, strict: bool, timeline: str | None, **arguments: Any) -> None:
    """Replay TRACE through a cache of a given size.

    Shows hit rates, misses and bytes of each policy next to the offline optimum.

    A lookup is one distinct expert that a step needs at one layer. TRACE is a file, or sample:NAME for a bundled one.

    \b
    Examples:
      remoe-sim replay sample:qwen-original --cache 8
      remoe-sim replay sample:qwen-original --cache 8 --phase decode --reset request --policy lru,fifo,belady
      remoe-sim replay sample:qwen-original --budget 16MiB --scope global --policy lru --json
      remoe-sim replay sample:qwen-original --cache 8 --batch 4 --prefill-chunk 16
      remoe-sim replay sample:qwen-original --cache 8 --device jetson-orin-nx-16gb --overlap none
      remoe-sim replay sample:qwen-original --cache 8 --engine llama.cpp-moe-cache
      remoe-sim replay sample:qwen-original --cache 0 --device laptop --residency mapped --page-memory 12MiB
    """
    import remoe_sim

    if timeline is not None and arguments["device"] is None:
        raise ValueError("a timeline is that of a device; name one with --device")
    profile = engine_profile(arguments)
    report = remoe_sim.replay(scheduled(arguments), **arguments)
    timed = report.results[0].timed
    if timeline is not None and timed is not None:
        from remoe_sim.devices.timeline import write_events

        title = f"{timed.model.title} on {timed.run.device.title}, {report.results[0].policy}"
        write_events(timeline, timed.log(LOGGED_STEPS), title)
    say_engine(profile, arguments, as_json)
    if as_json:
        print_json({**report.to_dict(), **engine_json(profile, arguments)})
    else:
        show(report)
    if report.results[0].bytes_read is None:
        note("bytes are not known because the trace has no expert sizes; pass --expert-bytes 3MiB or one per layer")
    if report.sizes_of is not None:
        note(f"experts are as large as {report.sizes_of}")
    if timed is not None:
        note_all(timed.notes)
    end_of((result.fit for result in report), strict)


def show(report: ReplayReport) -> None:
    """Tables for people, 80 columns wide: decode and prefill lookups, then what happened to the misses."""
    from rich.console import Console

    from remoe_sim.util.units import plural

    console = Console(highlight=False, markup=False)
    trace, first = report.trace, report.results[0]
    console.print(
        f"{called(trace)}: {plural(trace['tokens'], 'token')}, "
        f"{plural(trace['requests'], 'request')}, {plural(trace['moe_layers'], 'MoE layer')}",
        soft_wrap=True,
    )
    console.print(
        f"cache: {held(first.capacity)}, scope {first.scope}, admission {first.admission}, order {first.order}, ",
        end="",
    )
    console.print(f"reset {first.reset}")
    caps = report.settings
    if "inserts" in caps:
        most = "all misses" if caps["inserts"] is None else f"at most {caps['inserts']} per layer and step"
        console.print(
            f"what may enter: {most}, from use {caps['admit_after']} on; other misses are served", soft_wrap=True
        )
    if set_up := _set_up(report):
        console.print(set_up, soft_wrap=True)
    if "held_out" in report.settings:
        console.print(_learnt(report.settings["held_out"], report), soft_wrap=True)
    if trace["schedule"]:
        console.print(schedule_in_words(trace["schedule"]))
    if trace["reroute"]:
        console.print(f"decode tokens re-routed ({trace['reroute']['method']}), open loop: an upper bound")
    for phase in ("decode", "prefill"):
        if getattr(first, phase).lookups:
            console.print()
            console.print(_phase_table(report, phase))
    console.print()
    console.print(_misses_table(report))
    if first.timed is not None:
        console.print()
        show_times(console, [(_name(result), result.timed) for result in report if result.timed is not None])
    belady = next((result for result in report if result.policy == "belady"), None)
    if belady is not None:
        from remoe_sim.cache.settings import CAPPED_BOUND, NO_BOUND

        console.print(
            f"\nbelady* is the offline optimum: under admission {first.admission} no policy has fewer misses in all."
            if belady.optimal
            else f"\n{CAPPED_BOUND}"
            if "inserts" in caps
            else f"\n{NO_BOUND}",
            soft_wrap=True,
        )
    if first.reuse_rate is not None:
        console.print(f"Adjacent decode tokens share {percent(first.reuse_rate)} of their experts.")


def _set_up(report: ReplayReport) -> str:
    """What is set before the count begins and is not the default: warm-up, pins, preload and training."""
    given = report.settings
    said = [f"warm-up {given['warmup']} decode tokens"] if given["warmup"] else []
    said += [f"pins {given['pin']}"] if given["pin"] else []
    said += ["starts with a preload"] if given["preload"] else []
    said += ["learnt from another trace"] if given["train"] else []
    return ", ".join(said)


def _learnt(held: dict[str, Any], report: ReplayReport) -> str:
    """What was learnt from, what is counted, and the hit rates on both."""
    from remoe_sim.util.units import plural

    said = f"learnt from {plural(held['trained_requests'], 'request')}, counted on {held['judged_requests']} others"
    if held["trained_requests"] == 1 == held["judged_requests"]:
        said = "learnt from the first steps, counted on the others"
    own = [
        f"{name} {percent(one['hit_rate'])} on what it learnt from and {percent(report[name].hit_rate)} on the others"
        for name, one in held["on_what_was_learnt_from"].items()
    ]
    return said + ("; hit rates: " + ", ".join(own) if own else "")


def _name(result: ReplayResult) -> str:
    return result.policy + ("*" if result.optimal else "")


def _phase_table(report: ReplayReport, phase: str) -> Table:
    counts = [getattr(result, phase) for result in report]
    unit, factor = size_unit(max(one.bytes_read or 0 for one in counts))
    token_unit, token_factor = size_unit(max((one.bytes_read or 0) / max(one.tokens, 1) for one in counts))
    table = new_table(phase, "hit rate", "hits / lookups", "behind belady", f"{unit} read", f"{token_unit}/token")
    belady = next((one for result, one in zip(report, counts, strict=True) if result.policy == "belady"), None)
    for result, one in zip(report, counts, strict=True):
        read = one.bytes_read
        table.add_row(
            _name(result),
            percent(one.hit_rate),
            f"{one.hits} / {one.lookups}",
            "" if belady in (None, one) else f"{100 * (belady.hits - one.hits) / one.lookups:.2f} points",
            "unknown" if read is None else decimal(read / factor, 1),
            "unknown" if read is None else decimal(read / token_factor / one.tokens, 1) if one.tokens else "",
        )
    return table


def _misses_table(report: ReplayReport) -> Table:
    unit, factor = size_unit(max(result.peak_resident_bytes or 0 for result in report))
    table = new_table("misses", "in all", "cold", "capacity", "evictions", f"peak {unit} resident")
    for result in report:
        peak = result.peak_resident_bytes
        table.add_row(
            _name(result),
            str(result.misses),
            str(result.cold_misses),
            str(result.capacity_misses),
            str(result.evictions),
            "unknown" if peak is None else decimal(peak / factor, 1),
        )
    return table
