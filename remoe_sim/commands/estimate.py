"""`remoe-sim estimate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._options import (
    LOGGED_STEPS,
    changes_table,
    device_options,
    end_of,
    measured_option,
    note_all,
    parts_table,
    print_json,
    residency_options,
    strict_option,
)
from remoe_sim.util.units import percent

if TYPE_CHECKING:
    from remoe_sim.devices.estimate_result import Estimate, EstimateReport

SECTION = "Time and memory"


@click.command()
@click.option("--model", required=True, metavar="NAME", help="A name of 'list models', or a card, config.json or GGUF.")
@click.option("--device", required=True, metavar="NAME,…", help="Names of 'list devices', or cards of your own.")
@click.option("--hit-rate", metavar="H", help="Share of the lookups of decode that hit, such as 0.8.")
@click.option("--bytes-per-token", metavar="SIZE", help="What misses read per token instead, such as 480.38MiB.")
@click.option("--memory", metavar="SIZE", help="Of the device, such as 12GiB; a known curve then tells the hit rate.")
@click.option("--cache", metavar="K", help="Experts per layer in the cache; a known curve then tells the hit rate.")
@click.option("--top-k", metavar="K", help="Experts per token, if not the model's own number.")
@click.option("--batch", default="1", metavar="B", help="Tokens per step, of as many requests.")
@click.option("--context", metavar="N", help="Tokens of context that attention reads; 512 if not given.")
@device_options
@strict_option
@measured_option
@residency_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.estimate.v1).")
def command(as_json: bool, strict: bool, timeline: str | None, context: str | None, **arguments: Any) -> None:
    """Estimate the time per output token without a trace.

    The time (TPOT) follows from a hit rate, or from the bytes that misses read. --memory and --cache take the hit rate
    that is expected from published and replayed curves; without any of these, times at six hit rates are shown.

    All times are modelled: bytes over bandwidths plus fixed times of the device's card. Several devices or
    quantisations, separated by commas, are compared.

    \b
    Examples:
      remoe-sim estimate --model qwen3-30b-a3b --quant q4_k_m --device oneplus-15r --hit-rate 0.8
      remoe-sim estimate --model qwen3-30b-a3b --quant q4_k_m --device rtx-3060 --memory 11GiB
      remoe-sim estimate --model gpt-oss-120b --quant q4_k_m --device rtx-4090,rtx-5090 --hit-rate 0.9 --json
      remoe-sim estimate --model mixtral-8x7b --quant q4_k_m --device rtx-3090 --bytes-per-token 2GiB --overlap none
      remoe-sim estimate --model deepseek-v2-lite --quant q8_0 --device jetson-orin-nx-16gb --residency mapped
    """
    import remoe_sim

    given = {} if context is None else {"context": context}
    report = remoe_sim.estimate(**arguments, **given)
    if timeline is not None:
        from remoe_sim.devices.timeline import write_events

        if len(report) > 1:
            raise ValueError("a timeline shows one run; give one device and one quantisation with --timeline")
        write_events(timeline, report[0].log(LOGGED_STEPS), f"{report[0].model.title} on {report[0].device.title}")
    if as_json:
        print_json(report.to_dict())
    else:
        show(report)
    note_all(tuple(sentence for result in report.results for sentence in result.notes))
    end_of((result.fit for result in report.results), strict)


def show(report: EstimateReport) -> None:
    """What was assumed, then a line per combination."""
    from rich.console import Console

    from remoe_sim.util.units import format_bytes

    console = Console(highlight=False, markup=False)
    first, said = report[0], report[0].said
    ways = list(dict.fromkeys(_way(one.said) for one in report.results))
    console.print(
        f"{first.model.title}, top-{said['top_k']}, batch {said['batch']}, context {said['context']}, overlap "
        f"{said['overlap']}",
        soft_wrap=True,
    )
    console.print(f"misses {' or '.join(ways)}", soft_wrap=True)
    quants = {one.model.quant for one in report.results}
    hits = {one.hit_rate for one in report.results}
    if len(hits) == 1 and len(quants) == 1:
        expected = "" if first.expected is None else f" (expected; {_band(first)})"
        console.print(
            f"{percent(first.hit_rate, decimals=1)} of lookups hit{expected}, {format_bytes(first.bytes_per_token)} "
            f"read per token in {first.model.quant or 'the sizes of the file'}",
            soft_wrap=True,
        )
    console.print()
    rows = [(_label(one, len(quants) > 1, len(hits) > 1), one.times.parts_ms or {}) for one in report.results]
    rates = [said["batch"] * 1e3 / one.tpot_ms for one in report.results]
    console.print(parts_table("modelled ms", rows, rates))
    console.print()
    for (label, _), one in zip(rows, report.results, strict=True):
        term, saved = one.limits
        words = f"limited by {term.replace('_', ' ')}, {saved[term]:,.2f} ms less without"
        console.print(f"{label}: {one.tpot_ms:,.2f} ms, {one.band.sentence}; {words}", soft_wrap=True)
    if len(report) == 1 and first.what_if:
        console.print()
        console.print(changes_table(first.what_if))


def _label(one: Estimate, with_quant: bool, with_hits: bool) -> str:
    """What tells a line from the others."""
    hits = f"{percent(one.hit_rate, decimals=0 if one.expected is None else 1)} hit"
    return " ".join([one.device.name, *([one.model.quant] * with_quant), *([hits] * with_hits)])


def _band(one: Estimate) -> str:
    """Where such hit rates were found."""
    low, high = (one.expected.hits.low, one.expected.hits.high) if one.expected else (0.0, 1.0)
    return f"{percent(low, decimals=0)} to {percent(high, decimals=0)} of such curves"


def _way(said: dict[str, Any]) -> str:
    """How misses are met."""
    if said["residency"] == "mapped":
        return "are faults of a mapped file"
    if said["misses_from"] == "cpu":
        return "computed by the CPU"
    return f"read from {said['misses_from']} in {said['lanes']} lane{'s' if said['lanes'] > 1 else ''}"
