"""What a file may unpack to: a few bytes that claim to be gigabytes are refused before any memory is taken.

Routing does not compress well: recordings and traces take a tenth to a fortieth of their size when they are packed.
"""

from __future__ import annotations

from typing import Any

ALWAYS_BYTES, ALWAYS_ROWS = 2**25, 2**20  # what any file may hold
SMALL = 2**20  # bytes of a packed file; what it may hold grows with its size from here
MOST_RATIO = 200
ROWS_PER_BYTE = 32  # a quarter of a bit for each row


def most_unpacked(size: int) -> int:
    """The most bytes that a packed file of that size may unpack to."""
    return ALWAYS_BYTES + MOST_RATIO * max(size - SMALL, 0)


def check_unpacked(unpacked: int, size: int) -> None:
    """ValueError, a clause, for more than that."""
    if unpacked > most_unpacked(size):
        raise ValueError(
            f"its {size} bytes unpack to {unpacked} or more, as no recording does; if it is one, unpack it yourself "
            "and give the unpacked file"
        )


def check_parquet(metadata: Any, size: int) -> None:
    """ValueError, a clause, for a Parquet file whose footer claims more rows than its bytes can hold."""
    groups = range(metadata.num_row_groups)
    rows = [metadata.num_rows, sum(metadata.row_group(one).num_rows for one in groups)]
    most = max(ALWAYS_ROWS, ROWS_PER_BYTE * size)
    if min(rows) < 0 or max(rows) > most:
        raise ValueError(f"its footer claims {max(rows, key=abs)} rows in {size} bytes, as no trace has")
