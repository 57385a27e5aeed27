"""Figures over the cache size: hit rate, and regret against the offline optimum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.figures._look import OPTIMUM, Sheet, percent, whole_numbers
from remoe_sim.figures._material import Material, NotPossibleError, Page, figure
from remoe_sim.figures._panels import PANELS, capacity_axis, curve_rows, lines_of, pages_of, panelled, split_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def _regret_pages(material: Material) -> Iterator[Page]:
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


@figure(_regret_pages)
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


def _hit_pages(material: Material) -> Iterator[Page]:
    rows = curve_rows(material.curves)
    if not rows["lookups"].sum():
        raise NotPossibleError("there are no lookups")
    return pages_of(hit_rate, rows, PANELS)


@figure(_hit_pages)
def hit_rate(frame: pd.DataFrame, dark: bool = False) -> Sheet:
    """Hit rate against capacity, a line per policy and a panel per combination of all else.

    frame: rows of `remoe_sim.sweep` or `remoe_sim.curve`. Shown are decode lookups, or all where there are none of
    decode. The vertical line is the knee: where the optimum (or else the policy that hits most) is farthest above the
    straight line from no cache to the largest one shown. Beyond it a further expert brings less than the average one.
    """
    rows = curve_rows(frame)
    decode = "decode_hit_rate" in rows and rows["decode_hit_rate"].notna().any()
    y = "decode_hit_rate" if decode else "hit_rate"
    rows = rows.dropna(subset=[y])  # what has no such lookups has no panel either
    with panelled("Hit rate against cache size", dark, split_rows(rows, PANELS)) as (page, grid):
        styles = page.look.policies(rows["policy"])
        for axes, (_, own) in zip(grid, split_rows(rows, PANELS), strict=True):
            place, label = capacity_axis(own)
            lines_of(axes, own, place, y, styles)
            best = own[own["policy"] == (OPTIMUM if OPTIMUM in set(own["policy"]) else _best(own, y))]
            _mark(axes, best.sort_values("capacity"), place, y, page.look.faint)
            axes.set_xlabel(label)
            axes.set_ylabel("hit rate (% of decode lookups)" if decode else "hit rate (% of lookups)")
            axes.set_xlim(left=0)
            if own["capacity_unit"].iloc[0] != "bytes":
                whole_numbers(axes.xaxis)
            axes.set_ylim(0, 1.03)
            percent(axes.yaxis)
    return page


def _best(rows: pd.DataFrame, y: str) -> str:
    return str(rows.groupby("policy")[y].sum().idxmax())


def knee(capacity: npt.NDArray[np.float64], rates: npt.NDArray[np.float64]) -> int | None:
    """The index of the point farthest above the chord from (0, 0) to the last one; None where there is no such point.

    capacity: ascending, float64[n]; rates: float64[n]. For a concave curve this is where its slope falls below that of
    the chord (Satopää et al., "Finding a Kneedle in a Haystack", 2011, without smoothing).
    """
    if capacity.size < 3 or not capacity[-1] > 0 or not rates[-1] > 0:
        return None
    above = rates / rates[-1] - capacity / capacity[-1]
    at = int(above.argmax())
    return at if above[at] > 0 else None


def _mark(axes: Axes, best: pd.DataFrame, place: Callable[[pd.DataFrame], Any], y: str, colour: str) -> None:
    places, rates = place(best).to_numpy(float), best[y].to_numpy(float)
    at = knee(places, rates)
    if at is None:
        return
    axes.axvline(places[at], color=colour, linewidth=0.9, linestyle=":")
    text = f"knee of {best['policy'].iloc[0]}: {100 * rates[at]:.0f} % at {places[at]:.3g}"
    axes.annotate(text, (places[at], 0.03), xytext=(4, 0), textcoords="offset points", color=colour, fontsize=8)
