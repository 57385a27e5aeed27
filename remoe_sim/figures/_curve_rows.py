"""Rows of a curve or a sweep as figures over capacity take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from remoe_sim.figures._material import has_columns
from remoe_sim.figures._panels import COUNTED

if TYPE_CHECKING:
    import pandas as pd

PANELS = (*COUNTED, "capacity_unit")


def curve_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per combination, policy and capacity, all layers together, with `capacity_unit`.

    Takes rows of `remoe_sim.sweep`, and those of `remoe_sim.curve`.
    """
    rows = has_columns(frame, "policy", "capacity", "lookups", "hits")
    if "layer" in rows:
        rows = rows[rows["layer"].astype(str) == "all"]
    if "capacity_unit" not in rows:
        rows = rows.assign(capacity_unit=frame.attrs.get("capacity_unit", "experts_per_layer"))
    for name in ("quant", "device_model"):  # change what a number of bytes holds, and nothing else
        if name in rows:
            rows = rows.assign(**{name: rows[name].where(rows["capacity_unit"] == "bytes")})
    names = [name for name in (*PANELS, "policy", "capacity") if name in rows]
    return rows.drop_duplicates(names)


def capacity_axis(rows: pd.DataFrame) -> tuple[Callable[[pd.DataFrame], Any], str]:
    """What turns rows of one unit into their places on the axis, and the axis's label."""
    unit = rows["capacity_unit"].iloc[0]
    if unit != "bytes":
        label = "cache (experts per layer)" if unit == "experts_per_layer" else "cache of all layers (experts)"
        return (lambda some: some["capacity"].astype(float)), label
    name, factor = ("GiB", 2**30) if float(rows["capacity"].max()) >= 2**30 else ("MiB", 2**20)
    return (lambda some: some["capacity"].astype(float) / factor), f"cache of all layers ({name})"
