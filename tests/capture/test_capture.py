"""What capture does before a model runs: prompts, arguments, and packages that are not there."""

import importlib.util

import pytest

import remoe_sim
from remoe_sim import cli
from remoe_sim.capture.inputs import Prompt, read_prompts


def written(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_prompts_are_lines_or_objects_and_empty_lines_are_none(tmp_path):
    lines = written(tmp_path, "p.txt", "one\n\n two \n")
    assert [(one.text, one.where) for one in read_prompts(lines)] == [
        ("one", f"{lines}, line 1"),
        (" two ", f"{lines}, line 3"),
    ]
    objects = written(
        tmp_path,
        "p.jsonl",
        '{"prompt": "one", "completion": "more"}\n\n{"text": "two"}\n'
        '{"messages": [{"role": "user", "content": "three"}]}\n',
    )
    assert read_prompts(objects) == [
        Prompt("one", f"{objects}, line 1", None, "more"),
        Prompt("two", f"{objects}, line 3"),
        Prompt(None, f"{objects}, line 4", [{"role": "user", "content": "three"}]),
    ]
    assert [one.text for one in read_prompts(["a", "b"])] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 1: no JSON"),
        ("[1]", "line 1: no JSON object; expected an object"),
        ('{"question": "why"}', "found question; expected an object"),
        ('{"prompt": 3}', "found prompt; expected"),
        ('{"prompt": "a", "messages": []}', "found prompt, messages; expected"),
        ('{"messages": ["a"]}', "found messages; expected"),
        ('{"prompt": "a", "completion": 1}', "found prompt, completion; expected"),
        ("{}", "found nothing; expected"),
        ("", "holds no prompt"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(line, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        read_prompts(written(tmp_path, "p.jsonl", line))


def test_files_that_are_no_text_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        read_prompts(tmp_path / "p.txt")


def test_without_the_packages_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"'torch' and 'transformers'.*pip install 'remoe-sim\[capture\]'"):
        remoe_sim.capture.run("a-model", ["text"])


def test_gguf_files_need_a_package_of_their_own(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"'llama-cpp-python'.*pip install 'remoe-sim\[llamacpp\]'"):
        remoe_sim.capture.run("a-model.gguf", ["text"])
    with pytest.raises(ValueError, match="a GGUF file has its own tokenizer; leave out tokenizer="):
        remoe_sim.capture.run("a-model.GGUF", ["text"], tokenizer=object())


def test_arguments_are_checked_before_a_model_is_loaded(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="ahead -1 is not possible; give 0 or more"):
        remoe_sim.capture.run("a-model", ["text"], ahead=-1)
    with pytest.raises(ValueError, match="no look-ahead choices of a GGUF file; leave out --ahead"):
        remoe_sim.capture.run("a-model.gguf", ["text"], ahead=1)
    with pytest.raises(ValueError, match="batch 0 is not possible"):
        remoe_sim.capture.run("a-model", ["text"], batch=0)
    with pytest.raises(ValueError, match="needs its tokenizer"):
        remoe_sim.capture.run(object(), ["text"])
    prompts = str(written(tmp_path, "p.txt", "one"))
    monkeypatch.setattr("sys.argv", ["remoe-sim", "capture", "m", "--prompts", prompts, "-o", "/nowhere/t.parquet"])
    with pytest.raises(SystemExit, match="2"):
        cli.run()
    assert "folder '/nowhere' does not exist" in capsys.readouterr().err
