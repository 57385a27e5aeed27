"""The batch report against the slow twins, by hand, its laws, and the command."""

import json
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import given

import remoe_sim
from remoe_sim import cli
from tests.oracle import naive
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.oracle.naive_schedule import accepted_drafts, distinct, rescheduled, schedule
from tests.oracle.oracle import assert_equal
from tests.support.strategies import Shape, cases, examples, trace_of


@examples(60)
@given(
    cases(preload=False, layers=2, large=False, most=16),
    st.lists(st.integers(1, 5), min_size=1, max_size=2, unique=True),
    st.none() | st.integers(1, 3),
    st.sampled_from((None, 0.6)),
    st.integers(0, 6),
)
def test_every_number_equals_the_twins(case, sizes, chunk, accept, cache):
    draft = 0 if accept is None else 2
    report = remoe_sim.batches(case.trace, sizes, chunk, draft, accept, cache=cache, policy="lru,belady")
    assert [one.batch for one in report] == sizes
    for size in sizes:
        accepted = None if accept is None else accepted_drafts(len(case.rows), draft, accept, 0)
        steps = schedule(case.rows, size, chunk, draft, accepted)
        rows, one = rescheduled(case.rows, steps), report[size]
        groups = distinct(rows)
        decode = [row for row in rows if row.phase == DECODE]
        assert one.steps == len(steps)
        assert (one.groups.tokens, one.groups.steps) == (len(decode), len({row.step for row in decode}))
        assert one.groups.groups == len(groups)
        assert one.groups.distinct == sum(found for _, found in groups.values())
        assert one.groups.uniform == pytest.approx(sum(uniform(case, at, tokens) for at, (tokens, _) in groups.items()))
        full = sum(uniform(case, at, size * (draft + 1)) for at in groups)
        assert one.groups.uniform_full == pytest.approx(full)
        for result in one.results:
            sizes_known = case.shape.sizes
            limit = [cache * byte for byte in sizes_known or [1] * len(case.shape.top_k)]
            assert_equal(result, naive.replay(rows, result.policy, limit=limit, sizes=sizes_known))


def uniform(case, group, tokens):
    experts, k = case.shape.experts[group[1]], case.shape.top_k[group[1]]
    return experts * (1 - (1 - k / experts) ** tokens)


@examples(40)
@given(cases(preload=False, layers=2, large=False))
def test_laws(case):
    report = remoe_sim.batches(case.trace, "1:4", cache=2, policy="lru")
    found = [one.groups.distinct for one in report]
    assert found[0] == max(found)  # a union has no more than its parts
    assert len({one.groups.tokens for one in report}) == 1
    for one in report:
        assert one["lru"].decode.lookups == one.groups.distinct


def two_requests():
    rows = [Row(0, 0, 0, PREFILL, [[5, 6]])]
    rows += [Row(0, at + 1, at + 1, DECODE, [[at, at + 1]]) for at in range(3)]
    rows += [Row(1, at, at + 4, DECODE, [[1, at + 1]]) for at in (2, 3)]
    return trace_of(rows, Shape((8,), (2,), (100,)))


def test_by_hand():
    report = remoe_sim.batches(two_requests(), (1, 2), cache=3, policy="lru")
    # batch 2: {5, 6} alone, then {0, 1} + {1, 3}, {1, 2} + {1, 4}, {2, 3}
    answer = report.to_dict()
    assert {name: value for name, value in answer["batches"][1].items() if name != "results"} == {
        "batch": 2, "steps": 4, "decode_steps": 3, "decode_tokens": 5, "tokens_per_step": 5 / 3, "groups": 3,
        "distinct_experts": 8, "experts_per_group": 8 / 3,
        "uniform_experts_per_group": pytest.approx((2 * 8 * (1 - 0.75**2) + 2) / 3),
        "uniform_experts_per_full_group": pytest.approx(8 * (1 - 0.75**2)), "lookups_per_token": 8 / 5,
    }  # fmt: skip
    result = answer["batches"][1]["results"][0]
    assert (result["decode"]["lookups"], result["decode"]["hits"]) == (8, 2)
    assert result["bytes_read_per_token"] == 600 / 5
    assert answer["schema"] == "remoe-sim.batches.v1"
    assert answer["trace"]["requests"] == 2
    assert answer["trace"]["schedule"] is None
    assert answer["schedule"] == {
        "prefill_chunk": None, "draft": 0, "accept": None, "arrival": "trace", "seed": 0, "upper_bound": False,
    }  # fmt: skip
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer


