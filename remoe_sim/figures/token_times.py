"""How the times of single output tokens are distributed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.cache.results import ReplayReport
from remoe_sim.figures._look import Sheet, legend, percent, sheet
from remoe_sim.figures._material import Material, NotPossibleError, Page, figure, has_columns, refuse
from remoe_sim.util.errors import TraceError

if TYPE_CHECKING:
    import pandas as pd

MOST_POINTS = 500


def _pages(material: Material) -> Iterator[Page]:
    from remoe_sim.cache.replay import replay

    material.need_traces()
    if "device" not in material.replay:
        raise NotPossibleError("needs --device, and --cache or --budget")
    limit = material.need_limit()
    for suffix, name, trace in material.each_trace():
        try:
            rows = token_rows(replay(trace, **material.replay, **limit))
            yield suffix, partial(token_latency, rows.assign(trace=name))
        except TraceError as reason:  # no sizes, or no card of its model
            yield suffix, partial(refuse, reason)


def token_rows(report: ReplayReport) -> pd.DataFrame:
    """One row per counted decode token: policy, tpot_ms. A token takes what its step takes.

    Raises ValueError for a replay without a device.
    """
    import pandas as pd

    frames = []
    for result in report:
        if result.timed is None:
            raise ValueError("the replay has no times; replay with a device")
        times = result.timed.times
        each = np.repeat(times.seconds, times.steps.decode) * 1e3
        frames.append(pd.DataFrame({"policy": result.policy, "tpot_ms": each, "device": result.timed.run.device.name}))
    return pd.concat(frames, ignore_index=True)


@figure(_pages)
def token_latency(data: Any, dark: bool = False) -> Sheet:
    """Share of decode tokens that take at most so long, modelled, a line per policy; points are p50, p95 and p99.

    data: the report of `remoe_sim.replay` with a device, or rows with policy and tpot_ms, one per decode token. Of many
    tokens 500 quantiles are drawn.
    """
    rows = has_columns(token_rows(data) if isinstance(data, ReplayReport) else data, "policy", "tpot_ms")
    if rows.empty:
        raise NotPossibleError("there are no decode tokens")
    with sheet("Time of single decode tokens (modelled)", dark) as page:
        axes = page.subplots()
        for policy, style in page.look.policies(rows["policy"]).items():
            times = np.sort(rows.loc[rows["policy"] == policy, "tpot_ms"].to_numpy(float))
            if not times.size:
                continue
            shares = np.arange(1, times.size + 1) / times.size
            some = np.unique(np.linspace(0, times.size - 1, min(times.size, MOST_POINTS)).round().astype(int))
            marks = np.percentile(times, (50, 95, 99))
            axes.step(np.append(times[0], times[some]), np.append(0, shares[some]), where="post", color=style["color"],
                      linestyle=style["linestyle"])  # fmt: skip
            label = f"{policy}: p50 {marks[0]:.3g}, p95 {marks[1]:.3g}, p99 {marks[2]:.3g} ms"
            axes.plot(marks, (0.5, 0.95, 0.99), label=label,
                      **style | {"linestyle": "", "marker": style["marker"] or "*"})  # fmt: skip
        low, high = rows["tpot_ms"].min(), rows["tpot_ms"].max()
        if low > 0 and high > 20 * low:
            axes.set_xscale("log")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("time of the token (ms)")
        axes.set_ylabel("decode tokens at most that slow (%)")
        percent(axes.yaxis)
        named = [str(rows[name].iloc[0]) for name in ("trace", "device") if name in rows]
        axes.set_title(", ".join([*named, f"{len(rows) // rows['policy'].nunique():,} tokens"]))
        legend(page, [axes])
    return page
