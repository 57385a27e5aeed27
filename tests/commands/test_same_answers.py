"""Command lines over all commands whose answers stay the same, whatever moves inside the package.

`same_answers/lines.txt` has the lines, `same_answers/answers.json` what each answered: its exit code and its JSON,
or the hashes of what it wrote. Floats are compared to ten digits, since processors round the last ones differently.
After a change that is meant, `python -m tests.commands.test_same_answers` writes them again: read the difference.
"""

import json
import os
import re
import shlex
import tempfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli

KEPT = Path(__file__).with_name("same_answers")
LINES = KEPT.joinpath("lines.txt").read_text("utf-8").splitlines()
ANSWERS = KEPT / "answers.json"
FLOAT = re.compile(r"(?<![\w.:-])-?\d+(?:\.\d+(?:[eE][-+]?\d+)?|[eE][-+]?\d+)(?![\w.])")
VARIES = re.compile(r'("(?:version|created|seconds|key)": )("[^"]*"|[\d.]+)')  # a key names sources
MOST = 6000  # characters of an answer that are kept as they are; of longer ones also the hash of all


def ids(seed, stays, tokens=900, layers=4, experts=32, k=4):
    """int64[tokens, layers, k]: experts drawn at random, of which each token keeps some of the one before."""
    rng = np.random.default_rng(seed)
    drawn = np.argsort(rng.random((tokens, layers, experts)) / np.linspace(1, 3, experts), axis=-1)[..., :k]
    for at in range(1, tokens):
        for layer in range(layers):
            if rng.random() < stays:
                kept = drawn[at - 1, layer, : k // 2]
                rest = [e for e in drawn[at, layer] if e not in kept]
                drawn[at, layer] = [*kept, *rest][:k]
    return drawn


def prepare():
    """Write the inputs that the lines name into the current directory."""
    more = {"offsets": np.arange(0, 901, 90), "prompt_lengths": np.full(10, 25), "n_experts": 32}
    for name, seed, stays in (("t", 1, 0.5), ("r", 2, 0.8)):
        decided = ids(seed, stays)
        weights = np.tile(np.float32([0.4, 0.3, 0.2, 0.1]), (*decided.shape[:2], 1))
        np.savez(f"{name}.npz", experts=decided, weights=weights, expert_bytes=147456, name="made", **more)
        remoe_sim.write_trace(remoe_sim.import_trace(f"{name}.npz"), f"{name}.parquet")
    Path("probs.json").write_text(json.dumps(moelens(ids(3, 0.3, tokens=60, layers=2, experts=16, k=2))), "utf-8")
    remoe_sim.write_trace(remoe_sim.import_trace("probs.json"), "probs.parquet")
    Path("demo.csv").write_text(
        "request,position,phase,layer,expert\n0,0,prefill,0,3\n0,0,prefill,1,2\n0,1,decode,0,3\n0,1,decode,1,0\n"
        "0,2,decode,0,2\n0,2,decode,1,2\n",
        "utf-8",
    )
    runs = "".join(f"olmoe-1b-7b,q4_k_m,{n}0,{n}5\n" for n in range(2, 6))
    Path("runs.csv").write_text(f"model,quant,tpot_ms,MiB_read_per_token\n{runs}", "utf-8")


def moelens(decided):
    """The JSON of MoELens, with probabilities that fall from the first expert of a decision on."""
    rng = np.random.default_rng(4)

    def token(index, layer):
        probs = rng.dirichlet(np.full(16, 0.5))
        top = np.argsort(-probs, kind="stable")[:2]
        return {
            "token_index": index, "top_experts": top.tolist(), "top_weights": probs[top].tolist(),
            "all_probs": probs.tolist(),
        }  # fmt: skip

    layers = [{"layer": 0, "is_dense": True, "tokens": None}]
    for layer in range(decided.shape[1]):
        tokens = [token(index, layer) for index in range(len(decided))]
        layers.append({"layer": 1 + layer, "is_dense": False, "tokens": tokens})
    named = [{"index": index, "text": f" t{index}"} for index in range(len(decided))]
    return {
        "prompt": "p", "model_id": "some/moe", "num_layers": 3, "num_experts": 16, "top_k_experts": 2,
        "dense_layer_indices": [0], "tokens": named, "layers": layers,
    }  # fmt: skip


def rounded(text):
    """The text with ten digits of each float, and without what differs from run to run."""
    return VARIES.sub(r"\1null", FLOAT.sub(lambda found: f"{float(found[0]):.10g}", text))


def answer(line):
    """Exit code and lines of the answer of one command line."""
    result = CliRunner().invoke(cli.main, shlex.split(line))
    if result.exit_code not in (0, 3):
        return {"exit": result.exit_code, "says": result.output}
    lines = rounded(result.stdout).splitlines()
    kept = {"exit": result.exit_code, "hash": short_hash("\n".join(lines)), "lines": shortened(lines)}
    written = re.search(r"-o (\S+)", line)
    if written and written[1].endswith(".parquet") and not line.startswith("sweep"):
        info = CliRunner().invoke(cli.main, ["info", written[1], "--layers", "--json"])
        kept["wrote"] = short_hash(rounded(info.stdout))
    elif written and not line.startswith("sweep"):
        data = Path(written[1]).read_bytes()
        kept["wrote"] = len(data) if written[1].endswith(".npz") else short_hash(data.decode("latin-1"))
    return kept


def short_hash(text):
    """A short hash of a text."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:16]


def shortened(lines):
    """The first lines of an answer, as many as are kept."""
    size, kept = 0, []
    for line in lines:
        size += len(line)
        if size > MOST:
            return [*kept, f"and {len(lines) - len(kept)} lines more"]
        kept.append(line)
    return kept


def answers():
    """Answers of all lines, in a folder of their own."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            prepare()
            return {line: answer(line) for line in LINES}
        finally:
            os.chdir(before)


@pytest.fixture(scope="module")
def given():
    return answers()


@pytest.mark.once
@pytest.mark.parametrize("line", LINES)
def test_a_command_line_answers_as_before(given, line):
    kept = json.loads(ANSWERS.read_text("utf-8"))
    assert given[line] == kept[line]


@pytest.mark.once
def test_every_line_is_one_that_works_and_every_command_with_json_is_there():
    kept = json.loads(ANSWERS.read_text("utf-8"))
    assert list(kept) == LINES
    assert all(one["exit"] in (0, 3) for one in kept.values())


if __name__ == "__main__":
    ANSWERS.write_text(json.dumps(answers(), indent=1, ensure_ascii=False) + "\n", "utf-8")
