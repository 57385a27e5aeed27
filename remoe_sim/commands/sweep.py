"""`remoe-sim sweep`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from remoe_sim.commands._engine import engine_json, engine_profile, say_engine
from remoe_sim.commands._options import (
    DOES_NOT_FIT,
    fast_option,
    memory_option,
    note,
    note_all,
    print_json,
    strict_option,
)
from remoe_sim.commands._tables import new_table, records
from remoe_sim.util.progress import stage
from remoe_sim.util.units import percent

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

SECTION = "Many runs and output"

SCHEMA = "remoe-sim.sweep.v1"
MOST_TABLES, MOST_LINES, MOST_POLICIES = 4, 12, 4
_SAME = ("trace", "batch", "scope", "device", "quant", "overlap", "capacity_unit")  # of one table


def _from_file(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    """Takes what was not given from a TOML file, whose keys are the long names of the options."""
    if path is None:
        return
    import tomllib

    from remoe_sim.util.input_files import UnsuitableError, read_text

    try:
        content = tomllib.loads(read_text(path, "configuration"))
    except UnsuitableError:
        raise
    except ValueError as error:
        raise ValueError(f"{path} is no TOML: {error}; correct it there") from None
    known = {one.name for one in ctx.command.params if one.name not in (None, "config", "dry_run", "as_json")}
    values = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in known:
            from remoe_sim.util.errors import unknown

            raise unknown(f"key of {path}", key, (str(one).replace("_", "-") for one in known))
        several = [str(one) for one in (value if isinstance(value, list) else [value])]
        values[name] = several if name == "traces" else ",".join(several)
    ctx.default_map = values


@click.command()
@click.argument("traces", nargs=-1, type=click.Path())
@click.option("--policy", default="lru,lfu,belady", show_default=True, help="Policies, separated by commas.")
@fast_option
@click.option("--cache", metavar="RANGE,…", help="Experts per layer (in all under scope global), 4:64 or auto.")
@click.option("--budget", metavar="SIZE,…", help="Bytes, or shares of those of all experts: 4000MiB, 10%, 10%:50%:10%.")
@click.option("--scope", default="layer", show_default=True, metavar="layer,global", help="Caches per layer, or one.")
@click.option("--batch", metavar="B,…", help="Requests at once; 'trace' for the steps as they were recorded.")
@click.option("--device", metavar="NAME,…", help="Also say how long it takes there: names of 'list devices', or cards.")
@click.option("--host", metavar="NAME", help="The host of each: of 'list hosts', or a card of your own.")
@click.option("--storage", metavar="NAME", help="The storage of each: of 'list storage', or a card of your own.")
@click.option("--engine", metavar="NAME", help="What runs the models: of 'list engines', or a card of your own.")
@click.option("--quant", metavar="NAME,…", help="Quantisations, such as q4_k_m,mxfp4.")
@click.option("--overlap", metavar="MODE,…", help="none, layer or prefetch; layer if not given.")
@click.option("-o", "--output", metavar="FILE", help="A .parquet file to add rows to as they come, and to go on with.")
@click.option("--config", metavar="FILE", is_eager=True, expose_value=False, callback=_from_file,
              help="A TOML file with any of these options by name, and traces; flags given as well win.")  # fmt: skip
@click.option("--model", metavar="NAME", help="Whose sizes, if the traces do not tell: a name of 'list models'.")
@click.option("--misses-from", metavar="host|storage|cpu", help="Where missing experts are; host if there is a link.")
@click.option("--cpu-share", metavar="S|auto", help="Misses that the CPU computes while others are uploaded.")
@click.option("--cpu-moe-layers", metavar="N", help="The CPU has the experts of the first N layers (--n-cpu-moe).")
@click.option("--gpu-moe-layers", metavar="N", help="The device has the experts of the last N MoE layers.")
@click.option("--lanes", metavar="N", help="Reads in flight on that link, if not the device's own number.")
@click.option("--context", metavar="N", help="Tokens of context that attention reads, instead of the trace's.")
@click.option("--compute-ms", metavar="X", help="A measured computing time per token instead of the modelled one.")
@click.option("--admission", default="mandatory", show_default=True, metavar="mandatory|bypass",
              help="Whether what a step needs must enter the cache.")  # fmt: skip
@click.option("--reset", default="never", show_default=True, metavar="never|request", help="When caches are emptied.")
@click.option(
    "--phase", default="all", show_default=True, metavar="all|decode|prefill", help="Which tokens are replayed."
)
@click.option("--warmup", default="0", metavar="N", help="Replay the first N decode tokens uncounted.")
@click.option("--train", metavar="TRACE", help="What policies such as static learn from.")
@click.option("--expert-bytes", metavar="SIZE,…", help="Size of an expert, or one per MoE layer, if traces have none.")
@click.option("--dask", metavar="ADDRESS", help="Compute on the workers of this Dask scheduler, as tcp://host:8786.")
@strict_option
@click.option("--dry-run", is_flag=True, help="Show what would be computed, and compute nothing.")
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (remoe-sim.sweep.v1).")
def command(
    as_json: bool,
    dry_run: bool,
    strict: bool,
    traces: tuple[str, ...],
    output: str | None,
    dask: str | None,
    **arguments: Any,
) -> None:
    """Replay TRACES in every combination of the listed options.

    The result has a row for each combination.

    One replay serves all capacities of lru, lfu and belady in a layer's cache, and all devices. With -o rows are kept
    as they come, and a sweep that was interrupted or is asked for more goes on where it was. Without limits all
    capacities are swept.

    \b
    Examples:
      remoe-sim sweep sample:qwen-original --cache 4:32:4 -o sweep.parquet
      remoe-sim sweep sample:qwen-original --policy lru,belady --cache 8,16 --device rtx-4090,jetson-orin-nx-16gb
      remoe-sim sweep sample:qwen-original --scope layer,global --budget 10%:50%:10% --batch trace,4 --dry-run
    """
    import remoe_sim

    files = []
    for one in _files(traces):
        if output is not None and _same_file(one, output):
            note(f"{one} is what this sweep writes, so it is not taken for a trace")
        else:
            files.append(one)
    profile = engine_profile(arguments)
    say_engine(profile, arguments, as_json)
    extra = engine_json(profile, arguments)
    call = {"traces": files, "output": output, "client": dask, **arguments}
    if dry_run:
        frame = remoe_sim.sweep(dry_run=True, **call)
        if as_json:
            _print(frame, extra)
        else:
            _show_plan(frame)
        return
    with stage("sweeping") as cells:
        frame = remoe_sim.sweep(progress=cells.reach, **call)
    if as_json:
        _print(frame, extra)
    else:
        _show(frame)
    if output is not None:
        note(f"{len(frame)} cells are in {output}")
    note_all(tuple(frame.attrs["notes"]))
    if frame["bytes_read"].isna().any():
        note("bytes are not known where a trace has no expert sizes; pass --expert-bytes 3MiB or --device")
    _tell_fits(frame, strict)


def _tell_fits(frame: pd.DataFrame, strict: bool) -> None:
    """Say how many rows do not fit in memory; under --strict the command ends."""
    short = frame[~frame["fits"].fillna(True)]
    if not len(short):
        return
    where = ", ".join(dict.fromkeys(short["device"]))
    note(
        f"{len(short)} of {len(frame)} rows do not fit in memory ({where}); 'fits' and 'missing_bytes' say which, and "
        f"'room_bytes' what is left for the cache"
    )
    if strict:
        click.get_current_context().exit(DOES_NOT_FIT)


def _files(traces: tuple[str, ...]) -> list[str]:
    """The traces, patterns that no shell has expanded included."""
    from glob import glob, has_magic

    from remoe_sim.util.remote import is_url

    found: list[str] = []
    for one in traces:
        files = sorted(glob(one)) if has_magic(one) and not is_url(one) else [one]
        if not files:
            raise ValueError(f"no file is called like '{one}'; give the paths of traces")
        found += files
    return found


def _same_file(one: str, other: str) -> bool:
    """Whether two paths lead to one file, however they are written."""
    try:
        return one == other or os.path.samefile(one, other)
    except OSError:
        return False


def _print(frame: pd.DataFrame, extra: dict[str, Any]) -> None:
    from remoe_sim.util.display import stamp

    print_json({**stamp(SCHEMA), "notes": frame.attrs.get("notes", []), "rows": records(frame), **extra})


def _show_plan(frame: pd.DataFrame) -> None:
    """Per trace and scope, how many replays and cells there are to do."""
    import pandas as pd

    headings = ("trace", "scope", "batch", "replays", "cells", "done")
    table = new_table(*headings, wrap=headings)
    for names, rows in frame.groupby(["trace", "scope", "batch"], sort=False, dropna=False):
        trace, scope, batch = names
        counts = (rows[~rows["done"]]["replay"].nunique(), len(rows), int(rows["done"].sum()))
        table.add_row(trace, scope, "as recorded" if pd.isna(batch) else str(int(batch)), *(str(one) for one in counts))
    console = _console()
    console.print(table)
    left = frame[~frame["done"]]
    console.print(
        f"{len(frame)} cells, {len(frame) - len(left)} of them done; {left['replay'].nunique()} replays are left"
    )


def _show(frame: pd.DataFrame) -> None:
    """Policies side by side at some limits, the first few tables; the rest is in the file."""
    from remoe_sim.studies.sweep.labels import told_apart

    console = _console()
    groups = list(told_apart(frame).groupby(list(_SAME), sort=False, dropna=False))
    for names, rows in groups[:MOST_TABLES]:
        console.print(_heading(dict(zip(_SAME, names, strict=True))), soft_wrap=True)
        console.print(_side_by_side(rows))
        console.print()
    if len(groups) > MOST_TABLES:
        console.print(f"{len(groups) - MOST_TABLES} more tables are not shown; -o sweep.parquet keeps all rows")


def _heading(names: dict[str, Any]) -> str:
    import pandas as pd

    given = {name: value for name, value in names.items() if not pd.isna(value)}
    parts = [str(given["trace"]), f"scope {given['scope']}"]
    parts += [f"batch {given['batch']}"] if "batch" in given else []
    parts += [f"{given['device']}, {given['quant']}, overlap {given['overlap']}"] if "device" in given else []
    return "; ".join(parts)


def _side_by_side(rows: pd.DataFrame) -> Table:
    from remoe_sim.util.units import format_bytes

    timed = rows["tpot_ms_mean"].notna().any()
    unit = str(rows["capacity_unit"].iloc[0])
    policies = list(dict.fromkeys(rows["policy"]))[:MOST_POLICIES]
    limits = sorted(set(rows["capacity"]))
    if len(limits) > MOST_LINES:
        limits = [limits[round(i * (len(limits) - 1) / (MOST_LINES - 1))] for i in range(MOST_LINES)]
    headings = (unit.replace("_", " "), *policies)
    table = new_table(*headings, left=0, wrap=headings)
    for limit in limits:
        cells = [rows[(rows["capacity"] == limit) & (rows["policy"] == policy)] for policy in policies]
        shown = [_cell(one, bool(timed)) if len(one) else "" for one in cells]
        table.add_row(format_bytes(limit) if unit == "bytes" else str(limit), *shown)
    lookups = " and ".join(f"{count:,}" for count in sorted(set(rows["decode_lookups"])))
    table.caption = f"decode hit rate, of {lookups} lookups" + (", TPOT (modelled)" if timed else "")
    table.caption_justify = "left"
    return table


def _cell(rows: pd.DataFrame, timed: bool) -> str:
    import pandas as pd

    hit_rate, tpot = rows.iloc[0][["decode_hit_rate", "tpot_ms_mean"]]
    shown = percent(None if pd.isna(hit_rate) else hit_rate)
    if timed:
        shown += "  none" if pd.isna(tpot) else f"  {tpot:,.1f} ms"
    return shown


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False)
