"""One page about a trace or a sweep, in one file that needs no network: `report`."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoe_sim.trace.trace import Trace
from remoe_sim.util.files import refuse_suffix_of_others

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.reports.page import Page


def report(
    source: Trace | pd.DataFrame | str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    **arguments: Any,
) -> Page:
    """The report of a trace, or of a sweep: a page of HTML, whose `html` is the whole file.

    source: a trace, or the rows that `sweep` returned, or the path of either. output: where to write the page. For a
    trace the other arguments are those of `verdict`; without `cache`, `budget` or `memory` the cache has room for a
    quarter of the experts. With `device`, and `model`, `quant`, `overlap`, `lanes`, `context`, `compute_ms`,
    `misses_from`, `host`, `storage` and `engine` as in `replay`, the page has modelled times as well, and sizes of
    experts are those of the model where the trace has none. A report of a sweep takes no arguments, for its rows are
    what they are.

    Raises ValueError and TraceError like `verdict`, and ValueError for an output of another kind, such as `.pdf`.
    """
    from remoe_sim.studies.sweep.file import is_sweep, read_frame

    if output is not None:
        refuse_suffix_of_others(output, "a report", ".html")
    given = {name: value for name, value in arguments.items() if value is not None}
    if isinstance(source, (str, os.PathLike)) and is_sweep(Path(source)):
        frame, name = read_frame(Path(source)), str(source)
    elif isinstance(source, (str, os.PathLike, Trace)):
        frame, name = None, ""
    else:
        frame, name = source, "sweep.parquet"
    page = _of_trace(source, given) if frame is None else _of_sweep(frame, name, given)
    if output is not None:
        page.write(output)
    return page


def _of_sweep(frame: pd.DataFrame, name: str, given: dict[str, Any]) -> Page:
    from remoe_sim.reports.sweep_report import sweep_page

    if given:
        raise ValueError(
            f"{', '.join(given)} given with a sweep, whose rows were replayed already; leave it out, or report a trace"
        )
    return sweep_page(frame, name)


def _of_trace(source: Any, given: dict[str, Any]) -> Page:
    from remoe_sim.cache.replay import replay
    from remoe_sim.reports.times_section import TIMING
    from remoe_sim.reports.trace_report import trace_page
    from remoe_sim.studies.verdict import verdict
    from remoe_sim.trace.reader import as_trace
    from remoe_sim.util.errors import unknown

    parameters = {**inspect.signature(verdict).parameters}
    parameters |= {name: one for name, one in inspect.signature(replay).parameters.items() if name in TIMING}
    del parameters["measured_tpot"]  # its tables are of several policies and sizes
    for name in given:
        if name not in parameters or name == "trace":
            raise unknown("argument", name, [one for one in parameters if one != "trace"])
    trace = as_trace(source)
    asked = {name: value for name, value in given.items() if value != parameters[name].default}
    timing = {name: asked.pop(name) for name in TIMING if name in asked}
    return trace_page(trace, timing, **asked)
