"""`remoe-sim curve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._engine import engine_json, engine_option, engine_profile, say_engine
from remoe_sim.commands._options import (
    batch_options,
    memory_option,
    note,
    print_json,
    replay_options,
    schedule_in_words,
    scheduled,
)
from remoe_sim.commands._tables import new_table, records
from remoe_sim.util.units import percent

if TYPE_CHECKING:
    import pandas as pd

SECTION = "Start"


@click.command()
@click.argument("trace", type=click.Path())
@click.option(
    "--cache", metavar="RANGE", help="Capacities in experts, such as 4:64:4 or 8,16; the default is all of them."
)
@click.option("--budget", metavar="SIZES", help="Budgets under scope global, such as 1GiB,2GiB, or all.")
@replay_options
@click.option("--admit-after", default="1", metavar="N", help="An expert may enter from its N-th use on.")
@click.option("--inserts", metavar="N", help="At most N experts enter per layer and step; all if not given.")
@batch_options
@engine_option
@click.option("-o", "--output", metavar="FILE", help="Write the rows to a .csv, .parquet or .json file.")
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.curve.v1).")
def command(as_json: bool, output: str | None, **arguments: Any) -> None:
    """Show the hit rate of TRACE at every cache size.

    Without -o or --json a table of some capacities is shown, all layers together.

    \b
    Examples:
      remoe-sim curve sample:qwen-original --policy lru,belady -o curve.csv
      remoe-sim curve sample:qwen-original --phase decode --cache 2:16:2
      remoe-sim curve sample:qwen-original --scope global --policy lru --budget 4MiB,8MiB
      remoe-sim curve sample:qwen-original --engine llama.cpp-moe-cache-lru
      remoe-sim curve sample:qwen-original --policy lru,belady --cache 4,8 --inserts 1
      remoe-sim curve sample:qwen-original --policy lru --batch 4 --draft 3 --accept 0.7
    """
    import remoe_sim
    from remoe_sim.cache.results import describe
    from remoe_sim.util.display import stamp

    if output is not None and Path(output).suffix not in (".csv", ".parquet", ".json"):
        raise ValueError(f"'{output}' has no known suffix; write a curve to a .csv, .parquet or .json file")
    profile = engine_profile(arguments)
    trace = scheduled(arguments)
    frame = remoe_sim.curve(trace, **arguments)
    names = ("scope", "admission", "order", "reset", "phase", "preload", "train")
    answer = {
        **stamp("remoe-sim.curve.v1"),
        "trace": describe(trace),
        **{name: arguments[name] for name in names},
        "warmup": int(arguments["warmup"]),
        **_caps(arguments),
        "capacity_unit": frame.attrs["capacity_unit"],
        "optimal": frame.attrs["optimal"],
        **engine_json(profile, arguments),
    }
    say_engine(profile, arguments, as_json or output is not None)
    if output is not None:
        write(frame, answer, output)
        note(f"wrote {len(frame)} rows to {output} (capacity in {frame.attrs['capacity_unit']})")
    if as_json:
        print_json({**answer, "rows": records(frame)})
    elif output is None:
        show(frame, capped="inserts" in answer)
        if answer["trace"]["schedule"]:
            note(schedule_in_words(answer["trace"]["schedule"]))


def write(frame: pd.DataFrame, answer: dict[str, Any], path: str) -> None:
    """The rows as a file, whole or not at all."""
    import json

    from remoe_sim.util.files import replacing

    with replacing(path) as beside:
        if path.endswith(".csv"):
            frame.to_csv(beside, index=False)
        elif path.endswith(".json"):
            beside.write_text(json.dumps({**answer, "rows": records(frame)}, allow_nan=False))
        else:
            frame.assign(layer=frame["layer"].astype(str)).to_parquet(beside, index=False)


def show(frame: pd.DataFrame, capped: bool = False) -> None:
    """Policies side by side at up to 16 capacities, all layers together."""
    from rich.console import Console

    from remoe_sim.cache.settings import CAPPED_BOUND, NO_BOUND, OPTIMUM
    from remoe_sim.util.units import format_bytes

    rows = frame[frame["layer"] == "all"]
    wide = rows.pivot(index="capacity", columns="policy", values="hits")[list(dict.fromkeys(rows["policy"]))]
    wide = wide.ffill()  # under --budget all a policy has rows only where its hits change
    unit, lookups = frame.attrs["capacity_unit"], int(rows["lookups"].iloc[0])
    headings = (unit.replace("_", " "), *wide.columns)
    table = new_table(*headings, left=0, wrap=headings)
    some = [wide.index[round(i * (len(wide) - 1) / 15)] for i in range(16)] if len(wide) > 16 else list(wide.index)
    for capacity in some:
        shown = format_bytes(capacity) if unit == "bytes" else str(capacity)
        table.add_row(shown, *(percent(hits, lookups) for hits in wide.loc[capacity]))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"hits / lookups, of {lookups:,} lookups", soft_wrap=True)
    if OPTIMUM in wide and OPTIMUM not in frame.attrs["optimal"]:
        console.print(CAPPED_BOUND if capped else NO_BOUND, soft_wrap=True)
    if len(some) < len(wide):
        note(f"{len(some)} of {len(wide)} capacities shown; -o curve.csv writes all")


def _caps(arguments: dict[str, Any]) -> dict[str, int | None]:
    """Caps of admission for JSON, only where there are some."""
    caps = {name: None if arguments[name] is None else int(arguments[name]) for name in ("admit_after", "inserts")}
    return {} if caps == {"admit_after": 1, "inserts": None} else caps
