"""benchmarks/paper/train.py with models that learn nothing: every step of it, and that none is done twice."""

import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from remoe_sim.finetune import read_recipe

pytestmark = [
    pytest.mark.heavy("torch", "transformers", "safetensors"),
    pytest.mark.filterwarnings("ignore"),
]
FOLDER = Path(__file__).parents[1] / "benchmarks" / "paper"


@pytest.fixture
def script(monkeypatch):
    """The scripts import one another by their plain names."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(FOLDER)
    import train

    yield train
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            sys.modules.pop(name)


def test_all_of_it_and_nothing_twice(script, tmp_path, monkeypatch):
    form = script.Form(train=3, tune=3, batch=2, length=96, recorded=6, validated=2)
    wide = {name: replace(read_recipe(name), band=1.0) for name in script.RECIPES}
    monkeypatch.setattr(script, "read_recipe", wide.get)
    monkeypatch.setattr(script, "FACTORS", (0.0, 2.0))
    parts = {part: texts[:12] for part, texts in script.sources().items()}
    monkeypatch.setattr(script, "sources", lambda: parts)
    monkeypatch.setattr(script, "RECIPES", ("paper", "three-stage"))
    maker = script.Maker("deepseek", form, "cpu", 0, tmp_path / "deepseek")
    printed = maker.pairs()
    table = pd.read_csv(tmp_path / "deepseek" / "summary.csv")
    assert table["model"].tolist() == ["original", "paper", "three-stage"]
    assert (table["loss"] > 4).all()
    assert table["reuse_rate"].between(0, 1).all()
    assert (tmp_path / "deepseek" / "pair-paper" / "pair.md").exists()
    script.Maker("qwen", form, "cpu", 0, tmp_path / "qwen").original()
    maker.tradeoff()
    rows = pd.read_csv(tmp_path / "deepseek" / "tradeoff.csv")
    assert rows["model"].tolist() == [
        "original", "paper-x0", "paper-x2", "three-stage-x0", "three-stage-x2", "paper-without-trust",
        "paper-without-reuse", "paper-without-consistency",
    ]  # fmt: skip
    for done in ("train", "finetune", "capture", "compare_pair"):
        monkeypatch.setattr(script, done, None)
    assert maker.pairs() == printed


def test_a_small_recipe_has_the_same_terms(script):
    for name in script.RECIPES:
        recipe = read_recipe(name)
        made = script.small(recipe, script.FORMS["full"])
        assert sum(stage.steps for stage in made.stages) == 300
        for one, other in zip(recipe.stages, made.stages, strict=True):
            assert {key: term.weight for key, term in one.terms.items()} == {
                key: term.weight for key, term in other.terms.items()
            }
    half = script.weighed(read_recipe("paper"), ("reuse", "lag"), 0.5).stages[0].terms
    assert half["reuse"].weight == read_recipe("paper").stages[0].terms["reuse"].weight / 2
    assert half["lag"].options == {"lags": [1, 2, 4, 8, 16]}


def test_texts_are_divided_by_file_and_bytes_are_tokens(script):
    parts = script.sources()
    assert all(len(parts[part]) > 20 for part in ("train", "validation", "test"))
    assert not set(parts["train"]) & (set(parts["validation"]) | set(parts["test"]))
    tokens = script.tokenizer()
    text = "def é():\n    return '<pad'"
    assert len(tokens(text)["input_ids"]) == len(text.encode())
    assert tokens.decode(tokens(text)["input_ids"]) == text
    assert len(script.excerpts(parts["test"], 256, 200)) == 200
