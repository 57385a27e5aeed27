"""The cliff of a mapped file: time per token against the memory of the page cache."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.figures._look import Sheet, legend, sheet
from remoe_sim.figures._material import Material, NotPossibleError, Page, figure, has_columns, refuse
from remoe_sim.trace.trace import Trace
from remoe_sim.util.errors import TraceError

if TYPE_CHECKING:
    import pandas as pd

RULES = ("lru", "two-list")
SHARES = (*np.linspace(0, 1, 17), 1.02, 1.15)  # of the file
_NOT_PASSED = ("policy", "residency", "page_rule", "page_memory")


def _pages(material: Material) -> Iterator[Page]:
    material.need_traces()
    if "device" not in material.replay:
        raise NotPossibleError("needs --device")
    given = {name: value for name, value in material.replay.items() if name not in _NOT_PASSED}
    for suffix, name, trace in material.each_trace():
        try:
            yield suffix, partial(cliff, cliff_rows(trace, **given).assign(trace=name))
        except TraceError as reason:  # no sizes, or no card of its model
            yield suffix, partial(refuse, reason)
        except ValueError as reason:  # a device with a memory of its own
            raise NotPossibleError(str(reason)) from reason


def cliff_rows(trace: Trace, device: Any, **replay_settings: Any) -> pd.DataFrame:
    """One row per page rule and memory of the page cache: rule, memory_bytes, tpot_ms; file_bytes and token_bytes, the
    weights that tokens read at all and that one token reads; left_bytes that the device leaves. Replayed without a
    cache of the engine.

    Raises ValueError for a device without one memory for all, NotPossibleError without decode tokens.
    """
    import pandas as pd

    from remoe_sim.cache.replay import replay

    def timed(**pages: Any) -> Any:
        return replay(trace, 0, policy="lru", device=device, residency="mapped", **pages, **replay_settings)[
            "lru"
        ].timed

    first = timed()
    model, left = first.model, first.faults.memory_bytes
    dense = sum(model.dense_bytes) + model.head_bytes
    whole = dense + model.experts * sum(model.expert_bytes)
    if first.times.tpot_ms is None:
        raise NotPossibleError("there are no decode tokens")
    token = dense + model.top_k * sum(model.expert_bytes)
    memory = sorted({*(int(np.ceil(share * whole)) for share in SHARES), int(0.97 * token), int(1.03 * token)})
    rows = [
        {"rule": rule, "memory_bytes": size, "tpot_ms": timed(page_rule=rule, page_memory=size).times.tpot_ms["mean"]}
        for rule in RULES
        for size in memory
    ]
    return pd.DataFrame(rows).assign(
        file_bytes=whole, token_bytes=token, left_bytes=left, device=first.run.device.name, quant=model.quant
    )


@figure(_pages)
def cliff(data: pd.DataFrame, dark: bool = False) -> Sheet:
    """Mean time per output token of a mapped file, modelled, against the page cache's memory, a line per page rule.

    data: rows of `cliff_rows`. Vertical lines: what a token reads, the whole file, and what the device leaves, if
    that is less than the file.
    """
    rows = has_columns(data, "rule", "memory_bytes", "tpot_ms", "file_bytes", "token_bytes", "left_bytes")
    with sheet("Time per token of a mapped file (modelled)", dark) as page:
        axes = page.subplots()
        whole = float(rows["file_bytes"].iloc[0])
        unit, factor = ("GiB", 2**30) if whole >= 2**30 else ("MiB", 2**20)
        for number, (rule, own) in enumerate(rows.groupby("rule", sort=False)):
            own = own.sort_values("memory_bytes")
            axes.plot(own["memory_bytes"] / factor, own["tpot_ms"], label=f"pages by {rule}", **page.look.line(number))
        axes.set_xlim(0, float(rows["memory_bytes"].max()) / factor)
        axes.set_ylim(0, 1.08 * float(rows["tpot_ms"].max()))
        named = [("read by a token", "token_bytes"), ("file", "file_bytes"), ("left by the device", "left_bytes")]
        for text, column in named:
            at = float(rows[column].iloc[0])
            if column == "left_bytes" and at >= whole:
                continue
            axes.axvline(at / factor, color=page.look.faint, linewidth=0.9, linestyle=":")
            axes.annotate(
                f"{text}: {at / factor:.3g}", (at / factor, 0.5), xycoords=("data", "axes fraction"), xytext=(-4, 0),
                textcoords="offset points", color=page.look.faint, fontsize=8, rotation=90, ha="right", va="center",
            )  # fmt: skip
        axes.set_xlabel(f"page cache ({unit})")
        axes.set_ylabel("mean TPOT (ms per token)")
        shown = [str(rows[name].iloc[0]) for name in ("trace", "device", "quant") if name in rows]
        axes.set_title(", ".join(one for one in shown if one))
        legend(page, [axes])
    return page
