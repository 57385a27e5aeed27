"""The short form of `make fuzz`: every target on valid inputs, what fuzzing found once, and some new mutations."""

import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from remoe_sim import TraceError, cli, import_trace
from tests.fuzz import contract, seeds
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS, folder_name

FOUND = Path(__file__).parent / "found"
ROOT = Path(__file__).resolve().parents[2]
MUTATIONS = 40
pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def without_gguf(request):
    if "gguf" in request.node.name:
        pytest.importorskip("gguf")


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_keeps_the_contract(name, tmp_path):
    target = TARGETS[name]
    begin = target.begin(seeds.fresh(tmp_path / "begin"))
    assert begin
    for data in begin:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:  # kernels are compiled and modules imported, which is not what is measured
                target.run(data, tmp_path)
            except ValueError:
                assert name in SOME_REFUSED
    rng = random.Random(name)
    outcomes = [contract.attempt(target, mutated(rng.choice(begin), rng), tmp_path) for _ in range(MUTATIONS)]
    assert any(outcomes)  # some are refused


SOME_REFUSED = {name for name in TARGETS if name.startswith("import")} | {"measured runs", "parsers", "command line"}


@pytest.mark.parametrize("path", sorted(FOUND.rglob("*.bin")), ids=lambda path: f"{path.parent.name} {path.stem}")
def test_what_was_found_once(path, tmp_path):
    target = next(target for name, target in TARGETS.items() if folder_name(name) == path.parent.name)
    target.begin(seeds.fresh(tmp_path / "begin"))
    contract.attempt(target, path.read_bytes(), tmp_path)


CARD = """title = "t"\nrepository = "r"\nstatus = "verified"\nsource = "s"
[shape]\nlayers = 1\nhidden_size = 8\nvocabulary = 9\nexperts = 4\ntop_k = 2\nexpert_intermediate = 8
[[attention]]
"""
CONFIG = b"""{"num_hidden_layers": 2, "moe_intermediate_size": 8, "hidden_size": 8, "vocab_size": 9, "num_experts": 4,
"num_experts_per_tok": 2, "num_attention_heads": 1, "head_dim": 8, "q_lora_rank": 1, "sliding_window": 1, "o_groups": 1,
"""
SMALL = [
    ("import csv", b"request,position,phase,layer,expert\n0,0,decode,0,1\n0,1,de\rcode,x\n"),
    ("import llamacpp", b"1,2\n1,3\n1\r,x\n"),
    ("import csv", b"request,position,phase,layer,expert,step\ra,0,decode,0,1,-1\n"),
    ("config.json", b'{"num_hidden_layers": ' + b"[" * 5000),
    ("config.json", CONFIG + b'"mlp_only_layers": 1}'),
    ("config.json", CONFIG + b'"mlp_only_layers": [[1]]}'),
    ("config.json", CONFIG + b'"o_lora_rank": 1, "compress_ratios": [[4], [4]]}'),
    ("config.json", CONFIG + b'"o_lora_rank": 1, "compress_ratios": [4]}'),
    ("config.json", CONFIG + b'"moe_layers": ["a"]}'),
    ("config.json", CONFIG + b'"num_key_value_heads": 0}'),
    ("model card", CARD.encode() + b'kind = ["gqa"]'),
    ("model card", CARD.encode() + b'kind = "gqa"\nlayers = 3\nheads = 1\nkv_heads = 1\nhead_dim = 8'),
    ("model card", CARD.encode() + b'kind = "gqa"\nheads = 1\nkv_heads = 0\nhead_dim = 8'),
    ("model card", CARD.replace("[[attention]]", "").encode().replace(b"[shape]", b"attention = 3\n[shape]")),
    ("measured runs", b"tpot_ms,model\n5\n"),
    ("prompts", b'{"prompt": ' + b"[" * 5000),
    ("parsers", b"range " + b"0:999999," * 50 + b"1"),
    ("command line", b"batches --batch 5,3,43:720775"),
]


@pytest.mark.parametrize(("name", "data"), SMALL)
def test_what_was_found_once_in_small(name, data, tmp_path):
    assert contract.attempt(TARGETS[name], data, tmp_path) or name == "measured runs"


def test_sentences_are_one_line_whatever_a_file_or_a_user_gives(tmp_path, capsys):
    path = tmp_path / "p.jsonl"
    path.write_text('{"request": 0, "position": 0, "phase": "x\\u001b[31m\\ny", "layer": 0, "experts": [1]}\n')
    with pytest.raises(TraceError) as refused:
        import_trace(path)
    assert "'x\\x1b[31m\\ny', expected prefill or decode" in str(refused.value)
    with pytest.raises(SystemExit):
        cli._stop("'a\nb' is not possible", 2)
    assert capsys.readouterr().err == "remoe-sim: 'a\\nb' is not possible\n"


def test_the_contract_is_held_to(tmp_path):
    def of(function):
        return type("Broken", (), {"run": staticmethod(function)})

    def fails(error):
        def run(data, folder):
            raise error

        return of(run)

    for error in (KeyError("x"), MemoryError(), UnicodeDecodeError("utf-8", b"", 0, 1, "x"), ValueError(" ")):
        with pytest.raises(contract.BrokenError):
            contract.attempt(fails(error), b"", tmp_path)
    assert contract.attempt(fails(ValueError("a sentence")), b"", tmp_path) == "a sentence"
    with pytest.raises(contract.BrokenError, match="MiB more than before"):
        contract.attempt(of(lambda data, folder: bytearray(b"1") * (contract.MOST_BYTES + 2**28)), b"", tmp_path)


@pytest.mark.heavy("atheris")
def test_fuzzing_starts_where_nothing_is_compiled(tmp_path):
    targets = ("prompts", "device card", "sweep file")  # one loads SciPy, one compiles a policy
    place = ("--kept", tmp_path, "--record", tmp_path / "f.json")
    command = [sys.executable, "-m", "tests.fuzz.run", "--seconds", "6", *place]
    done = subprocess.run(
        [*command, *(word for name in targets for word in ("--target", name))], capture_output=True, text=True,
        cwd=ROOT, env={**os.environ, "REMOE_SIM_CACHE_DIR": str(tmp_path / "kernels")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    kept = json.loads((tmp_path / "f.json").read_text())["targets"]
    assert all(kept[name]["edges"] > 10 for name in kept)
    assert set(kept) <= set(targets)  # on a busy machine the time may be over before the turn of all
    assert kept
    assert "0 defects" in done.stdout
