"""What a policy misses above the offline optimum, against capacity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from remoe_sim.figures._curve_rows import PANELS, capacity_axis, curve_rows
from remoe_sim.figures._look import OPTIMUM, Sheet, percent, whole_numbers
from remoe_sim.figures._material import Material, NotPossibleError, Page, figure
from remoe_sim.figures._panels import lines_of, pages_of, panelled, split_rows

if TYPE_CHECKING:
    import pandas as pd


def _pages(material: Material) -> Iterator[Page]:
    return pages_of(regret, regret_rows(material.curves), PANELS)


def regret_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the other policies with `regret` as a fraction of their lookups; NotPossibleError without Belady's."""
    rows = curve_rows(frame)
    if "regret" in rows:
        return rows
    names = [name for name in (*PANELS, "capacity") if name in rows]
    best = rows[rows["policy"] == OPTIMUM][[*names, "hits"]].rename(columns={"hits": "belady_hits"})
    if best.empty:
        raise NotPossibleError(f"needs {OPTIMUM} among the policies")
    others = rows[(rows["policy"] != OPTIMUM) & (rows["lookups"] > 0)].merge(best, on=names)
    if others.empty:
        raise NotPossibleError(f"needs a policy beside {OPTIMUM}, and lookups, at the same capacities")
    others["regret"] = (others["belady_hits"] - others["hits"]) / others["lookups"]
    others.attrs.update(frame.attrs, bound=is_bound(frame))
    return others


def is_bound(frame: pd.DataFrame) -> bool:
    """Whether no policy misses less than Belady in any of the rows, as far as they say."""
    if "optimal" in frame:
        return bool(frame[frame["policy"] == OPTIMUM]["optimal"].astype(bool).all())
    return OPTIMUM in frame.attrs.get("optimal", [OPTIMUM])


@figure(_pages)
def regret(frame: pd.DataFrame, dark: bool = False) -> Sheet:
    """Regret against capacity: misses above Belady's at the same limit, scope and admission, in % of all lookups.

    frame: rows of `remoe_sim.sweep` or `remoe_sim.curve` with `belady` and another policy.
    """
    rows = regret_rows(frame)
    panels = split_rows(rows, PANELS)
    title = "Regret: misses above the offline optimum"
    if not rows.attrs["bound"]:
        title = f"Misses above {OPTIMUM}, which is no bound here"
    with panelled(title, dark, panels) as (page, grid):
        styles = page.look.policies(rows["policy"])
        for axes, (_, own) in zip(grid, panels, strict=True):
            place, label = capacity_axis(own)
            axes.axhline(0, color=page.look.faint, linewidth=0.9)
            lines_of(axes, own, place, "regret", styles)
            axes.set_xlabel(label)
            axes.set_ylabel(f"misses above {OPTIMUM} (% of lookups)")
            axes.set_xlim(left=0)
            if own["capacity_unit"].iloc[0] != "bytes":
                whole_numbers(axes.xaxis)
            percent(axes.yaxis)
            if len(grid) == 1 and own["policy"].nunique() == 1:
                axes.set_title(", ".join(filter(None, (axes.get_title(loc="left"), str(own["policy"].iloc[0])))))
    return page
