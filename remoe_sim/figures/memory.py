"""Figures over the memory of the cache: bytes and time per token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.figures._material import Material, NotPossibleError, Page, figure, has_columns
from remoe_sim.figures._panels import (
    COUNTED,
    TIMED,
    areas_of,
    lines_of,
    memory,
    pages_of,
    panelled,
    scale_alike,
    split_rows,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from remoe_sim.figures._look import Look, Sheet


def _byte_pages(material: Material) -> Iterator[Page]:
    return pages_of(bytes_per_token, _rows(material.need_sweep()), COUNTED)


def _rows(frame: pd.DataFrame) -> pd.DataFrame:
    rows = has_columns(frame, "policy", "capacity_bytes", "bytes_read_per_token")
    rows = rows.dropna(subset=["capacity_bytes", "bytes_read_per_token"])
    if rows.empty:
        raise NotPossibleError(
            "bytes are not known; sweep with --expert-bytes or --device, and a phase with decode tokens"
        )
    return rows.drop_duplicates([name for name in (*COUNTED, "policy", "capacity_bytes") if name in rows])


@figure(_byte_pages)
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


def _time_pages(material: Material) -> Iterator[Page]:
    return pages_of(tpot, timed_rows(material.need_sweep()), TIMED)


def timed_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows that have times; NotPossibleError if there are none."""
    rows = has_columns(frame, "policy", "capacity_bytes", "tpot_ms_mean")
    rows = rows.dropna(subset=["capacity_bytes", "tpot_ms_mean"])
    if rows.empty:
        raise NotPossibleError("there are no times; sweep with --device, and a phase with decode tokens")
    return rows.drop_duplicates([name for name in (*TIMED, "policy", "capacity_bytes") if name in rows])


BAND = "80 % of comparable runs"


def _there(rows: pd.DataFrame) -> list[str]:
    return [name for name in ("tpot_ms_mean", "tpot_ms_high") if name in rows]


@figure(_time_pages)
def tpot(frame: pd.DataFrame, dark: bool = False) -> Sheet:
    """Mean time per output token, modelled, against the memory of the cache; a line per policy, a panel per device.
    Panels of one device have one scale. A vertical line is where the device's memory is full. Shaded is where 80 % of
    comparable measured runs were, if rows know it.

    frame: rows of `remoe_sim.sweep` with a device.
    """
    rows = timed_rows(frame)
    panels = split_rows(rows, TIMED)
    with panelled("Time per output token (modelled)", dark, panels, share=False) as (page, grid):
        styles = page.look.policies(rows["policy"])
        for axes, (_, own) in zip(grid, panels, strict=True):
            place, label = memory(own)
            areas_of(axes, own, place, ("tpot_ms_low", "tpot_ms_high"), styles, BAND)
            lines_of(axes, own, place, "tpot_ms_mean", styles)
            _mark_room(axes, own, place, page.look)
            axes.set_xlabel(label)
            axes.set_ylabel("mean TPOT (ms per token)")
            axes.set_xlim(left=0)
        tops = [(name, own.assign(top=own[_there(own)].max(axis=1))) for name, own in panels]
        scale_alike(grid, tops, "top", ("device",))
    return page


def _mark_room(axes: Axes, rows: pd.DataFrame, place: Callable[[pd.DataFrame], Any], look: Look) -> None:
    """Draw a line at the largest cache for which the device has room, if larger ones are in the rows."""
    if "room_bytes" not in rows or rows["room_bytes"].isna().all():
        return
    left = int(rows["room_bytes"].min())
    if left < int(rows["capacity_bytes"].max()):
        at = float(place(rows.head(1).assign(capacity_bytes=left)).iloc[0])
        axes.axvline(at, label="the device's memory is full", color=look.ink, linestyle=":", linewidth=1.2)


PANELS = (*TIMED, "policy")
MOST_BARS = 12
PARTS = {  # from below: what no cache changes comes first
    "fixed_ms": "fixed", "dense_ms": "dense layers", "experts_ms": "experts",
    "pcie_wait_ms": "waiting for PCIe", "storage_wait_ms": "waiting for storage",
}  # fmt: skip


def _part_pages(material: Material) -> Iterator[Page]:
    return pages_of(tpot_parts, _by_device(material.need_sweep()), PANELS)


def _by_device(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows that have times, the policies of a device after one another, so that they stand side by side."""
    rows = timed_rows(frame)
    names = [name for name in TIMED if name in rows]
    if not names:
        return rows
    groups = rows.groupby(names, dropna=False, sort=False).ngroup()
    return rows.iloc[np.argsort(groups.to_numpy(), kind="stable")]


@figure(_part_pages)
def tpot_parts(frame: pd.DataFrame, dark: bool = False) -> Sheet:
    """Mean time per output token by cause, modelled, against the memory of the cache; a panel per policy and device.

    frame: rows of `remoe_sim.sweep` with a device. Up to a dozen sizes are bars, more are areas. Panels of one device
    have one scale; parts that are zero everywhere are left out.
    """
    rows = has_columns(_by_device(frame), *PARTS)
    panels = split_rows(rows, PANELS)
    with panelled("What a token's time is made of (modelled)", dark, panels, share=False) as (page, grid):
        colours = dict(zip(PARTS, page.look.parts, strict=True))
        there = [part for part in PARTS if (rows[part] > 0).any()]
        for axes, (_, own) in zip(grid, panels, strict=True):
            own = own.sort_values("capacity_bytes")
            place, label = memory(own)
            x, bottom = place(own).to_numpy(float), np.zeros(len(own))
            for part in there:
                height = own[part].to_numpy(float)
                style: dict[str, Any] = {"color": colours[part], "label": PARTS[part], "linewidth": 0}
                if len(own) > MOST_BARS:
                    axes.fill_between(x, bottom, bottom + height, **style)
                else:
                    axes.bar(np.arange(x.size), height, bottom=bottom, width=0.75, **style)
                bottom = bottom + height
            if len(own) <= MOST_BARS:
                axes.set_xticks(np.arange(x.size), [f"{one:.3g}" for one in x])
                axes.grid(False, axis="x")
                axes.set_xlim(min(-0.5, x.size / 2 - 2), max(x.size - 0.5, x.size / 2 + 1))
            else:
                axes.set_xlim(x[0], x[-1])
                _mark_room(axes, own, place, page.look)
            axes.set_xlabel(label)
            axes.set_ylabel("mean TPOT (ms per token)")
        scale_alike(grid, panels, "tpot_ms_mean", ("device",))
    return page
