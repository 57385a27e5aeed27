"""Bytes that a decode token reads, against the memory of the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from remoe_sim.figures._look import Sheet
from remoe_sim.figures._material import Material, NotPossibleError, Page, figure, has_columns
from remoe_sim.figures._panels import COUNTED, lines_of, memory, pages_of, panelled, scale_alike, split_rows

if TYPE_CHECKING:
    import pandas as pd


def _pages(material: Material) -> Iterator[Page]:
    return pages_of(bytes_per_token, _rows(material.need_sweep()), COUNTED)


def _rows(frame: pd.DataFrame) -> pd.DataFrame:
    rows = has_columns(frame, "policy", "capacity_bytes", "bytes_read_per_token")
    rows = rows.dropna(subset=["capacity_bytes", "bytes_read_per_token"])
    if rows.empty:
        raise NotPossibleError(
            "bytes are not known; sweep with --expert-bytes or --device, and a phase with decode tokens"
        )
    return rows.drop_duplicates([name for name in (*COUNTED, "policy", "capacity_bytes") if name in rows])


@figure(_pages)
def bytes_per_token(frame: pd.DataFrame, dark: bool = False) -> Sheet:
    """Bytes of missed experts per decode token against the memory of the cache, a line per policy.

    frame: rows of `remoe_sim.sweep` whose sizes are known.
    """
    rows = _rows(frame)
    panels = split_rows(rows.assign(mib=rows["bytes_read_per_token"] / 2**20), COUNTED)
    with panelled("Bytes read per decode token", dark, panels) as (page, grid):
        styles = page.look.policies(rows["policy"])
        for axes, (_, own) in zip(grid, panels, strict=True):
            place, label = memory(own)
            lines_of(axes, own, place, "mib", styles)
            axes.set_xlabel(label)
            axes.set_ylabel("read per decode token (MiB)")
            axes.set_xlim(left=0)
        scale_alike(grid, panels, "mib", ())
    return page
