"""`remoe-sim optimize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._options import limit_options, memory_option, print_json
from remoe_sim.commands._tables import new_table, print_table, print_text
from remoe_sim.util.units import percent

if TYPE_CHECKING:
    from remoe_sim.studies.optimize_result import OptimizeReport

SECTION = "Compare and ask what if"
_PLAIN = {"scope": "layer", "admission": "mandatory", "admit_after": 1}


@click.command()
@click.argument("trace", type=click.Path())
@limit_options
@click.option("--policy", metavar="NAME,…", help="Candidates; those that are cheap to replay if not given.")
@click.option("--reset", default="never", show_default=True, metavar="never|request", help="When the cache is emptied.")
@click.option("--phase", default="all", show_default=True, metavar="all|decode|prefill", help="Which tokens count.")
@click.option("--expert-bytes", metavar="SIZE,…", help="Size of an expert, or one per MoE layer.")
@click.option("--device", metavar="NAME", help="Minimise modelled time there instead of misses.")
@click.option("--host", metavar="NAME", help="Its host: of 'list hosts', or a card of your own.")
@click.option("--storage", metavar="NAME", help="Its storage: of 'list storage', or a card of your own.")
@click.option("--engine", metavar="NAME", help="What runs the model: of 'list engines', or a card of your own.")
@click.option("--model", metavar="NAME", help="Whose sizes: a name of 'list models', or a file.")
@click.option("--quant", metavar="NAME,…", help="Quantisations that may be chosen; quality is not judged.")
@click.option("--train-share", default="0.5", show_default=True, metavar="X", help="Choose on this share of requests.")
@click.option("--train-seed", default="0", metavar="N", help="Which requests those are; 0 if not given.")
@click.option("--output", "-o", metavar="FILE", help="Write the division, if one is chosen, for replay --division.")
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.optimize.v1).")
def command(as_json: bool, output: str | None, **arguments: Any) -> None:
    """Find what a cache does best, and judge it on new requests.

    Searches policies, scopes, parameters, admission, divisions among layers, pins and caps; with a device also overlap,
    the CPU's share and quantisations. Chosen on one half of the requests, judged on the other against LRU and Belady.

    \b
    Examples:
      remoe-sim optimize sample:qwen-original --cache 8 --policy lru,lfu,hot+lru
      remoe-sim optimize sample:qwen-original --budget 4MiB --policy lru,lfu --phase decode --json
    """
    import remoe_sim

    report = remoe_sim.optimize(**arguments)
    if output is not None and report.division is not None:
        from remoe_sim.cache.learning import write_kept

        write_kept("division", output, report.division)
    if as_json:
        print_json(report.to_dict())
    else:
        show(report)


def show(report: OptimizeReport) -> None:
    """What was tried, what it is worth on new requests, and the command."""
    parts = f"{report.trained_requests} requests, judged on {report.judged_requests} others"
    if report.by_steps:
        parts = "the first steps of the only request, judged on the others"
    print_text(f"fewest {report.minimise}, chosen on {parts}")
    table = new_table("step", "tried", "best of them", "saves", "taken", left=1)
    for step in report.steps:
        table.add_row(
            step.step, str(step.tried), _in_words(step.best), _signed(step.gain), "yes" if step.taken else "no"
        )
    print_table(table)
    click.echo()
    unit = "miss rate" if report.minimise == "misses" else "ms per token"
    table = new_table("on new requests", unit, "saves of lru", "95 % interval")
    for one in report.judged:
        value = one.total / one.of if one.of else 0.0
        ends = "" if one.interval is None else " to ".join(_signed(end) for end in one.interval)
        table.add_row(
            one.name, percent(value) if unit == "miss rate" else f"{1e3 * value:.2f}", _signed(one.saved), ends
        )
    print_table(table)
    print_text(f"choice: {_in_words(report.choice)}. {report.sentence}")
    click.echo(report.command)
    for engine in report.engines:
        click.echo(f"engine {engine['engine']} caches like this: {engine['flags'] or 'no flags known'} (untested)")


def _signed(share: float) -> str:
    return f"{100 * share:+.2f} %"


def _in_words(choice: dict[str, Any]) -> str:
    """The policy, and what is not as in plain LRU."""
    others = [
        "divided" if name == "division" else f"{name.replace('_', ' ')} {value}"
        for name, value in choice.items()
        if name != "policy" and value not in (None, False) and _PLAIN.get(name) != value
    ]
    return ", ".join([choice["policy"], *others])
