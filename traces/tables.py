"""Tables of rows that other programs write: Parquet, and Arrow files and streams (Feather).

One row per chosen expert, or per token and layer with a column for each slot (expert_id_0, expert_id_1, ...) or a list
of experts; the columns may have the names that CSV may have, and --columns names others. Or one row per token with a
list for each layer (experts_00, experts_01, ...), as in a trace of this package whose metadata pandas or polars left
out. A trace with its metadata needs no import.
"""

from __future__ import annotations

from typing import Any

from remoe_sim.formats.format import TraceFormat
from remoe_sim.formats.parquet_footer import largest_of
from remoe_sim.formats.source import Source
from remoe_sim.formats.tables import trace_of_table
from remoe_sim.trace import Trace
from remoe_sim.util.decompression import check_parquet
from remoe_sim.util.errors import TraceError

_PARQUET, _ARROW, _STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"


class Tables(TraceFormat):
    name = "tables"
    summary = "Parquet and Arrow tables: rows of tokens, layers and experts; the columns may have many names"
    layout = __doc__ or ""
    shape = "binary"
    words = ("PAR1", "ARROW1")
    general = True
    writer = "pandas, polars, Spark, Nemotron captures: Parquet and Arrow"
    kept = "all that has a column of a known name (or `--columns`)"
    lost = "what is not there: requests (one), phases (`--phase`), forward passes"
    sure = "you say it"

    def recognises(self, source: Source) -> bool:
        return source.head.startswith((_PARQUET, _ARROW, _STREAM))

    def read(self, source: Source) -> Trace:
        import pyarrow as pa

        try:
            with source.seekable() as file:
                table = _parquet(source, file) if source.head.startswith(_PARQUET) else _arrow(source, file)
            table.validate(full=True)
        except TraceError:
            raise
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise source.error(f"cannot be read as a table ({why}); copy or write it again") from None
        return trace_of_table(source, table)


def _parquet(source: Source, file: Any) -> Any:
    import pyarrow.parquet as pq

    largest_of(file, "")  # damaged footers, over some of which pyarrow ends the process
    file.seek(0)
    opened = pq.ParquetFile(file, page_checksum_verification=True)
    check_parquet(opened.metadata, source.size or 0)
    if b"remoe_sim" in (opened.schema_arrow.metadata or {}):
        raise source.error("it is a trace of remoe-sim already; use it as it is, without importing it")
    return opened.read()


def _arrow(source: Source, file: Any) -> Any:
    import pyarrow as pa

    source.check_unpacked(source.size or 0)
    reader = pa.ipc.open_file(file) if source.head.startswith(_ARROW) else pa.ipc.open_stream(file)
    return reader.read_all()
