"""Time per output token against the memory of the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from remoe_sim.figures._look import Sheet
from remoe_sim.figures._material import Material, NotPossibleError, Page, figure, has_columns
from remoe_sim.figures._panels import TIMED, lines_of, memory, pages_of, panelled, scale_alike, split_rows

if TYPE_CHECKING:
    import pandas as pd


def _pages(material: Material) -> Iterator[Page]:
    return pages_of(tpot, timed_rows(material.need_sweep()), TIMED)


def timed_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows that have times; NotPossibleError if there are none."""
    rows = has_columns(frame, "policy", "capacity_bytes", "tpot_ms_mean")
    rows = rows.dropna(subset=["capacity_bytes", "tpot_ms_mean"])
    if rows.empty:
        raise NotPossibleError("there are no times; sweep with --device, and a phase with decode tokens")
    return rows.drop_duplicates([name for name in (*TIMED, "policy", "capacity_bytes") if name in rows])


@figure(_pages)
def tpot(frame: pd.DataFrame, dark: bool = False) -> Sheet:
    """Mean time per output token, modelled, against the memory of the cache; a line per policy, a panel per device.
    Panels of one device have one scale.

    frame: rows of `remoe_sim.sweep` with a device.
    """
    rows = timed_rows(frame)
    panels = split_rows(rows, TIMED)
    with panelled("Time per output token (modelled)", dark, panels, share=False) as (page, grid):
        styles = page.look.policies(rows["policy"])
        for axes, (_, own) in zip(grid, panels, strict=True):
            place, label = memory(own)
            lines_of(axes, own, place, "tpot_ms_mean", styles)
            axes.set_xlabel(label)
            axes.set_ylabel("mean TPOT (ms per token)")
            axes.set_xlim(left=0)
        scale_alike(grid, panels, "tpot_ms_mean", ("device",))
    return page
