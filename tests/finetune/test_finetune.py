"""Tuning the gates of tiny real Transformers models, and the checkpoints that come of it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
load_file = pytest.importorskip("safetensors.torch").load_file

from remoe_sim import cli  # noqa: E402
from remoe_sim.capture import record  # noqa: E402
from remoe_sim.capture import run as capture  # noqa: E402
from remoe_sim.finetune import Recipe, Stage, Term, read_recipe, run  # noqa: E402
from remoe_sim.finetune.gates import Gates  # noqa: E402
from remoe_sim.finetune.objective import (  # noqa: E402
    evaluate,
    loss_of,
)
from remoe_sim.finetune.texts import picked, read_texts, split  # noqa: E402
from remoe_sim.finetune.training import precision  # noqa: E402
from tests.support.tiny_models import INSTALLED, as_table, save_tiny, tiny  # noqa: E402

pytestmark = [
    pytest.mark.heavy("torch", "transformers", "safetensors"),
    pytest.mark.filterwarnings("ignore"),
]
ALL = {
    "language_model": Term(1.0), "trust": Term(0.1), "reuse": Term(1.0, ramp=2), "smooth": Term(0.1),
    "lag": Term(0.1, options={"lags": [1, 3]}), "working_set": Term(0.1, options={"window": 4}),
    "load_balance": Term(0.1),
}  # fmt: skip
QUICK = Recipe(
    "quick", (Stage("first", 6, 0.01, ALL, warm_up=2), Stage("second", 3, 0.01, {"reuse": Term(1.0)})), length=12,
    batch=2, accumulate=2, evaluate_every=2, band=0.5,
)  # fmt: skip
TEXTS = [" ".join(f"w{3 + (7 * row + at * (row + 1)) % 90}" for at in range(5 + row)) for row in range(14)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-deepseek", "deepseek_v3")


@pytest.fixture(scope="module")
def tuned(folder, tmp_path_factory):
    return run(folder, TEXTS, tmp_path_factory.mktemp("tuned") / "tuned", recipe=QUICK)


def loaded(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype="auto")


@pytest.mark.parametrize("family", INSTALLED)
def test_every_family_takes_a_step_and_only_its_gates_move(family):
    gates, model = Gates(tiny(family)), tiny(family)
    before = {name: value.clone() for name, value in gates.model.state_dict().items()}
    ids = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(1))
    real = torch.ones_like(ids, dtype=torch.bool)
    real[1, 7:] = False
    loss, terms = loss_of(gates, QUICK.stages[0], 5, ids, real)
    loss.backward()
    assert set(terms) == set(ALL)
    assert terms["trust"] == pytest.approx(0, abs=1e-6)
    assert set(gates.tensors) == {
        name
        for name in before
        if name.endswith((".gate.weight", "router.weight", "router.bias")) and "shared" not in name
    }
    moved = {name for name, one in gates.model.named_parameters() if one.grad is not None and one.grad.any()}
    assert moved == set(gates.tensors)
    gates.set({name: tensor - 0.1 * tensor.grad for name, tensor in gates.tensors.items()})
    after = gates.model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(gates.tensors)
    with torch.no_grad():
        _, terms = loss_of(gates, QUICK.stages[0], 5, ids, real)
    assert terms["trust"] > 0
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "llama4_text", "jamba"])
def test_gates_see_what_capture_records_with_padding_too(family):
    model = tiny(family)
    ids = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(2))
    real = torch.ones_like(ids, dtype=torch.bool)
    real[0, 5:] = False
    with torch.no_grad(), record(model, probs=True, teacher_force=True) as recorder:
        model(ids, attention_mask=real.long(), use_cache=False)
    with torch.no_grad():
        _, routings = Gates(model).run(ids, real, reference=True)
    trace = recorder.trace()
    assert trace.moe_layers == len(routings)
    for index, layer in enumerate(routings):
        chosen = np.sort(layer.experts[real].numpy(), axis=1)
        np.testing.assert_array_equal(chosen, np.sort(trace.decisions(index).experts, axis=1))
        np.testing.assert_allclose(layer.logp[real].exp().numpy(), trace.source.probs(index), atol=1e-3)
        assert torch.equal(layer.logp, layer.reference)


@pytest.mark.parametrize(("family", "changed"), [("mixtral", {"num_experts_per_tok": 1}), ("olmoe", {})])
def test_reuse_and_loss_are_those_of_each_text_alone(family, changed):
    import remoe_sim

    model = tiny(family, **changed)
    rows = [list(range(3, 3 + length)) for length in (2, 9, 4, 7)]
    gates = Gates(model)
    together = evaluate(gates, rows, 3, precision(QUICK, model))
    with record(model, teacher_force=True) as recorder, torch.no_grad():
        losses = [model(torch.tensor([row]), labels=torch.tensor([row])).loss.item() * (len(row) - 1) for row in rows]
    assert together.loss == pytest.approx(sum(losses) / sum(len(row) - 1 for row in rows), rel=1e-5)
    assert together.reuse == pytest.approx(remoe_sim.info(recorder.trace()).reuse_rate, rel=1e-9)


def test_the_frozen_part_of_the_checkpoint_is_the_originals_bit_by_bit(folder, tuned):
    before, after = loaded(folder).state_dict(), loaded(tuned.output).state_dict()
    gates = load_file(f"{tuned.output}/finetune/gates.safetensors")
    assert list(before) == list(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(gates) == {f"model.layers.{layer}.mlp.gate.weight" for layer in (1, 2)}
    assert all(torch.equal(after[name], value) for name, value in gates.items())
    assert (tuned.gates, tuned.layers) == (2 * 8 * 32, 2)


def test_plain_transformers_routes_as_the_tuned_model_did(folder, tuned, tmp_path):
    model = loaded(folder)
    model.load_state_dict(load_file(f"{tuned.output}/finetune/gates.safetensors"), strict=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned.output)
    traces = [capture(one, TEXTS, tokenizer=tokenizer, teacher_force=True) for one in (model, loaded(tuned.output))]
    np.testing.assert_array_equal(as_table(traces[0]), as_table(traces[1]))
    with torch.no_grad():
        evaluated = evaluate(Gates(loaded(tuned.output)), held_out(tokenizer), 2, precision(QUICK, model))
    assert (evaluated.loss, evaluated.reuse) == (tuned.tuned.loss, tuned.tuned.reuse)
    original = capture(folder, TEXTS, teacher_force=True)
    assert not np.array_equal(as_table(original), as_table(traces[0]))


@pytest.mark.parametrize("family", ["deepseek_v2", "qwen2_moe"])
def test_the_classes_of_the_paper_by_its_recipe(family, tmp_path):
    """Tuned, loaded by plain Transformers, captured: the classes of DeepSeek-V2-Lite and of Qwen1.5-MoE."""
    folder, paper = save_tiny(tmp_path / "model", family), read_recipe("paper")
    short = replace(paper.stages[0], steps=4, warm_up=1, learning_rate=0.02)
    recipe = replace(paper, stages=(short,), length=12, accumulate=2, evaluate_every=2, band=1.0)
    found = run(folder, TEXTS, tmp_path / "tuned", recipe=recipe)
    before, model = loaded(folder).state_dict(), loaded(found.output)
    assert type(model).__module__.startswith(f"transformers.models.{family}.")
    changed = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert changed == set(load_file(f"{found.output}/finetune/gates.safetensors"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(found.output)
    evaluated = evaluate(Gates(model), held_out(tokenizer), 1, precision(recipe, model))
    assert (evaluated.loss, evaluated.reuse) == (found.tuned.loss, found.tuned.reuse)
    traces = [capture(one, TEXTS, teacher_force=True) for one in (folder, found.output)]
    assert traces[0].model.experts == traces[1].model.experts == (8, 8)
    assert not np.array_equal(as_table(traces[0]), as_table(traces[1]))


def held_out(tokenizer):
    return [piece for text in split(read_texts(TEXTS, tokenizer, 12), 0)[1] for piece in text]


def test_the_history_has_every_evaluation_and_reuse_rises(tuned):
    assert [(one.stage, one.step) for one in tuned.history] == [
        ("original", 0), ("first", 2), ("first", 4), ("first", 6), ("second", 2), ("second", 3),
    ]  # fmt: skip
    assert tuned.reuse_change > 0
    assert set(tuned.history[1].terms) == set(ALL)
    report = json.loads(Path(tuned.output, "finetune", "report.json").read_text())
    assert (report["schema"], report["tuned"]["reuse"]) == ("remoe-sim.finetune.v1", tuned.tuned.reuse)
    assert "1 of 14 texts were held out" in " ".join(tuned.notes)


@pytest.mark.parametrize("stop", [("first", 3), ("first", 6), ("second", 2)])
def test_what_was_interrupted_goes_on_bit_by_bit(stop, folder, tuned, tmp_path):
    class CutError(Exception):
        pass

    def cut(stage, step, point):
        if (stage.name, step) == stop:
            raise CutError

    with pytest.raises(CutError):
        run(folder, TEXTS, tmp_path / "again", recipe=QUICK, progress=cut)
    assert [path.name for path in tmp_path.iterdir()] == [".again.part"]
    for other, what in (
        ({"seed": 1}, "seed"),
        ({"recipe": replace(QUICK, clip=2.0)}, "recipe"),
    ):
        with pytest.raises(ValueError, match=f"holds a run with another {what}"):
            run(folder, TEXTS, tmp_path / "again", **{"recipe": QUICK, **other})
    seen = []
    again = run(folder, TEXTS, tmp_path / "again", recipe=QUICK, progress=lambda *one: seen.append(one))
    assert again.history == tuned.history
    for name in ("model.safetensors", "finetune/gates.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == Path(tuned.output, name).read_bytes()
    assert 1 < len(seen) < 10
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_a_stage_ends_where_the_loss_leaves_the_band(folder, tmp_path):
    wild, after = (Stage(name, 8, 0.5, {"reuse": Term(50.0)}) for name in ("wild", "after"))
    recipe = replace(QUICK, stages=(*QUICK.stages, wild, after), band=5e-5, evaluate_every=1)
    found = run(folder, TEXTS, tmp_path / "tuned", recipe=recipe, validation=TEXTS)
    ended = [one for one in found.history if not one.within]
    assert [one.stage for one in ended] == ["wild", "after"]
    assert all(one.loss > found.original.loss * (1 + 5e-5) for one in ended)
    assert found.tuned == [one for one in found.history if one.within][-1]
    assert "stage 'wild' ended at step" in " ".join(found.notes)
    model, tokenizer = loaded(found.output), transformers.AutoTokenizer.from_pretrained(found.output)
    pieces = [piece for text in read_texts(TEXTS, tokenizer, 12) for piece in text]
    assert evaluate(Gates(model), pieces, 2, precision(QUICK, model)).loss == found.tuned.loss
    with pytest.raises(ValueError, match=r"left the band of 0.0 % at the first evaluation"):
        run(folder, TEXTS, tmp_path / "none", recipe=replace(recipe, stages=(wild,), band=0.0), validation=TEXTS)
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def test_the_gates_of_a_bfloat16_model_are_tuned_in_float32(tmp_path):
    model = tiny("qwen2_moe").to(torch.bfloat16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(save_tiny(tmp_path / "model"))
    small = replace(QUICK, stages=(Stage("only", 20, 2e-5, {"reuse": Term(1.0)}),), evaluate_every=20)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(model, TEXTS, tmp_path / "tuned", recipe=small, tokenizer=tokenizer)
    after = loaded(tmp_path / "tuned").state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"model.layers.1.mlp.gate.weight", "model.layers.2.mlp.gate.weight"}  # 20 steps of 2e-5 do show
    assert {value.dtype for value in after.values()} == {torch.bfloat16}


def test_accumulation_is_the_mean_of_passes(folder, tmp_path):
    texts = [" ".join(f"w{3 + at + row}" for at in range(8)) for row in range(6)]
    stages = (Stage("only", 3, 0.01, {"language_model": Term(1.0), "trust": Term(1.0)}),)
    found = []
    for batch in (4, 1):
        recipe = replace(QUICK, stages=stages, batch=batch, accumulate=4 // batch)
        run(folder, texts, tmp_path / f"by {batch}", recipe=recipe, validation=texts)
        found.append(load_file(tmp_path / f"by {batch}" / "finetune" / "gates.safetensors"))
    one, other = found
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-5)


def test_each_piece_is_read_once_in_a_round():
    for batch in (1, 3, 5):
        seen = [at for number in range(7) for at in picked(7, batch, number, (0, 1))]
        for start in range(0, len(seen) - 6, 7):
            assert sorted(seen[start : start + 7]) == list(range(7))
    assert picked(50, 50, 0, (0, 0)) != picked(50, 50, 0, (1, 0))


def test_the_command_writes_a_checkpoint_that_capture_reads(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    (tmp_path / "quick.toml").write_text(
        "length = 64\nbatch = 2\naccumulate = 1\nevaluate_every = 2\nband = 0.5\n[[stages]]\nname = 'reuse'\n"
        "steps = 4\nlearning_rate = 0.01\nterms = { language_model = 1.0, reuse = 1.0 }\n"
    )
    arguments = ["finetune", str(folder), "--data", "texts.txt", "--recipe", "quick.toml", "-o", "tuned"]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.exception
    assert result.stdout.startswith("wrote tuned: recipe quick, 512 of ")
    assert "stage reuse, step 4 of 4: loss " in result.stderr
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    trace = capture("tuned", "texts.txt", max_new_tokens=3)
    assert trace.model.name == "tuned"
    assert "is there already" in str(CliRunner().invoke(cli.main, arguments).exception)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"output": "nowhere/tuned"}, "folder 'nowhere' does not exist"),
        ({"recipe": "papers"}, "unknown recipe 'papers'"),
        ({"seed": -1}, "seed -1 is not possible"),
        ({"data": ["w5 w6"]}, "one text cannot be divided"),
        ({"data": ["w5", "w6", "w7"]}, "the texts to train on have no text of two tokens"),
        ({"validation": ["w5"]}, "the texts for validation have no text of two tokens"),
        ({"downstream": TEXTS}, "no stage of recipe 'quick' reads downstream texts"),
        ({"device": "abacus"}, "device 'abacus' is not here"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(changed, sentence, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=sentence) as error:
        run(**{"model": folder, "data": TEXTS, "output": "tuned", "recipe": QUICK, **changed})
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_two_runs_do_not_make_the_same_folder(folder, tmp_path):
    other = f"import remoe_sim.finetune as f; f.run({str(folder)!r}, {TEXTS!r}, {str(tmp_path / 'tuned')!r})"
    said = []

    def meanwhile(*_):
        if not said:
            done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
            said.append(done.stderr.splitlines()[-1])

    run(folder, TEXTS, tmp_path / "tuned", recipe=QUICK, progress=meanwhile)
    (line,) = said
    assert line.startswith("ValueError: ")
    assert line.endswith("tuned' is being made by another run; wait until that is done, or give another folder")
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]
    assert (tmp_path / "tuned" / "config.json").exists()


def test_models_without_gates_to_tune_are_refused(tmp_path):
    model = tiny("mixtral")
    with pytest.raises(ValueError, match="a loaded model needs its tokenizer"):
        run(model, TEXTS, tmp_path / "tuned", recipe=QUICK)
    gate = model.model.layers[1].mlp.gate
    gate.weight = torch.nn.Parameter(gate.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="is stored as int8; give a model that is not quantised"):
        Gates(model)
