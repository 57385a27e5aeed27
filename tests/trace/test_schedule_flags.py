"""What a schedule says of itself, what is not possible, and the flags of replay and curve."""

import json
import sys

import numpy as np
import pytest

import remoe_sim
from remoe_sim import cli
from tests.support.schedules import requests, rows_of


def test_columns_and_optional_values_follow_their_tokens(tmp_path):
    trace = requests((1, 2), (0, 2))
    layer = trace.source.layers[0]
    weights = np.arange(5, dtype=np.float32)[:, None]
    probs = np.tile(np.arange(5, dtype=np.float16)[:, None], 32)
    source = remoe_sim.InMemory([layer], [weights], [probs])
    trace = remoe_sim.Trace(
        trace.request, trace.position, trace.step, trace.phase, trace.layer_numbers, trace.model, source,
        token_id=np.arange(10, 15, dtype=np.int32), notes="mine", path="x.parquet",
    )  # fmt: skip
    made = remoe_sim.batch(trace, 2)
    assert made.token_id.tolist() == [10, 11, 13, 12, 14]
    assert made.source.weights(0)[:, 0].tolist() == made.source.probs(0)[:, 3].tolist() == [0, 1, 3, 2, 4]
    assert made.source.resident
    assert (
        remoe_sim.batch(requests((1, 1))).source.weights(0) is remoe_sim.batch(requests((1, 1))).source.probs(0) is None
    )
    remoe_sim.write_trace(made, tmp_path / "made.parquet")
    read = remoe_sim.read_trace(tmp_path / "made.parquet")
    assert rows_of(read) == rows_of(made)
    assert read.origin == made.origin
    assert read.notes == made.notes
    assert rows_of(remoe_sim.batch(tmp_path / "made.parquet", 1)) == rows_of(remoe_sim.batch(trace, 1))


def test_what_was_done_is_said():
    trace = requests((2, 3))
    plain = remoe_sim.batch(trace, 4)
    assert plain.origin["schedule"] == {
        "batch": 4, "prefill_chunk": None, "draft": 0, "accept": None, "arrival": "trace", "seed": 0,
        "upper_bound": False,
    }  # fmt: skip
    assert "scheduled anew: continuous batching of 4 requests, arriving in the order of the trace" in plain.notes
    other = remoe_sim.batch(trace, "2", prefill_chunk="8", draft="3", accept="0.75", arrival="random", seed="5")
    assert other.origin["schedule"] == {
        "batch": 2, "prefill_chunk": 8, "draft": 3, "accept": 0.75, "arrival": "random", "seed": 5, "upper_bound": True,
    }  # fmt: skip
    for part in (
        "random order (seed 5)", "chunks of at most 8 tokens", "draft 3", "probability 0.75",
        "rejected drafts' own experts are not in a trace", "an upper bound",
    ):  # fmt: skip
        assert part in other.notes
    assert "all drafts accepted: an upper bound" in remoe_sim.batch(trace, draft=1).notes
    assert "one request at a time" in remoe_sim.batch(trace).notes


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"size": 0}, "batch '0' is not possible; give a whole number that is 1 or more"),
        ({"size": -1}, "batch '-1' is not possible; give a whole number that is 1 or more"),
        ({"size": 1.5}, "batch '1.5' is not possible"),
        ({"prefill_chunk": 0}, "prefill_chunk '0' is not possible"),
        ({"draft": -2}, "draft '-2' is not possible"),
        ({"accept": 0.5}, "accept 0.5 is about drafts, and there are none; give draft, such as 3, as well"),
        ({"draft": 1, "accept": 1.5}, "accept '1.5' is not possible; give a number from 0 to 1"),
        ({"draft": 1, "accept": "often"}, "accept 'often' is not possible; give a number from 0 to 1"),
        ({"draft": 1, "accept": float("nan")}, "accept 'nan' is not possible"),
        ({"arrival": "tracs"}, "unknown arrival 'tracs'; did you mean 'trace'?"),
        ({"seed": "x"}, "seed 'x' is not possible"),
    ],
)
def test_what_is_not_possible(given, sentence):
    with pytest.raises(ValueError, match="^" + sentence.replace("?", r"\?").replace("(", r"\(")):
        remoe_sim.batch(requests((1, 1)), **given)


# --- the flags


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs `remoe-sim` in a folder with a trace; the code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    remoe_sim.write_trace(requests((2, 6), (4, 3), (1, 5)), "trace.parquet")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["remoe-sim", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.run()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return call


FLAGS = (
    "--batch",
    "2",
    "--prefill-chunk",
    "3",
    "--draft",
    "1",
    "--accept",
    "0.5",
    "--arrival",
    "random",
    "--seed",
    "3",
)


def test_flags_of_replay(run):
    made = remoe_sim.batch(remoe_sim.read_trace("trace.parquet"), 2, 3, 1, 0.5, "random", 3)
    code, out, _ = run("replay", "trace.parquet", "--cache", "3", *FLAGS, "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["trace"]["schedule"] == made.origin["schedule"]
    assert answer["results"] == remoe_sim.replay(made, cache=3).to_dict()["results"]
    out = run("replay", "trace.parquet", "--cache", "3", *FLAGS)[1]
    assert "steps scheduled anew: batch 2, prompts in chunks of 3, draft 1, each accepted" in " ".join(out.split())
    plain = run("replay", "trace.parquet", "--cache", "3")[1]
    assert "scheduled" not in plain
    assert json.loads(run("replay", "trace.parquet", "--cache", "3", "--json")[1])["trace"]["schedule"] is None
    out = run("replay", "trace.parquet", "--cache", "3", "--draft", "2")[1]
    assert "batch 1, draft 2, all accepted (upper bound), arrival trace" in " ".join(out.split())


def test_flags_of_curve(run):
    made = remoe_sim.batch(remoe_sim.read_trace("trace.parquet"), 2, 3, 1, 0.5, "random", 3)
    code, out, _ = run("curve", "trace.parquet", "--policy", "lru", "--cache", "1:4", *FLAGS, "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["trace"]["schedule"] == made.origin["schedule"]
    rows = remoe_sim.curve(made, policy="lru", cache="1:4")
    assert [row["hits"] for row in answer["rows"]] == rows["hits"].tolist()
    _, _, err = run("curve", "trace.parquet", "--policy", "lru", "--cache", "1:4", *FLAGS)
    assert "steps scheduled anew: batch 2" in err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--batch", "0"), "batch '0' is not possible"),
        (("--accept", "0.5"), "accept 0.5 is about drafts"),
        (("--seed", "1"), "a seed without chance changes nothing"),
        (("--batch", "2", "--reset", "request"), "--reset never"),
    ],
)
def test_bad_flags(run, flags, sentence):
    code, out, err = run("replay", "trace.parquet", "--cache", "3", *flags)
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1