def test_batch_one_is_the_replay_of_the_trace():
    trace = two_requests()
    report = remoe_sim.batches(trace, 1, cache=3)
    assert report[1].results == remoe_sim.replay(trace, cache=3).results
    values = report[1].groups.to_dict()
    assert values["experts_per_group"] == 2 == pytest.approx(values["uniform_experts_per_group"])


def test_frame_and_html():
    report = remoe_sim.batches(two_requests(), [2, 1, 2], cache=3, policy="lru,fifo")
    frame = report.to_frame()
    assert frame["batch"].tolist() == [2, 2, 1, 1]
    assert frame["policy"].tolist() == ["lru", "fifo"] * 2
    assert frame["hit_rate"].tolist() == [result.decode.hit_rate for one in report for result in one.results]
    assert frame["lookups"].tolist() == [8, 8, 10, 10]
    assert "<table" in report._repr_html_()
    assert len(report) == 2
    with pytest.raises(KeyError):
        report[3]
    with pytest.raises(KeyError):
        report[1]["belady"]


def test_over_nothing_rates_are_missing():
    report = remoe_sim.batches(trace_of([], Shape((4,), (2,), None)), 2, cache=1, policy="lru")
    values = report[2].groups.to_dict()
    assert values["groups"] == values["distinct_experts"] == 0
    for name in ("experts_per_group", "uniform_experts_per_group", "tokens_per_step", "lookups_per_token"):
        assert values[name] is None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"sizes": ()}, "no batch size is given"),
        ({"sizes": "5,3,43:720775"}, "720735 batch sizes are given; give 1 to 1000"),
        ({"sizes": "1,0"}, "batch '0' is not possible; give a whole number that is 1 or more"),
        ({"sizes": "1:99999999999"}, "batch '1:99999999999' is 99999999999 numbers; give a range of at most 1000000"),
        ({"sizes": "two"}, "batch 'two' is not possible"),
        ({"sizes": 1, "accept": 0.5}, "accept 0.5 is about drafts"),
        ({"sizes": 1, "policy": "lry"}, "unknown policy 'lry'; did you mean 'lru'"),
    ],
)
def test_what_is_not_possible(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        remoe_sim.batches(two_requests(), cache=1, **given)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    remoe_sim.write_trace(two_requests(), "trace.parquet")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["remoe-sim", "batches", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.run()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return call


def test_command(run):
    code, out, err = run("trace.parquet", "--batch", "1,2", "--cache", "3", "--policy", "lru,belady")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["2", "3", "1.67", "2.67", "3.00", "3.50", "1.60"] in lines
    assert ["2", "lru", "25.00", "%", "2", "/", "8", "0.1"] in lines
    assert "steps scheduled anew: batch 1/2, arrival trace" in out
    assert max(map(len, out.splitlines())) <= 80
    assert err == ""
    code, out, err = run("trace.parquet", "--batch", "4", "--cache", "3", "--draft", "1", "--json")
    answer = json.loads(out)
    expected = remoe_sim.batches(remoe_sim.read_trace("trace.parquet"), 4, draft=1, cache=3)
    assert answer == expected.to_dict()
    assert answer["schedule"]["upper_bound"]
    assert "the trace has 2 requests" in err


def test_command_without_sizes_of_experts(run, tmp_path):
    trace = trace_of([Row(0, 0, 0, DECODE, [[0, 1]])], Shape((4,), (2,), None))
    remoe_sim.write_trace(trace, "bare.parquet")
    code, out, err = run("bare.parquet", "--batch", "1", "--cache", "3", "--phase", "prefill")
    assert (code, "none" in out, "unknown" in out) == (0, True, True)
    assert "pass --expert-bytes" in err
    code, out, err = run("trace.parquet", "--cache", "3", "--seed", "4")
    assert (code, out) == (2, "")
    assert "a seed without chance" in err
