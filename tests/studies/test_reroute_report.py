"""The answer of a re-routing, what is not possible, and the command."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

import remoe_sim
from remoe_sim import cli
from tests.support.reroutes import one_layer
from tests.support.schedules import rows_of


def test_what_is_named_in_the_answer():
    trace = one_layer([[0.5, 0.25, 0.125, 0.125], [0.25, 0.5, 0.125, 0.125]], [[0], [1]])
    report = remoe_sim.reroute(trace, 1, bias=1, keep=0)
    answer = report.to_dict()
    assert answer["trace"]["reroute"] is None
    del answer["trace"], answer["lost_mass"]
    counts = {"tokens": 2, "lookups": 2}
    assert answer == {
        "schema": "remoe-sim.reroute.v1", "version": remoe_sim.__version__,
        "method": "cache-aware", "bias": 1, "threshold": None, "max_rank": None,
        "keep": 0, "experts_per_layer": 1, "policy": "lru", "scope": "layer", "admission": "mandatory",
        "open_loop": True, "upper_bound": True, "warning": report.warning, "decisions": 2, "slots": 2,
        "changed_slots": 1, "changed_share": 0.5,
        "before": {**counts, "hits": 0, "hit_rate": 0.0, "misses": 2, "bytes_read": 20, "bytes_read_per_token": 10.0},
        "after": {**counts, "hits": 1, "hit_rate": 0.5, "misses": 1, "bytes_read": 10, "bytes_read_per_token": 5.0},
    }  # fmt: skip
    assert "later tokens are those of the original routing" in report.warning
    frame = report.to_frame()
    assert (frame["before_hits"][0], frame["after_hits"][0], frame["lost_mass_of"][0]) == (0, 1, "probability")
    assert "<table" in report._repr_html_()
    empty = remoe_sim.reroute(replace(trace, phase=np.zeros(2, np.uint8)), 1, bias=1).to_dict()
    assert (empty["changed_share"], empty["lost_mass"]["mean"], empty["after"]["hit_rate"]) == (None, None, None)
    assert remoe_sim.reroute(trace, 1, bias=0, expert_bytes="1KiB").before.decode.bytes_read == 2048


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        ({"bias": 0.1, "method": "cache-awre"}, "unknown method 'cache-awre'; did you mean 'cache-aware'"),
        ({}, "method cache-aware needs bias: the share of the router's range"),
        ({"method": "drop"}, "method drop needs threshold: the share of 1/k"),
        ({"threshold": 0.5}, "threshold is not for method cache-aware, which takes bias"),
        ({"bias": 0.5, "max_rank": 4}, "max_rank is not for method cache-aware"),
        ({"bias": 1.5}, "bias '1.5' is not possible; give a number from 0 to 1"),
        ({"bias": -0.5}, "bias '-0.5' is not possible"),
        ({"method": "drop", "threshold": -1}, "threshold '-1' is not possible; give a number that is 0 or more"),
        ({"method": "drop", "threshold": "inf"}, "threshold 'inf' is not possible"),
        ({"method": "max-rank", "max_rank": 1.5}, "max_rank '1.5' is not possible"),
        ({"method": "drop", "threshold": 1, "keep": 0}, "keep 0 is not possible with method drop"),
        ({"bias": 0.5, "cache": -1}, "cache '-1' is not possible"),
    ],
)
def test_what_is_not_possible(given_, sentence):
    trace = one_layer([[0.5, 0.5]], [[0]])
    with pytest.raises(ValueError, match=sentence.replace("?", r"\?")):
        remoe_sim.reroute(trace, **{"cache": 1, **given_})


def test_what_a_trace_lacks_or_has_wrong():
    good = one_layer([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]], [[0], [1]])
    layers, weights, probs = good.source.layers, good.source.all_weights, good.source.all_probs

    def refused(source, sentence, **given_):
        with pytest.raises(remoe_sim.TraceError, match=sentence):
            remoe_sim.reroute(replace(good, source=source, path="x.parquet"), 1, **given_)

    drop = {"method": "drop", "threshold": 1}
    bare = remoe_sim.InMemory(layers)
    refused(bare, "x.parquet: column 'probs_01' is missing; method cache-aware needs", bias=0.5)
    refused(bare, "x.parquet: column 'weights_01' is missing; method drop needs the gate weights", **drop)
    refused(remoe_sim.InMemory(layers, None, [probs[0][:, :2]]), r"column 'probs_01' has shape \(2, 2\), not", bias=0.5)
    for wrong in (-0.5, np.nan, np.inf):
        broken = probs[0].copy()
        broken[1, 2] = wrong
        refused(remoe_sim.InMemory(layers, None, [broken]), "row 1, column 'probs_01'", bias=0.5)
        heavy = weights[0].copy()
        heavy[1, 0] = wrong
        refused(remoe_sim.InMemory(layers, [heavy]), "row 1, column 'weights_01': weights or prob", **drop)
    refused(remoe_sim.InMemory(layers, [0 * weights[0]]), "row 0, column 'weights_01'", **drop)
    refused(remoe_sim.InMemory(layers, None, [0 * probs[0]]), "row 0, column 'probs_01'", bias=0.5)
    swapped = remoe_sim.InMemory(layers, None, [probs[0][:, [1, 0, 2]]])
    refused(swapped, "row 1, column 'probs_01': an expert that was not chosen is more probable", bias=0.5)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    trace = one_layer([[0.5, 0.25, 0.125, 0.125], [0.25, 0.5, 0.125, 0.125]], [[0, 1], [1, 0]], sizes=None)
    remoe_sim.write_trace(trace, "probs.parquet")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["remoe-sim", "reroute", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.run()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return call


def test_command(run):
    code, out, err = run("probs.parquet", "--cache", "1", "--method", "drop", "--threshold", "1.2", "-o", "new.parquet")
    assert code == 0
    assert "drop, threshold 1.2, keep 1, LRU, 1 expert per layer" in out
    assert "changed slots: 25.00 % (1 / 4)" in out
    assert "Open loop: later tokens" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "pass --expert-bytes" in err
    assert decisions_in("new.parquet") == [[0, None], [1, 0]]
    code, out, _ = run("probs.parquet", "--cache", "1", "--bias", "0.5", "--expert-bytes", "1MiB", "--json")
    expected = remoe_sim.reroute("probs.parquet", 1, bias=0.5, expert_bytes="1MiB").to_dict()
    assert json.loads(out) == expected
    code, out, err = run("probs.parquet", "--cache", "1")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def decisions_in(path):
    return [row.decisions[0] for row in rows_of(remoe_sim.read_trace(path))]
