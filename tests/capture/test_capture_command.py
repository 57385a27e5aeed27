"""The command capture and `remoe_sim.capture.run`, from a folder with a tiny model and its tokenizer."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("transformers")

import remoe_sim
from remoe_sim import cli
from remoe_sim.capture import run
from tests.support.tiny_models import as_table, save_tiny

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-mixtral")


def test_the_command_writes_what_record_sees(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("w5 w6 w7\n\nw8 w9 w10 w11 w12\nw20\n")
    arguments = ["capture", str(folder), "--prompts", "prompts.txt", "--max-new-tokens", "5", "-o", "t.parquet"]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.exception
    assert result.stdout.startswith(
        "wrote t.parquet: 21 tokens (9 prefill, 12 decode), 3 requests, 3 MoE layers, 8 exp"
    )
    one = remoe_sim.read_trace("t.parquet")
    assert (one.model.name, one.origin["format"]) == ("tiny-mixtral", "capture")
    assert one.token_id[:3].tolist() == [5, 6, 7]
    batched = run(folder, "prompts.txt", max_new_tokens=5, batch=2)
    rows = sorted(map(tuple, np.delete(as_table(one), 3, axis=1)))
    assert rows == sorted(map(tuple, np.delete(as_table(batched), 3, axis=1)))
    assert batched.step.max() == 4 + 5
    replayed = CliRunner().invoke(cli.main, ["replay", "t.parquet", "--cache", "4"])
    assert replayed.exit_code == 0, replayed.exception


def test_completions_are_read_under_teacher_forcing_only(folder, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "w5 w6", "completion": " w7 w8 w9"}, {"text": "w10"}]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    trace = run(folder, prompts, teacher_force=True, batch=2, probs=True)
    assert trace.token_id.tolist() == [5, 6, 7, 8, 9, 10]
    assert trace.phase.tolist() == [0, 0, 1, 1, 1, 1]
    assert trace.step.tolist() == [0, 0, 1, 2, 3, 4]
    assert trace.source.probs(0).shape == (6, 8)
    with pytest.raises(ValueError, match=r"prompts\.jsonl, line 1: a completion is read under teacher forcing only"):
        run(folder, prompts)
    prompts.write_text('{"messages": [{"role": "user", "content": "w5"}]}')
    with pytest.raises(ValueError, match="no chat template"):
        run(folder, prompts)


def test_a_model_that_cannot_be_loaded_is_one_sentence(folder, tmp_path):
    for arguments, sentence in (
        ({"model": str(tmp_path / "nothing")}, "nothing' is no folder"),
        ({"model": str(tmp_path)}, "cannot be loaded"),
        ({"device": "abacus"}, "device 'abacus' is not here or unknown; give auto, cpu"),
        ({"prompts": [" "]}, "prompt 0: not one token is in it"),
    ):
        with pytest.raises(ValueError, match=sentence) as error:
            run(**{"model": folder, "prompts": ["w5"], "device": "cpu", **arguments})
        assert "\n" not in str(error.value)
