"""Caps of admission: after how many uses, and how many per layer and step, an expert may enter."""

import hypothesis.strategies as st
import pytest
from click.testing import CliRunner
from hypothesis import given

import remoe_sim
from remoe_sim.cli import main
from tests.oracle.oracle import POLICIES, assert_equal, expected
from tests.support.replays import replay, replays
from tests.support.strategies import examples

TRACE = "sample:qwen-original"
ALL = "lru,lfu,belady,fifo,lfu-forget,slru,class-lru"
caps = st.fixed_dictionaries({"admit_after": st.integers(1, 4), "inserts": st.none() | st.integers(0, 4)})


@examples(300)
@given(replays(), caps)
def test_every_count_equals_the_oracle(drawn, caps):
    case, arguments, limit = drawn
    report = replay(case, POLICIES, arguments | caps, limit)
    for result in report or ():
        assert_equal(result, expected(case, result.policy, arguments | caps, **limit))
        assert not (result.optimal and (caps["admit_after"] > 1 or caps["inserts"] is not None))


@examples(60)
@given(replays(large=False))
def test_caps_that_never_bind_are_none(drawn):
    case, arguments, limit = drawn
    plain = replay(case, ALL, arguments, limit)
    capped = replay(case, ALL, arguments | {"inserts": 10**6, "admit_after": 1}, limit)
    for one, other in zip(plain or (), capped or (), strict=True):
        assert (one.prefill, one.decode, one.evictions) == (other.prefill, other.decode, other.evictions), one.policy
        assert one.peak_resident_bytes == other.peak_resident_bytes


def test_what_is_set_before_the_count_stands_in_the_header():
    given = ["replay", TRACE, "--cache", "8", "--warmup", "3", "--pin", "0:1", "--policy", "lru"]
    assert "\nwarm-up 3 decode tokens, pins 0:1\n" in CliRunner().invoke(main, given).stdout
    assert "warm-up" not in CliRunner().invoke(main, ["replay", TRACE, "--cache", "8", "--policy", "lru"]).stdout


def test_nothing_enters_without_inserts():
    report = remoe_sim.replay(TRACE, cache=8, policy=ALL, inserts=0, phase="decode")
    assert {(one.hits, one.evictions) for one in report} == {(0, 0)}


def test_the_nth_use_is_the_first_that_may_enter():
    report = remoe_sim.replay(TRACE, cache=60, policy="lru,belady,fifo", admit_after=3)
    plain = remoe_sim.replay(TRACE, cache=60, policy="lru")["lru"]
    experts = 4 * 32  # all fit, so that each misses three times and not once
    assert plain.misses == experts
    assert {one.misses for one in report} == {3 * experts}


def test_what_is_said_of_caps():
    done = CliRunner().invoke(main, ["replay", TRACE, "--cache", "8", "--inserts", "2", "--phase", "decode"])
    assert "what may enter: at most 2 per layer and step, from use 1 on; other misses are served\n" in done.stdout
    assert "belady is no bound here: it does not know which misses may enter." in done.stdout
    assert "belady*" not in done.stdout
    answer = remoe_sim.replay(TRACE, cache=8, inserts=2, admit_after=2).to_dict()
    assert (answer["inserts"], answer["admit_after"]) == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"admit_after": 0}, "admit-after '0' is not possible; give a whole number that is 1 or more"),
        ({"inserts": "x"}, "inserts 'x' is not possible"),
        ({"inserts": 1, "policy": "static-oracle", "admission": "bypass"}, "cannot drive"),
    ],
)
def test_caps_that_are_not_possible(arguments, message):
    with pytest.raises(ValueError, match=message):
        remoe_sim.replay(TRACE, cache=8, **arguments)


def test_an_engine_with_a_cap_is_replayed_with_it():
    named = ["replay", TRACE, "--cache", "8", "--phase", "decode", "--engine", "llama.cpp-moe-expert-cache"]
    done = CliRunner().invoke(main, named)
    first, rest = done.stdout.split("\n", 1)
    assert first == "engine llama.cpp-moe-expert-cache: scope layer, policy lru, admission mandatory, inserts 2"
    own = ["replay", TRACE, "--cache", "8", "--phase", "decode", "--policy", "lru", "--inserts", "2"]
    assert rest == CliRunner().invoke(main, own).stdout


@pytest.mark.parametrize("caps", [{"admit_after": 2}, {"inserts": 1}, {"admit_after": 3, "inserts": 2}])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_curve_under_caps_is_a_replay_at_each_capacity(caps, scope):
    trace = remoe_sim.read_trace(TRACE).select(requests=range(6))
    limits = {"cache": "0,3,8,32"} if scope == "layer" else {"budget": "2MiB,9MiB"}
    frame = remoe_sim.curve(trace, policy=ALL, scope=scope, **limits, **caps)
    assert frame.attrs["optimal"] == []
    whole = frame[frame.layer == "all"]
    for row in whole.to_dict("records"):
        limit = {"cache" if scope == "layer" else "budget": row["capacity"]}
        result = remoe_sim.replay(trace, policy=row["policy"], scope=scope, **limit, **caps)[0]
        assert (row["lookups"], row["hits"]) == (result.lookups, result.hits), row
    by_policy = {name: group.hits.tolist() for name, group in whole.groupby("policy")}
    plain = remoe_sim.curve(trace, policy="belady", admission="bypass", scope=scope, **limits)
    most = plain[plain.layer == "all"].hits.tolist()  # of a rule that may let in what it likes, so of any under caps
    assert all(hits <= bound for name in by_policy for hits, bound in zip(by_policy[name], most, strict=True))
