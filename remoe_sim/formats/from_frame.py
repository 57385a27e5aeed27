"""`from_frame`: a trace of a table in memory, of pandas, polars, pyarrow or anything with the Arrow interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoe_sim.formats.columns import parse_columns
from remoe_sim.formats.format import Sizes, parse_sizes
from remoe_sim.formats.join import in_one
from remoe_sim.formats.sized import find_sized, with_expert_bytes, with_sizes_of
from remoe_sim.formats.source import Given, Source
from remoe_sim.formats.tables import trace_of_table
from remoe_sim.trace.trace import PHASES, Model, Trace
from remoe_sim.util.errors import TraceError

if TYPE_CHECKING:
    import pyarrow as pa

    from remoe_sim.models.sizes import SizedModel

_CALLED = "the table"


def from_frame(
    df: Any,
    columns: str | Mapping[str, str | Sequence[str]] | None = None,
    *,
    phase: str | None = None,
    experts: int | None = None,
    top_k: int | None = None,
    model: str | Path | SizedModel | Model | None = None,
    quant: str | None = None,
    expert_bytes: Sizes | None = None,
) -> Trace:
    """A trace of a table in memory: a pandas or polars frame, a pyarrow Table, or whatever has `__arrow_c_stream__`.

    A row is a chosen expert, or a token at a layer with a column for each slot or a list of experts, or a token with a
    list for each layer: what `import` reads of Parquet, by the same names of columns, and what `Trace.to_frame` makes.
    columns: what columns are, where their names do not say it, such as {"position": "when", "experts": "chosen"}.
    phase: of all tokens, where no column has it. experts, model, quant, expert_bytes: as in `from_arrays`; top_k: where
    rows of single experts do not say how many a token has.

    Raises TraceError naming the row and column for what does not fit, ValueError for a wrong argument.
    """
    if phase is not None and phase not in PHASES:
        raise ValueError(f"phase {phase!r} is not possible; give {' or '.join(PHASES)}")
    sizes, known = parse_sizes("expert_bytes", expert_bytes), find_sized(model, quant)
    count = experts if known is None or experts is not None else known.experts
    if isinstance(count, tuple):
        count = max(count)
    given = Given(
        experts=count,
        top_k=top_k,
        columns=parse_columns(columns),
        phase=None if phase is None else PHASES.index(phase),
    )
    source = Source(Path("table"), given, called=_CALLED, unit="row")
    table = arrow_table(df)
    try:
        trace = trace_of_table(source, table)
    except TraceError as error:
        if str(error).startswith(_CALLED):
            raise
        raise source.error(str(error)) from None
    if known is not None:
        trace = with_sizes_of(trace, known)
    trace = with_expert_bytes(trace, sizes)
    return replace(trace, origin={"format": "table"}, notes=in_one(source.notes, source.guessed))


def arrow_table(df: Any) -> pa.Table:
    """The table as Arrow's; ValueError for what is no table. Named levels of a pandas index are columns."""
    import pyarrow as pa

    if isinstance(df, pa.Table):
        return df
    if hasattr(df, "reset_index") and hasattr(df, "index"):
        named = [name for name in df.index.names if name is not None]
        return pa.Table.from_pandas(df.reset_index() if named else df, preserve_index=False)
    if isinstance(df, pa.RecordBatch):
        return pa.Table.from_batches([df])
    if hasattr(df, "__arrow_c_stream__"):
        return pa.table(df)
    if isinstance(df, Mapping) and df:
        try:
            return pa.table(dict(df))
        except (pa.ArrowException, TypeError, ValueError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"the columns do not make a table ({why}); give arrays of the same length") from None
    if isinstance(df, str | Path):
        raise ValueError(f"'{df}' is a path, not a table; read it with remoe_sim.import_trace")
    raise ValueError(
        f"a {type(df).__name__} is not a table; give a frame of pandas or polars, a pyarrow Table or a dictionary of "
        "columns (and arrays of ids to from_arrays)"
    )
