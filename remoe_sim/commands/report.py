"""`remoe-sim report`."""

from __future__ import annotations

from typing import Any

import click

from remoe_sim.commands._engine import engine_profile, given_by_user, say_engine
from remoe_sim.commands._options import (
    fast_option,
    limit_options,
    memory_option,
    note,
    scope_option,
    setting_options,
    timing_options,
)

SECTION = "Many runs and output"


@click.command()
@click.argument("source", metavar="TRACE|SWEEP", type=click.Path())
@click.option("-o", "--output", required=True, metavar="FILE", type=click.Path(), help="The .html file to write.")
@limit_options
@click.option("--policy", metavar="NAME,…", help="Online policies to compare; all that are usable if not given.")
@fast_option
@scope_option
@setting_options
@click.option("--device", metavar="NAME", help="Also model times: a device of 'list devices', or a card.")
@click.option("--model", metavar="NAME", help="Whose sizes, if the trace does not tell: as in 'list models'.")
@timing_options
@click.option("--context", metavar="N", help="Tokens of context that attention reads, instead of the trace's.")
@memory_option
def command(output: str, **arguments: Any) -> None:
    """Write one HTML page about a trace or a sweep.

    The page of a trace has the verdict, what a result must state to be checked, tables, figures, the routing, and how
    to make the page again. Without a limit, the cache has room for a quarter of the experts. With --device it also has
    modelled times: by cause, against memory, and of single tokens. A sweep takes no options.

    \b
    Examples:
      remoe-sim report sample:qwen-original --cache 8 -o report.html
      remoe-sim report sample:qwen-original --budget 6MiB --scope global --policy lru,lfu -o report.html
      remoe-sim report sample:qwen-original --cache 8 --device jetson-orin-nx-16gb -o report.html
      remoe-sim report t.parquet -o report.html
    """
    import remoe_sim

    profile = engine_profile(arguments)
    ours = () if profile is None else profile.settings
    given = {name: value for name, value in arguments.items() if (given_by_user(name) or name in ours)}
    say_engine(profile, arguments, as_json=False)
    remoe_sim.report(given.pop("source"), output, **given)
    note(f"wrote {output}; open it in a browser")
