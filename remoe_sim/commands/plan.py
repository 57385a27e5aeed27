"""`remoe-sim plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._engine import engine_json, engine_profile, say_engine
from remoe_sim.commands._options import (
    MISSED,
    batch_options,
    end_of,
    fast_option,
    measured_option,
    memory_option,
    note,
    note_all,
    print_json,
    residency_options,
    schedule_in_words,
    scheduled,
    scope_option,
    setting_options,
    strict_option,
    timing_options,
)
from remoe_sim.commands._tables import new_table
from remoe_sim.util.units import decimal

if TYPE_CHECKING:
    from rich.table import Table

    from remoe_sim.studies.plan_result import PlanReport, PlanResult

SECTION = "Time and memory"


@click.command()
@click.argument("trace")
@click.option(
    "--device", required=True, metavar="NAME,…", help="Names of 'list devices', or cards; with prices as a=700,b=1600."
)
@click.option("--target-tpot", metavar="TIME", help="Mean time per output token that is to be reached, such as 150ms.")
@click.option("--memory", metavar="SIZE", help="Memory for everything, such as 12GiB, instead of the device's own.")
@click.option(
    "--policy", default="lru,belady", show_default=True, metavar="NAME,…", help="Policies, separated by commas."
)
@fast_option
@scope_option
@setting_options
@batch_options
@click.option(
    "--model", metavar="NAME", help="Whose sizes, if the trace does not tell: a name of 'list models', or a file."
)
@click.option("--context", metavar="N", help="Tokens of context per request, instead of the trace's.")
@timing_options
@strict_option
@measured_option
@residency_options
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.plan.v1).")
def command(as_json: bool, strict: bool, **arguments: Any) -> None:
    """Find the memory that a time per output token needs.

    Answers both ways: the memory that TRACE needs for a time per output token (TPOT), and the time that a memory gives.

    Memory is one budget: weights, output head, embedding, KV cache, a workspace for the largest group of experts that
    a step needs at a layer, and the cache of experts. The knee is where the curve of TPOT over memory lies farthest
    below the chord between no cache and all experts. All times are modelled.

    \b
    Examples:
      remoe-sim plan sample:qwen-original --device jetson-orin-nx-16gb --target-tpot 2ms
      remoe-sim plan sample:qwen-original --device oneplus-15r --memory 16MiB --policy lru,lfu,belady
      remoe-sim plan sample:qwen-original --device rtx-4090=1600,rtx-3090=700 --target-tpot 1ms --phase decode
      remoe-sim plan sample:qwen-original --device jetson-orin-nx-16gb --residency mapped
    """
    import remoe_sim

    if arguments.pop("page_memory") is not None:
        raise ValueError("a plan tries every size of the page cache; give --memory, which is for everything")
    profile = engine_profile(arguments)
    trace = scheduled(arguments)
    report = remoe_sim.plan(trace, **arguments)
    say_engine(profile, arguments, as_json)
    if as_json:
        print_json({**report.to_dict(), **engine_json(profile, arguments)})
    else:
        show(report)
        if report.trace["schedule"]:
            note(schedule_in_words(report.trace["schedule"]))
    note_all(report.notes)
    end_of((result.fit for result in report), strict)
    if strict and any(result.target_ms is not None for result in report) and not any(one.reached for one in report):
        note("no device reaches the target")
        click.get_current_context().exit(MISSED)


def show(report: PlanReport) -> None:
    """The answer in a sentence, then a table: of one device all answers, of several a line for each and policy."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    console.print(report.sentence)
    console.print()
    first = report[0]
    place = "computed by the CPU" if first.said["misses_from"] == "cpu" else f"read from {first.said['misses_from']}"
    if len(report.leading) == 1:
        beside = first.beside
        parts = (("weights", beside.weights), ("head", beside.head), ("embedding", beside.embedding))
        known = ", ".join(f"{name} {_gib(size)}" for name, size in parts if size)
        kept = f"KV cache {_gib(beside.kv_cache)} ({first.said['kv_tokens']:,} tokens)"
        if _mapped(first):
            console.print(f"a mapped file, all weights in the page cache; next to them, in GiB: system, {kept}")
        else:
            console.print(f"misses {place}, overlap {first.said['overlap']}; beside experts, in GiB: {known}, {kept}")
        for one in report:
            console.print()
            console.print(_answers(one))
    else:
        needs = "" if first.target_ms is None else f"needs: for {first.target_ms:,g} ms; "
        console.print(f"in GiB ({needs}has: all memory, and TPOT with it); overlap {first.said['overlap']}")
        for quant in dict.fromkeys(one.model.quant for one in report):
            console.print()
            console.print(_lines(report, quant))
    if report.tried:
        console.print(f"\n{report.tried}")


def _mapped(result: PlanResult) -> bool:
    return result.said.get("residency") == "mapped"


def _gib(size: float) -> str:
    return decimal(size / 2**30)


def _answers(result: PlanResult) -> Table:
    """All answers for one policy."""
    least, most = ("no pages", "whole file") if _mapped(result) else ("no cache", "all experts")
    rows = [(least, result.no_cache), ("knee", result.knee)]
    if result.target_ms is not None:
        rows.append((f"target {result.target_ms:,g} ms", result.target))
    rows += [(f"in {_gib(result.memory_bytes)} GiB", result.memory), (most, result.all_experts)]
    unit = next(iter(result.no_cache.capacity))
    per_layer = ("experts",) if unit == "experts_per_layer" else ()
    kind = "pages GiB" if _mapped(result) else "cache GiB"
    table = new_table(result.policy, *per_layer, kind, "group", "in all", "TPOT ms", "waits", "tokens/s")
    for name, point in rows:
        if point is None:
            table.add_row(name, "none")
            continue
        sizes = [_gib(size) for size in (point.cache_bytes, point.workspace_bytes, point.memory_bytes)]
        times = [decimal(point.mean), f"{point.waits_ms:,.2f}", decimal(point.tokens_per_second)]
        limit = (str(point.capacity[unit]),) if per_layer else ()
        table.add_row(name, *limit, *sizes, *times)
    return table


def _lines(report: PlanReport, quant: str) -> Table:
    """A line for each device and policy."""
    first = report[0]
    asked = () if first.target_ms is None else ("needs",)
    priced = () if first.price is None else ("price",)
    table = new_table(quant, *priced, "policy", *asked, "has", "TPOT ms", "knee", "TPOT ms")
    for one in report:
        if one.model.quant != quant:
            continue
        cells = [] if one.price is None else [f"{one.price:,g}"]
        cells.append(one.policy)
        if one.target_ms is not None:
            cells.append("none" if one.target is None else _gib(one.target.memory_bytes))
        cells += [_gib(one.memory_bytes), "none" if one.memory is None else decimal(one.memory.mean)]
        knee = one.knee
        cells += ["none", ""] if knee is None else [_gib(knee.memory_bytes), decimal(knee.mean)]
        table.add_row(one.device.name, *cells)
    return table
