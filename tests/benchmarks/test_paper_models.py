"""benchmarks/paper/train.py with models that learn nothing: every step of it, and that none is done twice."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import remoe_sim
from remoe_sim.finetune import read_recipe

pytestmark = [
    pytest.mark.heavy("torch", "transformers", "safetensors"),
    pytest.mark.filterwarnings("ignore"),
]
FOLDER = Path(__file__).parents[2] / "benchmarks" / "paper"


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
    form = script.Form(train=3, tune=3, batch=2, tuned=2, length=96, recorded=6, validated=2)
    wide = {name: replace(read_recipe(name), band=1.0) for name in script.RECIPES}
    monkeypatch.setattr(script, "read_recipe", wide.get)
    monkeypatch.setattr(script, "FACTORS", (0.0, 2.0))
    parts = {part: texts[:12] for part, texts in script.sources().items()}
    monkeypatch.setattr(script, "sources", lambda: parts)
    maker = script.Maker("deepseek", form, "cpu", 0, tmp_path / "deepseek")
    printed = maker.pairs()
    folder = tmp_path / "deepseek"
    table = pd.read_csv(folder / "summary.csv").set_index(["metric", "model"])
    models = ["original", "ce-only", "paper", "three-stage"]
    assert table.loc["loss"].index.tolist() == table.loc["distinct_experts"].index.tolist() == models
    assert (table.loc["loss", "value"] > 4).all()
    assert table.loc["reuse_rate", "value"].between(0, 1).all()
    assert (table.loc["hit_rate"].groupby(["policy", "capacity"]).size() == len(models)).all()
    assert f"| {table.loc[('loss', 'original'), 'value']:.4f} |" in printed
    assert (folder / "summary.md").read_text().count("\n") == 4 + len(table.loc[(slice(None), "original"), :])
    assert (folder / "pair-paper" / "pair.md").exists()
    script.Maker("qwen", form, "cpu", 0, tmp_path / "qwen").original()
    maker.tradeoff()
    rows = pd.read_csv(folder / "tradeoff.csv")
    assert rows["model"].tolist() == [
        "original", "ce-only", "paper-x0", "paper-x2", "three-stage-x0", "three-stage-x2", "paper-without-trust",
        "paper-without-reuse", "paper-without-consistency",
    ]  # fmt: skip
    assert (rows["loss_change"] == rows["loss"] / rows["loss"][0] - 1).all()
    assert len(list(folder.glob("tradeoff-*.png"))) == 2
    for done in ("train", "finetune", "capture", "compare_pair"):
        monkeypatch.setattr(script, done, None)
    monkeypatch.setattr(script.text_losses, "measure", None)
    assert maker.pairs() == printed


@pytest.mark.once
def test_one_command_makes_the_pair_of_both_architectures(tmp_path):
    """The quick form with a twelfth of its steps and texts."""
    command = [sys.executable, FOLDER / "train.py", "--quick", "--scale", "0.08", "--device", "cpu", "-o", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("deepseek", "qwen"):
        folder = tmp_path / "quick-x0.08" / name
        assert (folder / "summary.md").read_text().split("\n\n", 1)[1] in done.stdout
        table = pd.read_csv(folder / "summary.csv").set_index(["metric", "model"])["value"]
        assert table["loss"].between(2, 5.6).all()  # ln 258 = 5.55 nats are those of a model that knows nothing
        for model in ("original", "paper", "three-stage", "ce-only"):
            trace = remoe_sim.read_trace(folder / f"{model}.parquet")
            assert trace.model.experts == (32, 32, 32, 32)
            assert remoe_sim.info(trace).requests == 16
            assert remoe_sim.reuse(trace).reuse_rate.iloc[-1] == pytest.approx(table["reuse_rate", model])
    unknown = subprocess.run([*command[:2], "--scale", "2"], capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "scale 2 is not possible; give a share above 0" in unknown.stderr


def test_losses_are_those_of_each_text(script, tmp_path):
    """Against the mean over all of them, which the same term gives at once."""
    import torch

    from remoe_sim.finetune.terms import language_model

    script.train("qwen", [[1, 2, 3]], 1, 1, "cpu", 0, tmp_path / "model")
    pieces, path = [[5, 6, 7], [9, 8], [1, 2, 3], [4, 6]], tmp_path / "losses.json"
    script.text_losses.measure(tmp_path / "model", pieces, 2, "cpu", path)
    found = json.loads(path.read_text())
    model, _ = script.text_losses.load(str(tmp_path / "model"), "cpu")
    ids = torch.tensor([pieces[0], pieces[2]])
    wanted = float(language_model(model(ids).logits, ids, torch.ones_like(ids, dtype=torch.bool)).detach())
    assert found["tokens"] == [2, 1, 2, 1]
    assert (found["nats"][0] + found["nats"][2]) / 4 == pytest.approx(wanted, rel=1e-5)
    same = script.text_losses.compare(path, path)
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)


def test_the_load_balance_loss_fades_before_the_end(script):
    weight = sys.modules["small_models"].balance_weight
    assert [weight(done) for done in (0, 0.5, 0.75, 1)] == [0.01, 0.01, 0, 0]
    assert weight(0.625) == pytest.approx(0.005)


def test_a_small_recipe_has_the_same_terms(script):
    for name in script.RECIPES:
        recipe = read_recipe(name)
        made = script.small(recipe, script.FORMS["full"])
        assert sum(stage.steps for stage in made.stages) == script.FORMS["full"].tune
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
