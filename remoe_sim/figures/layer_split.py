"""The best division of a cache among layers beside the equal one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from remoe_sim.figures._look import Sheet, legend, sheet, whole_numbers
from remoe_sim.figures._material import Material, Page, figure, has_columns, refuse
from remoe_sim.studies.split_result import SplitReport
from remoe_sim.util.errors import TraceError

if TYPE_CHECKING:
    import pandas as pd

MOST = 3  # policies side by side


def _pages(material: Material) -> Iterator[Page]:
    from remoe_sim.studies.split import split

    material.need_traces()
    limit = material.need_limit()
    asked = {name: material.replay[name] for name in ("policy", "phase", "expert_bytes") if name in material.replay}
    for suffix, name, trace in material.each_trace():
        try:
            rows = split(trace, **asked, **limit).to_frame()
        except TraceError as reason:  # bytes of a trace without sizes
            yield suffix, partial(refuse, reason)
            continue
        policies = list(dict.fromkeys(rows["policy"]))
        for start in range(0, len(policies), MOST):
            some = rows[rows["policy"].isin(policies[start : start + MOST])]
            more = "" if not start else str(start // MOST + 1)
            yield "-".join(filter(None, (suffix, more))), partial(best_split, some, name=name)


@figure(_pages)
def best_split(data: Any, dark: bool = False, name: str | None = None) -> Sheet:
    """Experts and misses of each layer under the equal and the best division of a cache, a column per policy.

    data: the report of `remoe_sim.split`, or its rows; of three policies at most.
    """
    rows: pd.DataFrame = data.to_frame() if isinstance(data, SplitReport) else data
    rows = has_columns(rows, "policy", "layer", "equal_experts", "best_experts", "equal_misses", "best_misses")
    policies = list(dict.fromkeys(rows["policy"]))
    if not 1 <= len(policies) <= MOST:
        raise ValueError(f"rows of {len(policies)} policies; give those of 1 to {MOST}")
    with sheet("Best division of a cache among layers", dark, (2.4 + 3.8 * len(policies), 5.0)) as page:
        grid = page.subplots(2, len(policies), sharex=True, sharey="row", squeeze=False)
        best = page.look.line(0)
        for column, policy in enumerate(policies):
            own = rows[rows["policy"] == policy]
            saved = own["equal_misses"].sum() - own["best_misses"].sum()
            share = f" ({100 * saved / own['equal_misses'].sum():.1f} %)" if own["equal_misses"].sum() else ""
            about = f"{policy}: {saved:,} misses fewer{share}"
            grid[0, column].set_title(", ".join(filter(None, (name, about))) if not column else about)
            for axes, what in zip(grid[:, column], ("experts", "misses"), strict=True):
                axes.plot(own["layer"], own[f"equal_{what}"], color=page.look.faint, linestyle=(0, (4, 2)),
                          marker="" if len(own) > 1 else "s", label="equal")  # fmt: skip
                axes.plot(own["layer"], own[f"best_{what}"], label="best", **best | {"linewidth": 1.0})
            grid[1, column].set_xlabel("MoE layer (the model's number)")
            whole_numbers(grid[1, column].xaxis)
        for axes, what in zip(grid[:, 0], ("experts", "misses"), strict=True):  # once all is drawn, as rows share it
            most = float(rows[[f"equal_{what}", f"best_{what}"]].to_numpy().max())
            axes.set_ylim(0, 1.06 * most if most else 1)
        grid[0, 0].set_ylabel("cache (experts)")
        grid[1, 0].set_ylabel("misses (lookups)")
        grid[1, 0].yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        legend(page, grid.flat)
    return page
