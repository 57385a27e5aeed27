"""`remoe-sim compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._options import fast_option, memory_option, note, print_json
from remoe_sim.commands._tables import new_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from remoe_sim.studies.compare_result import Comparison, Difference

SECTION = "Compare and ask what if"

UNITS = {"reuse_rate": "reuse", "hit_rate": "hit rate %", "misses_per_token": "misses/token",
         "bytes_read_per_token": "MiB/token", "tpot_ms": "TPOT ms"}  # fmt: skip


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--cache", metavar="RANGE", help="Experts per layer; a quarter and half of them if not given.")
@click.option("--budget", metavar="SIZE,…", help="Bytes instead or as well, such as 4000MiB.")
@click.option("--policy", default="lru", show_default=True, help="Policies, separated by commas.")
@fast_option
@click.option("--scope", default="layer", show_default=True, metavar="layer|global", help="A cache per layer, or one.")
@click.option("--admission", default="mandatory", show_default=True, metavar="mandatory|bypass",
              help="Whether what a step needs must enter the cache.")  # fmt: skip
@click.option("--expert-bytes", metavar="SIZE,…", help="Size of an expert, or one per MoE layer, if traces have none.")
@click.option("--device", metavar="NAME", help="Also compare the time per token there.")
@click.option("--model", metavar="NAME", help="Whose sizes, if the traces do not tell: a name of 'list models'.")
@click.option("--quant", metavar="NAME", help="Quantisation, such as q4_k_m.")
@click.option("--overlap", metavar="none|layer|prefetch", help="See 'replay'; layer if not given.")
@click.option("--pairing", default="auto", show_default=True, metavar="auto|paired|unpaired",
              help="Whether requests of the same number are the same.")  # fmt: skip
@click.option("--confidence", default="0.95", show_default=True, metavar="P", help="Of the intervals.")
@click.option("--resamples", default="1999", show_default=True, metavar="N", help="Draws behind the intervals.")
@click.option("--seed", default="0", show_default=True, metavar="N", help="Of the draws.")
@click.option("--layers", is_flag=True, help="Also show every layer.")
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.compare.v1).")
def command(as_json: bool, layers: bool, **arguments: Any) -> None:
    """Compare two traces: does B reuse more experts than A?

    The verdict is on one number: the share of a decode token's experts that the token before it used too, pooled over
    requests and layers. Intervals are over requests, at least four on each side. Everything else is shown with
    intervals that are adjusted for how many they are.

    \b
    Examples:
      remoe-sim compare sample:qwen-original sample:qwen-remoe --cache 8
      remoe-sim compare original.parquet tuned.parquet --cache 8
      remoe-sim compare original.parquet tuned.parquet --cache 8,16 --policy lru,belady --layers
      remoe-sim compare original.parquet tuned.parquet --device jetson-orin-nx-16gb --json
    """
    import remoe_sim

    found = remoe_sim.compare(**arguments)
    if as_json:
        print_json(found.to_dict())
    else:
        show(found, layers)
    for sentence in found.notes:
        note(sentence)


def show(found: Comparison, layers: bool) -> None:
    """The verdict, then tables of 80 columns."""
    from rich.console import Console

    from remoe_sim.studies.compare_result import FEW
    from remoe_sim.util.units import plural

    console = Console(highlight=False, markup=False)
    for letter, side in (("A", found.a), ("B", found.b)):
        name, counts = side.trace["path"] or side.trace["model"] or "in memory", plural(side.requests, "request")
        console.print(f"{letter}: {name}, {counts} compared of {side.trace['requests']}", soft_wrap=True)
    console.print(found.pairing + "\n", soft_wrap=True)
    console.print(found.sentence)
    if found.verdict.interval is not None and min(found.a.requests, found.b.requests) < FEW:
        console.print("With so few requests the intervals are rough.")
    number = len(found.others)
    console.print(
        f"\nThe rest, intervals and p adjusted for {number} comparisons (*: zero is outside):\n", soft_wrap=True
    )
    console.print(_table(found.metrics, 1 - found.confidence))
    rates = {(one.a_of, one.b_of) for one in found.metrics if one.metric == "hit_rate"}
    for a_of, b_of in sorted(rates):
        console.print(f"hit rates: of {a_of:,.0f} decode lookups in A, {b_of:,.0f} in B", soft_wrap=True)
    console.print(", ".join(f"{name} {found.settings[name]}" for name in ("scope", "admission", "reset")))
    _show_layers(console, found, layers)


def _show_layers(console: Console, found: Comparison, all_of_them: bool) -> None:
    if not found.layers:
        return
    shown = [one for one in found.layers if one.shown]
    console.print(f"\nA difference of reuse is shown at {len(shown)} of {len(found.layers)} layers", end="")
    console.print(":\n" if all_of_them else "; --layers shows them.")
    if all_of_them:
        console.print(_table(found.layers, 1 - found.confidence))


def _table(rows: tuple[Difference, ...], alpha: float) -> Table:
    table = new_table("", "A", "B", "B - A", "interval  ", "p", gap=1)
    for one in rows:
        table.add_row(*_cells(one, alpha))
    return table


def _cells(one: Difference, alpha: float) -> tuple[str, ...]:
    factor = 100 if one.metric.endswith("rate") else 2**-20 if one.metric.startswith("bytes") else 1

    def number(value: float | None, sign: str = "") -> str:
        return "none" if value is None else f"{value * factor:{sign},.2f}"

    span = "none" if one.interval is None else f"{number(one.interval[0], '+')} to {number(one.interval[1], '+')}"
    return (
        _what(one), number(one.a), number(one.b), number(one.difference, "+"),
        span + (" *" if one.shown else "  "), "none" if one.p_adjusted is None else _chance(one.p_adjusted, alpha),
    )  # fmt: skip


def _chance(p: float, alpha: float) -> str:
    """Show a p-value with digits that leave it on its side of alpha."""
    if p < 0.00005:
        return "<.0001"
    digits = 4
    while (float(text := f"{p:.{digits}f}") <= alpha) != (p <= alpha) and digits < 12:
        digits += 1
    return text


def _what(one: Difference) -> str:
    if one.layer is not None:
        return f"reuse %, layer {one.layer}"
    from remoe_sim.util.units import format_bytes

    unit, limit = next(iter((one.capacity or {"": 0}).items()))
    return f"{UNITS[one.metric]}, {one.policy} {format_bytes(limit) if unit == 'bytes' else limit}"
