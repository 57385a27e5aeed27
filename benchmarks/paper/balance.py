"""The front of reuse against balance: recipes that ask for evenness too, and what they keep of the gain.

    python -m benchmarks.paper.balance                # an hour per architecture on one core; train.py's models
    python -m benchmarks.paper.balance --quick

ReMoE's recipe `paper` makes gates use experts less evenly. Here the load-balance term is added to it, at several
weights and with the locality terms weighed once and twice; each recipe is tuned, and judged on the recorded texts that
no model was tuned or chosen on: loss, adjacent reuse, and the coefficient of variation of how often experts are used.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import remoe_sim
from benchmarks.paper import drawing, text_losses
from benchmarks.paper.expert_use import compare_evenness
from benchmarks.paper.small_models import ARCHITECTURES
from benchmarks.paper.train import FORMS, LOCALITY, Maker, small, weighed
from benchmarks.script import keep, options
from remoe_sim.finetune import Recipe, Term, read_recipe

WEIGHTS = (0.0, 0.05, 0.2, 1.0)  # of the load-balance term
FACTORS = (1.0, 2.0)  # of the locality terms
ASKED = {"reuse": 0.26, "loss": 0.01, "cv": 0.45}


def main() -> None:
    parser = options(__doc__, quick={"architecture": "qwen"}, output=None)
    parser.add_argument("--models", type=Path, default=drawing.OUTPUT / "models", help="folder of train.py")
    parser.add_argument("--result", type=Path, help="also write all rows there, as JSON")
    parser.add_argument("--architecture", default=",".join(ARCHITECTURES), help="deepseek, qwen or both")
    given = parser.parse_args()
    form, folder, weights, factors = FORMS["full"], given.models / "full", WEIGHTS, FACTORS
    if given.quick:
        form, folder = FORMS["quick"].scaled(0.04), given.models / "quick-x0.04"
        weights, factors = WEIGHTS[::2], FACTORS[:1]
    rows: list[dict[str, Any]] = []
    for architecture in given.architecture.split(","):
        maker = Maker(architecture, form, "cpu", 0, folder / architecture)
        maker.original()
        maker.losses("original")
        mine = [row(maker, factor, weight) for factor in factors for weight in weights]
        rows += mine
        drawing.save(partial(front, mine, architecture), maker.folder, "balance")
        print(markdown(mine, architecture))
    if given.result:
        keep(rows, given.result, indent=1)


def balanced(recipe: Recipe, weight: float) -> Recipe:
    """The recipe with the load-balance term at a weight in every stage."""
    stages = tuple(
        replace(stage, terms={**stage.terms, "load_balance": Term(weight)} if weight else stage.terms)
        for stage in recipe.stages
    )
    return replace(recipe, stages=stages)


def row(maker: Maker, factor: float, weight: float) -> dict[str, Any]:
    """What one recipe does, judged on the recorded texts."""
    name = f"balance-x{factor:g}-{weight:g}"
    recipe = balanced(weighed(small(read_recipe("paper"), maker.form), LOCALITY, factor), weight)
    maker.tuned(name, replace(recipe, band=10.0))
    maker.losses(name)
    traces = [remoe_sim.read_trace(maker.trace(one)) for one in ("original", name)]
    found = remoe_sim.compare(*traces, resamples=1999).verdict
    even = compare_evenness(*traces, "auto", 0.05, 1999, 0)
    cv = next(one for one in even.pooled if one.metric == "load_balance_cv")
    lost = text_losses.compare(maker.folder / "original-losses.json", maker.folder / f"{name}-losses.json")
    return {
        "architecture": maker.name, "locality": factor, "load_balance": weight,
        "loss_change": lost["change"], "reuse": found.b, "reuse_change": found.b / found.a - 1,
        "cv": cv.b, "cv_original": cv.a, "cv_interval": cv.interval,
    }  # fmt: skip


def markdown(rows: list[dict[str, Any]], architecture: str) -> str:
    """The table to read; bold rows are within what was asked."""
    lines = [f"{architecture}: original CV {rows[0]['cv_original']:.3f}", "",
             "| locality | load balance | loss | reuse | CV |", "|---|---|---|---|---|"]  # fmt: skip
    for one in rows:
        met = one["reuse_change"] >= ASKED["reuse"] and one["loss_change"] <= ASKED["loss"] and one["cv"] <= ASKED["cv"]
        mark = "**" if met else ""
        lines.append(
            f"| × {one['locality']:g} | {one['load_balance']:g} | {100 * one['loss_change']:+.2f} % | "
            f"{mark}{100 * one['reuse_change']:+.1f} %{mark} | {one['cv']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def front(rows: list[dict[str, Any]], title: str, colours: dict[str, str]) -> Any:
    """Gain of reuse over the coefficient of variation; hollow where the loss is beyond the band."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    axes.axhline(100 * ASKED["reuse"], color=colours["grey"], linewidth=0.9, linestyle=(0, (4, 3)))
    axes.axvspan(0, ASKED["cv"], color=colours["grey"], alpha=0.15, linewidth=0)
    for factor, colour in zip(FACTORS, ("remoe", "third"), strict=True):
        some = [one for one in rows if one["locality"] == factor]
        axes.plot([one["cv"] for one in some], [100 * one["reuse_change"] for one in some], color=colours[colour],
                  linewidth=0.9, label=f"locality × {factor:g}")  # fmt: skip
        for one in some:
            face = colours[colour] if one["loss_change"] <= ASKED["loss"] else colours["face"]
            axes.plot([one["cv"]], [100 * one["reuse_change"]], "o", color=colours[colour], markerfacecolor=face)
            axes.annotate(f"{one['load_balance']:g}", (one["cv"], 100 * one["reuse_change"]), (5, 3),
                          textcoords="offset points", fontsize=7, color=colours["ink"])  # fmt: skip
    axes.plot([rows[0]["cv_original"]], [0], "P", color=colours["ink"], label="original")
    axes.set(xlabel="load-balance CV (shaded: below 0.45)", ylabel="change of adjacent reuse, %", xlim=(0, None),
             title=f"{title}: reuse against balance (hollow: loss above 1 %)")  # fmt: skip
    axes.legend(loc="upper left")
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
