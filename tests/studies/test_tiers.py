"""Tiers against a slow twin, and the laws that hold between tiers, relations and a plain replay."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

import remoe_sim
from remoe_sim.studies.tiers import RELATIONS
from tests.oracle.naive import DECODE, Row
from tests.oracle.oracle import POLICIES
from tests.support.hierarchies import BOTH_SCOPES, Oldest, assert_tiers, drivable, hierarchies, printed, random_trace
from tests.support.strategies import Shape, cases, choices, examples, trace_of


@examples(250)
@given(hierarchies())
def test_every_count_equals_the_twin(drawn):
    assert_tiers(drawn)


@st.composite
def settings_of_replay(draw):
    """A case and arguments that tiers and replay share."""
    case = draw(cases(preload=False, layers=3, large=False, most=20))
    return case, draw(choices("scope", "admission", "order", "phase"))


@examples(60)
@given(settings_of_replay(), st.integers(0, 6), st.integers(0, 8))
def test_exclusive_lru_over_lru_is_one_lru_of_both_sizes(drawn, device, host):
    case, arguments = drawn
    both = remoe_sim.replay(case.trace, cache=device + host, policy="lru", **arguments)["lru"]
    rest = {"host_scope": arguments["scope"], "relation": "exclusive"}
    result = remoe_sim.tiers(case.trace, device_cache=device, host_cache=host, **rest, **arguments)[0]
    assert result.counts.device_hits + result.counts.host_hits == both.hits
    assert result.counts.storage_to_host_bytes == both.bytes_read


@examples(60)
@given(settings_of_replay(), st.integers(0, 6), st.sampled_from(POLICIES), st.sampled_from(POLICIES))
def test_a_host_no_larger_than_the_device_adds_nothing_unless_exclusive(drawn, size, above, below):
    case, arguments = drawn
    limits = {"device_cache": size, "host_cache": size, "host_scope": arguments["scope"]}
    result = remoe_sim.tiers(case.trace, **limits, device_policy=above, host_policy=below, **arguments)[0]
    assert result.counts.host_hits == 0


@examples(60)
@given(settings_of_replay(), st.integers(0, 9), st.sampled_from(POLICIES), st.sampled_from(RELATIONS))
def test_without_a_device_the_host_is_the_cache(drawn, size, policy, relation):
    case, arguments = drawn
    policy = "lru" if relation == "exclusive" else policy  # there, who is used enters anew
    alone = remoe_sim.replay(case.trace, cache=size, policy=policy, **arguments)[policy]
    rest = {"host_scope": arguments["scope"], "host_policy": policy, "relation": relation}
    result = remoe_sim.tiers(case.trace, device_cache=0, host_cache=size, **rest, **arguments)[0]
    assert (result.counts.device_hits, result.counts.host_hits) == (0, alone.hits)
    assert (result.device.evictions, result.host.evictions) == (0, alone.evictions)
    assert not result.counts.device_to_host_bytes


@pytest.mark.parametrize("scope", BOTH_SCOPES)
@pytest.mark.parametrize("relation", RELATIONS)
def test_a_policy_in_plain_python_is_driven_like_any_other(monkeypatch, scope, relation):
    trace = random_trace()
    limits = {"device_cache": 3, "host_cache": 14, "scope": scope, "relation": relation}
    known = remoe_sim.tiers(trace, **limits)[0]
    monkeypatch.setattr("remoe_sim.policy.find.find_policy", lambda name: Oldest())
    mine = remoe_sim.tiers(trace, **limits)[0]
    assert mine.counts == known.counts
    assert mine.host.evictions == known.host.evictions


@pytest.mark.parametrize("scope", BOTH_SCOPES)
def test_every_policy_does_on_the_device_what_it_does_alone(scope):
    trace, limit = random_trace(), 4 if scope == "layer" else 11
    pairs = list(drivable())
    assert {("lru", "mandatory"), ("belady", "bypass"), ("fifo", "mandatory")} <= set(pairs)
    for policy, admission in pairs:
        rest = {"scope": scope, "admission": admission}
        result = remoe_sim.tiers(trace, limit, host_cache="all", device_policy=policy, **rest)[0]
        alone = remoe_sim.replay(trace, limit, policy=policy, **rest)[policy]
        assert (result.counts.device_hits, result.device.evictions) == (alone.hits, alone.evictions), policy
        assert result.counts.host_to_device_bytes == alone.bytes_read, policy
        assert (result.counts.storage_reads, result.host.evictions) == (alone.cold_misses, 0), policy
        for relation in RELATIONS:  # and in the host it can be asked for what has to leave
            lower = remoe_sim.tiers(trace, 2, host_cache=9, host_policy=policy, relation=relation, **rest)[0]
            assert 0 <= lower.counts.host_hits <= lower.counts.host_lookups


def test_by_hand():
    """A B C A B A through one place on the device and one in the host, one expert per step."""
    rows = [Row(0, i, i, DECODE, [[expert]]) for i, expert in enumerate((0, 1, 2, 0, 1, 1, 2))]
    trace = trace_of(rows, Shape((3,), (1,), (10,)))
    report = remoe_sim.tiers(trace, 1, host_cache=2, relation=RELATIONS)
    hits = {one.relation: (one.counts.device_hits, one.counts.host_hits) for one in report}
    # inclusive: the host holds the device's one and one more; exclusive: all three; independent: the last two misses
    assert hits == {"inclusive": (1, 0), "exclusive": (1, 3), "independent": (1, 0)}
    moved = {one.relation: one.decode for one in report}
    assert [moved[name].storage_to_host_bytes for name in RELATIONS] == [60, 30, 60]
    assert [moved[name].host_to_device_bytes for name in RELATIONS] == [60, 60, 60]
    assert [moved[name].device_to_host_bytes for name in RELATIONS] == [0, 50, 0]
    assert [one.host.evictions for one in report] == [4, 0, 4]


@pytest.mark.parametrize("scope", BOTH_SCOPES)
@pytest.mark.parametrize("tokens", [0, 3])
def test_nothing_to_look_up(scope, tokens):
    trace = trace_of([Row(0, i, i, DECODE, [None, [None]]) for i in range(tokens)], Shape((4, 3), (2, 1), (5, 7)))
    report = remoe_sim.tiers(trace, 2, host_cache=9, relation=RELATIONS, scope=scope, host_policy=POLICIES)
    for result in report:
        assert result.counts.device_hit_rate is result.counts.host_hit_rate is None
        assert (result.counts.device_lookups, result.counts.storage_to_host_bytes, result.host.evictions) == (0, 0, 0)


def test_what_is_named_in_the_result():
    trace = random_trace()
    report = remoe_sim.tiers(trace, 3, host_budget="50B", host_policy="lru,fifo", relation="exclusive")
    assert [result.host.policy for result in report] == ["lru", "fifo"]
    answer = json.loads(json.dumps(report.to_dict()))
    assert answer["schema"] == "remoe-sim.tiers.v1"
    one = answer["results"][0]
    evictions = remoe_sim.replay(trace, 3, policy="lru")["lru"].evictions
    device = {"policy": "lru", "scope": "layer", "capacity": {"experts_per_layer": 3}, "evictions": evictions}
    assert one["device"] == device
    assert one["host"]["capacity"] == {"bytes": 50}
    for name in ("device_lookups", "host_hits", "storage_reads", "host_to_device_bytes"):
        assert one[name] == one["prefill"][name] + one["decode"][name]
    frame = report.to_frame()
    assert frame["host_policy"].tolist() == ["lru", "fifo"]
    assert frame["decode_host_hits"].tolist() == [result.decode.host_hits for result in report]
    assert "<td>fifo</td>" in report._repr_html_()


def test_bytes_are_unknown_without_sizes():
    trace = trace_of([Row(0, 0, 0, DECODE, [[1]])], Shape((4,), (1,), None))
    assert remoe_sim.tiers(trace, 1, host_cache=1)[0].counts.storage_to_host_bytes is None
    assert remoe_sim.tiers(trace, 1, host_cache=1, expert_bytes=7)[0].counts.storage_to_host_bytes == 7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"device_cache": 2}, "limit the host by one of --host-cache EXPERTS and --host-budget BYTES"),
        ({"device_cache": 2, "device_budget": 9, "host_cache": 2}, "limit the device by one of"),
        ({"device_cache": 1, "scope": "global", "host_cache": 0}, "needs room for 1 expert that"),
        ({"device_cache": 2, "host_cache": 9, "relation": "exclusive,exclusive"}, "names one twice or none; name each"),
        ({"device_cache": 2, "host_cache": 5}, "needs room for 6 experts .* has 5; raise the host's limit"),
        ({"device_cache": 2, "host_budget": 23}, "needs room for 24 bytes .* has 23"),
        ({"device_budget": 36, "host_cache": 5}, "needs room for 9 experts"),
        ({"device_budget": 24, "scope": "global", "host_cache": 2, "host_scope": "layer"}, "needs room for 8 experts"),
        ({"device_cache": 2, "host_cache": "x"}, "host cache 'x' is not possible"),
        ({"device_cache": 2, "host_cache": 9, "relation": "inclusiv"}, "did you mean 'inclusive'"),
        ({"device_cache": 2, "host_cache": 9, "host_scope": "step"}, "unknown host scope 'step'"),
        ({"device_cache": 2, "host_cache": 9, "host_policy": "static"}, "policy 'static' has a replay of its own"),
    ],
)
def test_bad_arguments(arguments, says):
    with pytest.raises(ValueError, match=says):
        remoe_sim.tiers(random_trace(), **arguments)


def test_the_command_leaves_out_bytes_that_are_unknown(tmp_path):
    trace = tmp_path / "trace.parquet"
    remoe_sim.write_trace(trace_of([Row(0, 0, 0, DECODE, [[1]])], Shape((4,), (1,), None)), trace)
    shown = printed("tiers", trace, "--device-cache", "1", "--host-cache", "1")
    assert "1 token, 1 request, 1 MoE layer\ndevice: 1 expert per layer, scope layer\nhost: 1 expert, scope" in shown
    assert "1 decode lookups" in shown
    assert "unknown" not in shown
    guessed = printed("prefetch", trace, "--cache", "1")
    assert "experts/token" in guessed
    assert "unknown" not in guessed


def test_the_command(tmp_path):
    trace = tmp_path / "trace.parquet"
    remoe_sim.write_trace(random_trace(), trace)
    arguments = ("tiers", trace, "--device-cache", "3", "--host-budget", "50B")
    shown = printed(*arguments, "--relation", "inclusive,exclusive")
    assert "/decode token " in shown
    assert "device: 3 experts per layer, scope layer\nhost: 50 B, scope global" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    report = remoe_sim.tiers(trace, 3, host_budget="50B")
    assert json.loads(printed(*arguments, "--json")) == report.to_dict()
