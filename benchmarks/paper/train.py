"""The pair of the ReMoE paper made here: small models trained from scratch, tuned by every recipe, captured, compared.

    python -m benchmarks.paper.train --quick          # minutes; models that have learnt little
    python -m benchmarks.paper.train                  # both architectures; far less on a GPU
    python -m benchmarks.paper.train --architecture qwen --tradeoff

Trains a DeepSeek-V2-like and a Qwen2-MoE-like model on the sources of Python's standard library, tunes their gates by
the recipes of `remoe-sim finetune`, records 200 texts that none of them has seen (teacher forcing, so that all read the
same) and writes the tables and figures of `pair.py` for each recipe, and a table of all. What is there already is not
made again, and what was cut goes on. With --tradeoff, reuse against loss over the weight of the locality terms too.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.paper import text_losses, tradeoff_figure
from benchmarks.paper.drawing import OUTPUT
from benchmarks.paper.pair import compare_pair
from benchmarks.paper.small_models import ARCHITECTURES, say, train
from benchmarks.paper.stdlib_texts import excerpts, sources, tokenizer
from benchmarks.paper.summary import markdown, summarise
from benchmarks.script import options
from remoe_sim.capture import run as capture
from remoe_sim.finetune import Recipe, read_recipe
from remoe_sim.finetune import run as finetune
from remoe_sim.finetune.texts import read_texts
from remoe_sim.trace.writer import write_trace
from remoe_sim.util.files import replacing

RECIPES = ("ce-only", "paper", "three-stage")
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # of the weights of LOCALITY
LOCALITY = ("reuse", "smooth", "lag", "working_set")
WITHOUT = {"trust": ("trust",), "reuse": ("reuse",), "consistency": ("smooth", "lag", "working_set")}
CHOSEN = {"paper": 1.0, "three-stage": 1.0}  # the factor of each recipe, chosen by the loss on the validation texts
RATE = 4  # times the learning rate of the recipes, which is meant for models of billions
PROMPT = 64  # bytes of a recorded text that count as its prompt


@dataclass(frozen=True)
class Form:
    """steps of training and of tuning, pieces per pass of either, bytes per piece, texts recorded and validated on."""

    train: int
    tune: int
    batch: int = 16
    tuned: int = 8
    length: int = 256
    recorded: int = 200
    validated: int = 96

    def scaled(self, share: float) -> Form:
        """The same with a share of the steps and texts, of each at least four."""
        counts = {
            name: max(4, round(share * getattr(self, name))) for name in ("train", "tune", "recorded", "validated")
        }
        return replace(self, **counts)


FORMS = {"full": Form(1000, 100), "quick": Form(250, 60, batch=8, length=128, validated=64)}


def main() -> None:
    parser = options(__doc__, quick={}, output=None)
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT / "models", help="folder")
    parser.add_argument("--architecture", default=",".join(ARCHITECTURES), help="deepseek, qwen or both")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the form's steps and texts, to try it out")
    parser.add_argument("--tradeoff", action="store_true", help="tune at six weights and without each term, too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if unknown := set(given.architecture.split(",")) - set(ARCHITECTURES):
        parser.error(f"unknown architecture {', '.join(sorted(unknown))}; valid are {', '.join(ARCHITECTURES)}")
    if not 0 < given.scale <= 1:
        parser.error(f"scale {given.scale:g} is not possible; give a share above 0 and at most 1")
    name = "quick" if given.quick else "full"
    form = FORMS[name].scaled(given.scale)
    folder = given.output / (name if given.scale == 1 else f"{name}-x{given.scale:g}")
    for architecture in given.architecture.split(","):
        maker = Maker(architecture, form, given.device, given.seed, folder / architecture)
        print(maker.pairs())
        if given.tradeoff:
            print(maker.tradeoff())


class Maker:
    """Everything of one architecture, in one folder."""

    def __init__(self, name: str, form: Form, device: str, seed: int, folder: Path) -> None:
        self.name, self.form, self.device, self.seed, self.folder = name, form, device, seed, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.parts = sources()

    def original(self) -> Path:
        """The untouched model."""
        path = self.folder / "original"
        if not path.exists():
            texts = excerpts(self.parts["train"], self.form.length, self.form.train * self.form.batch)
            pieces = [one for text in read_texts(texts, tokenizer(), self.form.length) for one in text]
            train(self.name, pieces, self.form.train, self.form.batch, self.device, self.seed, path)
        return path

    def tuned(self, name: str, recipe: Recipe) -> Path:
        """The model with its gates tuned by a recipe."""
        path = self.folder / name
        if not path.exists():
            data = excerpts(self.parts["train"], self.form.length, 2 * self.form.tune * self.form.tuned)
            finetune(
                self.original(), data, path, recipe=recipe, seed=self.seed, device=self.device,
                validation=excerpts(self.parts["validation"], self.form.length, self.form.validated),
                progress=lambda stage, step, point: point and say(
                    f"{self.name}, {name}, {stage.name} {step}: loss {point.loss:.4f}, reuse {point.reuse:.4f}"
                ),
            )  # fmt: skip
        return path

    def recorded(self) -> list[str]:
        """The texts to record, which no model is trained or chosen on."""
        return excerpts(self.parts["test"], self.form.length, self.form.recorded)

    def recipe(self, name: str) -> Recipe:
        """A recipe in small, its locality terms weighed as was chosen."""
        return weighed(small(read_recipe(name), self.form), LOCALITY, CHOSEN.get(name, 1.0))

    def trace(self, name: str) -> Path:
        """What the routers of a model choose in texts that no model was trained on."""
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            requests = path.with_suffix(".jsonl")
            lines = [json.dumps({"prompt": one[:PROMPT], "completion": one[PROMPT:]}) for one in self.recorded()]
            requests.write_text("\n".join(lines) + "\n")
            traced = capture(self.folder / name, requests, teacher_force=True, batch=20, device=self.device)
            write_trace(traced, path)
            requests.unlink()
        return path

    def losses(self, name: str) -> None:
        """What a model loses on each of the recorded texts."""
        path = self.folder / f"{name}-losses.json"
        if not path.exists():
            pieces = [tokenizer()(text)["input_ids"] for text in self.recorded()]
            text_losses.measure(self.folder / name, pieces, 20, self.device, path)

    def pairs(self) -> str:
        """The table of all recipes; tables and figures of each in folders of their own."""
        self.original()
        self.losses("original")
        for name in RECIPES:
            self.tuned(name, self.recipe(name))
            self.losses(name)
            self.pair(name)
        requests = f"{self.form.recorded} texts of {self.form.length} bytes that no model was trained on"
        table = summarise(self.folder, RECIPES, f"{self.name}: {requests}, {PROMPT} bytes of each a prompt.")
        return markdown(table, RECIPES, self.name)

    def pair(self, name: str) -> pd.DataFrame:
        """What `pair.py` finds of the original and a tuned model, with its figures in a folder."""
        folder = self.folder / f"pair-{name}"
        if not folder.exists():
            part = self.folder / f".pair-{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            compare_pair(self.trace("original"), self.trace(name), part, names=("original", name))
            os.replace(part, folder)
        return pd.read_csv(folder / "pair.csv")

    def tradeoff(self) -> str:
        """Reuse and loss, on the validation texts, where the locality terms weigh more and less, and without terms."""
        rows: list[dict[str, Any]] = []
        for name, recipe, about in self._variants():
            report = json.loads((self.tuned(name, recipe) / "finetune" / "report.json").read_text())
            for one, point in (("original", report["original"]), (name, report["tuned"]))[bool(rows) :]:
                said = about if one == name else {}
                rows.append({"model": one, **said, "loss": point["loss"], "reuse": point["reuse"]})
        table = pd.DataFrame(rows)
        for column in ("loss", "reuse"):
            table[f"{column}_change"] = table[column] / table[column].iloc[0] - 1
        with replacing(self.folder / "tradeoff.csv") as beside:
            table.to_csv(beside, index=False)
        tradeoff_figure.draw(table, self.name, self.folder)
        return f"\n{self.name}\n{table.to_string(index=False, float_format='{:.4f}'.format)}"

    def _variants(self) -> Iterator[tuple[str, Recipe, dict[str, Any]]]:
        yield "ce-only", self.recipe("ce-only"), {"recipe": "ce-only"}
        for name in CHOSEN:
            for factor in FACTORS:
                recipe = weighed(small(read_recipe(name), self.form), LOCALITY, factor)
                yield f"{name}-x{factor:g}", _to_the_end(recipe), {"recipe": name, "factor": factor}
        for name, left_out in WITHOUT.items():
            recipe = weighed(self.recipe("paper"), left_out, 0.0)
            yield f"paper-without-{name}", _to_the_end(recipe), {"recipe": "paper", "without": name}


def small(recipe: Recipe, form: Form) -> Recipe:
    """A recipe for a small model: the same terms and weights, fewer steps in proportion, a larger learning rate."""
    share = form.tune / sum(stage.steps for stage in recipe.stages)
    stages = tuple(
        replace(
            stage,
            steps=max(1, round(stage.steps * share)),
            warm_up=round(stage.warm_up * share),
            learning_rate=RATE * stage.learning_rate,
            terms={name: replace(term, ramp=round(term.ramp * share)) for name, term in stage.terms.items()},
        )
        for stage in recipe.stages
    )
    return replace(
        recipe, stages=stages, length=form.length, batch=form.tuned, accumulate=1, bf16=False,
        evaluate_every=max(1, form.tune // 8),
    )  # fmt: skip


def weighed(recipe: Recipe, names: tuple[str, ...], factor: float) -> Recipe:
    """The recipe with the weights of some terms multiplied."""
    stages = []
    for stage in recipe.stages:
        changed = {name: replace(stage.terms[name], weight=factor * stage.terms[name].weight)
                   for name in names if name in stage.terms}  # fmt: skip
        stages.append(replace(stage, terms={**stage.terms, **changed}))
    return replace(recipe, stages=tuple(stages))


def _to_the_end(recipe: Recipe) -> Recipe:
    """The recipe without a band: where the loss goes is what is asked."""
    return replace(recipe, band=math.inf, evaluate_every=sum(stage.steps for stage in recipe.stages))


if __name__ == "__main__":
    main()
