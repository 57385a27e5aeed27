"""What a verdict says of how tight a cache is: groups, token cycle, and the experts that a hit rate needs."""

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given

import remoe_sim
from tests.oracle import naive
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.support.strategies import Shape, cases, choices, examples, trace_of
from tests.support.verdicts import questions


@examples(60)
@given(questions(large=False, preload=False))
def test_the_regime_is_group_over_capacity(drawn):
    case, arguments, limit = drawn
    found = remoe_sim.verdict(case.trace, policy="lru", **arguments, **limit)
    layers, sizes = len(case.shape.top_k), case.shape.sizes
    ratios = {"all": [], DECODE: [], PREFILL: []}
    rest = {name: arguments[name] for name in ("order", "phase", "warmup")}
    groups = naive.events(case.rows, **rest)
    if arguments["scope"] == "global":
        groups = [list(of_step) for _, of_step in itertools.groupby(groups, key=lambda group: group.step)]
    else:
        groups = [[group] for group in groups]
    for of_group in groups:
        kind = min((kind for group in of_group for kind in group.kind.values()), key=naive.PRECEDENCE.index)
        layer = of_group[0].layer
        room = limit.get("cache", 0)
        needed = sum(len(group.entries) for group in of_group)
        if arguments["scope"] == "global" and "budget" in limit:
            room = limit["budget"]
            needed = sum(sizes[group.layer] for group in of_group for _ in group.entries)
        elif "budget" in limit:
            room = limit["budget"] // layers // sizes[layer]
        if arguments["scope"] == "layer":
            room = min(room, case.shape.experts[layer])
        if kind in ratios:
            ratios[kind].append((needed, room))
            ratios["all"].append((needed, room))
    for name, pairs in ratios.items():
        one = found.regime[name]
        above = sum(needed > room for needed, room in pairs)
        assert (one["groups"], one["above_one"]) == (len(pairs), above)
        assert one["share_above_one"] == (above / len(pairs) if pairs else None)
        if not pairs or any(room == 0 for _, room in pairs):
            assert one["mean"] is one["p95"] is None
        else:
            values = sorted(needed / room for needed, room in pairs)
            assert one["mean"] == pytest.approx(sum(values) / len(values))
            assert one["p95"] == values[-(-95 * len(values) // 100) - 1]


@examples(30)
@given(cases(preload=False, large=False), choices("scope", "admission", "phase"))
def test_the_experts_that_a_hit_rate_needs(case, arguments):
    found = remoe_sim.verdict(case.trace, cache=3, policy="fifo,lfu", **arguments)
    settings = {name: arguments[name] for name in ("admission", "phase")}
    assert [one["policy"] for one in found.experts_needed] == [found.best.policy, "belady"]
    for one in found.experts_needed:
        frame = remoe_sim.curve(case.trace, policy=one["policy"], **settings)
        frame = frame[frame["layer"] == "all"]
        assert [target["decode_hit_rate"] for target in one["targets"]] == [0.5, 0.8, 0.9, 0.95]
        for percent, target in zip((50, 80, 90, 95), one["targets"], strict=True):
            enough = frame[frame["decode_hits"] * 100 >= percent * frame["decode_lookups"]]
            experts = None if enough.empty or not one["decode_lookups"] else int(enough["capacity"].iloc[0])
            assert target["experts_per_layer"] == experts
            if experts is None or case.shape.sizes is None:
                assert target["bytes"] is None
            else:
                pairs = zip(case.shape.experts, case.shape.sizes, strict=True)
                assert target["bytes"] == sum(min(experts, most) * size for most, size in pairs)


@examples(200)
@given(cases(large=False, sized=True), st.integers(0, 60), choices("phase", "reset", "order", "admission"))
def test_below_the_bound_lru_floods(case, budget, arguments):
    """Nothing hits below token cycle − max (k − 1) · expert_bytes where that is said, whatever the steps are."""
    assume(not (arguments["reset"] == "request" and naive.interleaved(case.rows)))
    given = {**arguments, "budget": budget, "scope": "global", "policy": "lru", "preload": case.preload}
    found = remoe_sim.verdict(case.trace, **given).token_cycle
    pairs = list(zip(case.shape.top_k, case.shape.sizes, strict=True))
    cycle = sum(k * size for k, size in pairs)
    assert (found["unit"], found["token_cycle"], found["limit"]) == ("bytes", cycle, budget)
    rows = [row for row in case.rows if arguments["phase"] in ("all", row.phase)]
    steps = [list(of_step) for _, of_step in itertools.groupby(rows, key=lambda row: row.step)]
    covered = all(
        any(row.decisions[layer] and None not in row.decisions[layer] for row in of_step)
        for of_step in steps
        for layer in range(len(pairs))
    )
    again = arguments["order"] == "sequential" and any(len(of_step) > 1 for of_step in steps)
    if not covered or again or case.entries:
        assert found["floods"] is found["lru_hits_nothing_below"] is None
        return
    assert found["lru_hits_nothing_below"] == cycle - max((k - 1) * size for k, size in pairs)
    assert found["floods"] == (budget < found["lru_hits_nothing_below"])
    if found["floods"]:
        assert remoe_sim.replay(case.trace, **given)["lru"].decode.hits == 0


def test_a_prompt_that_was_not_routed_everywhere_floods_nothing_for_certain():
    """The decode token hits what the prompt used, since nothing of the other layer came between."""
    rows = [Row(0, 0, 0, PREFILL, [[0, 1], None]), Row(0, 1, 1, DECODE, [[0, 1], [2, 3]])]
    trace = trace_of(rows, Shape((4, 4), (2, 2), (10, 10)))
    given = {"budget": 20, "scope": "global", "policy": "lru"}
    assert remoe_sim.replay(trace, **given)["lru"].decode.hits == 2
    found = remoe_sim.verdict(trace, **given)
    assert found.token_cycle["floods"] is found.token_cycle["lru_hits_nothing_below"] is None
    assert "flood" not in found.paragraph


def test_the_limit_beside_the_token_cycle():
    rows = [Row(0, i, i, DECODE, [[0, 1], [2]]) for i in range(3)]
    sized = trace_of(rows, Shape((4, 2 + 2), (2, 1), (10, 30)))
    found = remoe_sim.verdict(sized, cache=3, policy="lru").token_cycle
    assert (found["unit"], found["token_cycle"], found["limit"]) == ("bytes", 50, 3 * 10 + 3 * 30)
    assert found["limit_over_token_cycle"] == 2.4
    found = remoe_sim.verdict(sized, cache=3, policy="lru", scope="global").token_cycle
    assert (found["unit"], found["token_cycle"], found["limit"]) == ("experts", 3, 3)
    unsized = remoe_sim.verdict(trace_of(rows, Shape((4, 4), (2, 1), None)), cache=9, policy="lru")
    assert (unsized.token_cycle["unit"], unsized.token_cycle["limit"]) == ("experts", 8)
    assert unsized.experts_needed[0]["targets"][0]["bytes"] is None
