"""Comparisons: sums by request against replays of single requests, pairing, the verdict, and the command."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from remoe_sim import cli
from remoe_sim.studies.compare import Requests, adjacent_sums
from remoe_sim.trace import DECODE as DECODE_PHASE
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.support.data import DEMO, SHARED, needs_traces
from tests.support.strategies import Shape, cases, examples, trace_of
from tests.support.timed import with_dense

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = DEMO


def of_requests(trace, ids):
    """The trace of some requests alone."""
    rows = np.flatnonzero(np.isin(trace.request, ids))
    layers = [trace.decisions(index).take(rows) for index in range(trace.moe_layers)]
    columns = {name: getattr(trace, name)[rows] for name in ("request", "position", "step", "phase")}
    return replace(trace, **columns, token_id=None, source=remoe_sim.InMemory(layers))


def streaky(trace, probability, seed=0):
    """Some decode tokens take over the experts of the token before them."""
    rng = np.random.default_rng(seed)
    copies = (rng.random(trace.tokens) < probability) & (trace.phase == DECODE_PHASE)
    copies[1:] &= (trace.phase[:-1] == DECODE_PHASE) & (np.diff(trace.request) == 0)
    source = np.maximum.accumulate(np.where(copies, 0, np.arange(trace.tokens)))
    layers = [trace.decisions(index).take(source) for index in range(trace.moe_layers)]
    return replace(trace, source=remoe_sim.InMemory(layers))


@given(cases(preload=False))
@examples(80)
def test_shared_experts_of_a_request_are_those_of_its_trace(case):
    requests = Requests.of(case.trace)
    shared, wanted = adjacent_sums(requests)
    for place, number in enumerate(requests.ids):
        alone = remoe_sim.reuse(of_requests(case.trace, [number])).iloc[:-1]
        assert shared[:, place].tolist() == alone["shared"].tolist()
        assert wanted[:, place].tolist() == alone["wanted"].tolist()


@given(cases(sized=True, preload=False), st.sampled_from(("layer", "global")), st.integers(0, 4))
@examples(60)
def test_numbers_are_those_of_replays(case, scope, cache):
    trace = with_dense(case.trace)
    mixed = [s for s in np.unique(trace.step) if len(set(trace.phase[trace.step == s])) > 1]
    decoding = np.unique(trace.request[trace.phase == DECODE_PHASE])
    if mixed or not decoding.size or len(set(trace.model.experts)) > 1:
        return
    found = remoe_sim.compare(trace, trace, cache, policy="lru,fifo", scope=scope, device="oneplus-15r", resamples=100)
    try:
        report = remoe_sim.replay(trace, cache, policy="lru,fifo", scope=scope, reset="request", device="oneplus-15r")
    except remoe_sim.TraceError:
        assert found.notes[0].startswith("requests that ran together are replayed one at a time")
        return
    for result in report:
        by = {one.metric: one for one in found.metrics if one.policy == result.policy}
        decode = result.decode
        assert by["hit_rate"].a == pytest.approx(decode.hit_rate) if decode.lookups else by["hit_rate"].a is None
        assert by["misses_per_token"].a == pytest.approx((decode.lookups - decode.hits) / decode.tokens)
        assert by["bytes_read_per_token"].b == pytest.approx(result.bytes_read_per_token)
        assert by["tpot_ms"].b == pytest.approx(result.tpot_ms["mean"])
        assert by["tpot_ms"].difference == 0.0
    assert found.verdict.a == (None if result.reuse_rate is None else pytest.approx(result.reuse_rate))
    frame = remoe_sim.reuse(trace).iloc[:-1]
    for one, rate in zip(found.layers, frame["reuse_rate"], strict=True):
        assert one.a is None if np.isnan(rate) else one.a == pytest.approx(rate)


def test_a_trace_against_itself():
    found = remoe_sim.compare(SAMPLE, SAMPLE)
    assert found.paired
    assert found.difference_shown is False
    assert found.verdict.interval == (0.0, 0.0)
    assert found.requests_needed is None
    assert found.sentence.startswith("No difference shown: reuse is 39.23 % of 56,448 in B and 39.23 % of 56,448 in A")
    assert not any(one.shown for one in found.others)
    assert {next(iter(one.capacity.values())) for one in found.metrics} == {8, 16}


@pytest.mark.once
def test_what_was_raised_is_found():
    trace = remoe_sim.read_trace(SAMPLE)
    found = remoe_sim.compare(trace, streaky(trace, 0.1))
    assert found.paired
    assert found.difference_shown
    assert found.sentence.startswith("B reuses more experts than A: 4")
    assert found.verdict.interval[0] > 0.02
    assert [one.shown for one in found.metrics if one.metric == "hit_rate"] == [True, True]
    back = remoe_sim.compare(streaky(trace, 0.1), trace)
    assert back.sentence.startswith("B reuses fewer experts than A")
    assert back.verdict.difference == -found.verdict.difference


def test_seeds_and_halves():
    trace = remoe_sim.read_trace(SAMPLE)
    ids = np.unique(trace.request)
    a, b = of_requests(trace, ids[::2]), of_requests(trace, ids[1::2])
    found = remoe_sim.compare(a, b)
    assert not found.paired
    assert found.pairing == "unpaired: the traces hold different requests"
    assert found.difference_shown is False
    needed = found.requests_needed
    assert needed["a"] == needed["b"] > 4
    assert f"would take about {needed['a']:,} and {needed['b']:,} requests" in found.sentence
    assert remoe_sim.compare(a, b).to_dict() == found.to_dict()
    assert remoe_sim.compare(a, b, seed=1).verdict.interval != found.verdict.interval
    with pytest.raises(ValueError, match="no request number is in both traces"):
        remoe_sim.compare(a, b, pairing="paired")


SHAPE = Shape((5, 4), (2, 1), (10, 20))


def small(starts, tokens=None, prompt=1):
    """Requests 0, 1, …, each with a prompt of so many tokens and three decode tokens from a start position on."""
    rows, step = [], 0
    for request, start in enumerate(starts):
        for number in range(prompt + 3):
            phase = PREFILL if number < prompt else DECODE
            rows.append(Row(request, start + number, step, phase, [[number % 5, (number + 2) % 5], [0]]))
            step += 1
    trace = trace_of(rows, SHAPE)
    return trace if tokens is None else replace(trace, token_id=np.resize(np.array(tokens, np.int32), trace.tokens))


def test_requests_are_paired_when_their_prompts_are_the_same():
    same = [small([0, 0]), small([0, 0])]
    assert remoe_sim.compare(*same).paired
    assert not remoe_sim.compare(*same, pairing="unpaired").paired
    for other in (small([0, 3]), small([0, 0], prompt=2), small([0, 0, 0])):
        assert not remoe_sim.compare(same[0], other).paired
    assert remoe_sim.compare(same[0], small([0, 0, 0]), pairing="paired").a.requests == 2
    told = small([0, 0], [1, 2, 3, 4])
    assert remoe_sim.compare(told, same[1]).paired
    assert remoe_sim.compare(told, small([0, 0], [1, 9, 9, 9])).paired
    assert not remoe_sim.compare(told, small([0, 0], [7, 2, 3, 4])).paired


def test_one_request_and_other_layers():
    found = remoe_sim.compare(small([0]), small([0]))
    assert found.difference_shown is None
    assert "an interval takes at least 4 requests on each side" in found.sentence
    for count in (2, 3):
        few = remoe_sim.compare(small([0] * count), small([0] * count))
        assert few.difference_shown is None
        assert all(one.interval is None for one in few.others)
    assert remoe_sim.compare(small([0] * 4), small([0] * 4)).difference_shown is False
    assert all(one.interval is None and one.p_adjusted is None for one in found.others)
    one_token = trace_of([Row(0, 0, 0, DECODE, [[0, 1], [0]])], SHAPE)
    found = remoe_sim.compare(one_token, one_token)
    assert found.sentence.startswith("Cannot tell: a trace has no decode token that follows another")
    other = trace_of([Row(r, i, 2 * r + i, DECODE, [[i]]) for r in (0, 1) for i in (0, 1)], Shape((3,), (1,), None))
    found = remoe_sim.compare(small([0, 0]), other)
    assert not found.layers
    assert found.notes == (
        "the traces have different numbers of experts, so a limit is another share of each",
        "the traces have different MoE layers, so layers are not compared one by one",
    )
    assert {one.metric for one in found.metrics} == {"hit_rate", "misses_per_token"}


def test_requests_that_ran_together_are_replayed_one_by_one():
    trace = remoe_sim.read_trace(SAMPLE)
    found = remoe_sim.compare(remoe_sim.batch(trace, 4), trace)
    assert found.paired
    assert found.verdict.difference == 0.0
    assert [one.difference for one in found.metrics] == [0.0] * len(found.metrics)
    assert "replayed one at a time" in found.notes[0]


WRONG = [
    ({"confidence": "1.5"}, "confidence '1.5' is not possible; give a number from 0 to 1"),
    ({"confidence": "0"}, "confidence '0' is not possible; give a number between 0 and 1"),
    ({"resamples": 5}, "resamples '5' is not possible; give a whole number that is 100 or more"),
    ({"pairing": "some"}, "unknown pairing 'some'"),
    ({"policy": "lur"}, "unknown policy 'lur'; did you mean 'lru'"),
    ({"quant": "q4_k_m"}, "model, quant, overlap and what else makes times go with --device"),
    ({"budget": "5 parsecs"}, "'5 parsecs' is not a size"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG)
def test_wrong_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        remoe_sim.compare(SAMPLE, SAMPLE, **arguments)


def test_no_decode_token():
    prompt = trace_of([Row(0, 0, 0, PREFILL, [[0, 1], [0]])], SHAPE)
    with pytest.raises(remoe_sim.TraceError, match="it has no decode token, and decode tokens are what is compared"):
        remoe_sim.compare(prompt, prompt)


@pytest.mark.once
def test_budgets_in_both_scopes():
    for scope in ("layer", "global"):
        found = remoe_sim.compare(SAMPLE, SAMPLE, budget="400MiB", scope=scope)
        report = remoe_sim.replay(SAMPLE, budget="400MiB", scope=scope, reset="request", policy="lru")
        assert found.metrics[0].a == pytest.approx(report["lru"].decode.hit_rate)
        assert found.metrics[0].capacity == {"bytes": 400 * 2**20}


# --- the command


@pytest.mark.once
def test_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trace = remoe_sim.read_trace(SAMPLE)
    remoe_sim.write_trace(trace, "a.parquet")
    remoe_sim.write_trace(streaky(trace, 0.1), "b.parquet")
    shown = CliRunner().invoke(cli.main, ["compare", "a.parquet", "b.parquet", "--cache", "8", "--layers"]).stdout
    assert "B reuses more experts than A" in " ".join(shown.split())
    assert "with so few requests" in shown.lower()
    assert "reuse %, layer 12" in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    done = CliRunner().invoke(cli.main, ["compare", "a.parquet", "b.parquet", "--cache", "8", "--json"])
    said = json.loads(done.stdout)
    assert said["schema"] == "remoe-sim.compare.v1"
    assert said["verdict"]["difference_shown"] is True
    assert said["adjusted_for"] == len(said["metrics"]) + len(said["layers"]) == 3 + 12
    frame = remoe_sim.compare("a.parquet", "b.parquet", cache=8).to_frame()
    assert frame["difference"].tolist() == [
        one["difference"] for one in (said["verdict"], *said["metrics"], *said["layers"])
    ]


@pytest.mark.heavy("numba")  # takes long
@needs_traces
def test_halves_of_a_real_trace_and_a_raised_one():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "compare_power.py", "--splits", "3", "--traces", str(SHARED)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["requests"] == 206
    assert said["points_raised"] == pytest.approx({"synth": 3, "copied": 3}, abs=0.2)
    every = {"synth": 3, "copied": 3}
    assert said["no_difference_shown"] == 3
    assert (said["difference_shown"], said["difference_shown_paired"]) == (every, every)
