"""Fixed sets of experts: static and static-oracle, against their twin, in closed form, and beside pinned experts."""

from unittest.mock import patch

import hypothesis.strategies as st
from hypothesis import given

import remoe_sim
from tests.oracle import naive, naive_keys
from tests.oracle.naive import DECODE, Row
from tests.oracle.oracle import assert_equal, expected
from tests.support.fixed_sets import FIXED, members
from tests.support.replays import replay, replays
from tests.support.strategies import CHOICES, Shape, examples, most_used, token_rows, trace_of


@st.composite
def trained(draw, **shape):
    case, arguments, limit = draw(replays(**shape))
    return case, arguments | {"admission": "bypass"}, limit, draw(token_rows(case.shape, 6))


@examples(100)
@given(trained())
def test_a_fixed_set_equals_its_twin(drawn):
    case, arguments, limit, training = drawn
    if replay(case, "lru", arguments, limit) is None:
        return
    grouping = {name: value for name, value in arguments.items() if name not in ("scope", "admission")}
    rankings = {"static": most_used(training), "static-oracle": naive_keys.reuses(case.rows, **grouping)}
    report = remoe_sim.replay(
        case.trace, policy=FIXED, preload=case.preload, train=trace_of(training, case.shape), **arguments, **limit
    )
    for result in report:
        twin = naive_keys.static(members(rankings[result.policy], case, arguments["scope"], **limit))
        with patch.dict(naive.STACK, {result.policy: twin}):
            assert_equal(result, expected(case, result.policy, arguments, **limit))


@examples(60)
@given(trained(preload=False, layers=2, large=False))
def test_no_fixed_set_has_more_hits_than_the_stationary_optimum(drawn):
    case, arguments, limit, training = drawn
    arguments = arguments | {"warmup": 0, "scope": "layer"}
    if replay(case, "lru", arguments, limit) is None:
        return
    train = trace_of(training, case.shape)
    report = remoe_sim.replay(case.trace, policy=(*FIXED, "belady"), train=train, **arguments, **limit)
    assert report["belady"].misses <= report["static-oracle"].misses <= report["static"].misses


def test_the_hits_of_a_fixed_set_are_the_uses_of_the_best_minus_one_each():
    ids = [0, 0, 1, 3, 1, 2, 1, 0, 3, 3, 3]  # uses: 3, 3, 1, 4
    shape = Shape((5,), (1,), None)
    trace = trace_of([Row(0, i, i, DECODE, [[expert]]) for i, expert in enumerate(ids)], shape)
    frame = remoe_sim.curve(trace, policy=FIXED, admission="bypass", train=trace)
    for name in FIXED:
        assert frame[(frame["policy"] == name) & (frame["layer"] == "all")]["hits"].tolist() == [3, 5, 7, 7, 7]
    tight = remoe_sim.replay(trace, cache=1, policy="static-oracle", admission="bypass")["static-oracle"]
    assert (tight.hits, tight.evictions) == (3, 0)  # nothing but expert 3 ever entered, though there was room


def test_pinned_experts_take_no_place_that_others_could_start_with_or_stay_in():
    ids = [0, 0, 0, 1, 1, 2, 1, 0, 3]
    trace = trace_of([Row(0, i, i, DECODE, [[expert]]) for i, expert in enumerate(ids)], Shape((5,), (1,), None))
    given = {"cache": 2, "admission": "bypass", "pin": {1: [0]}}
    for scope in CHOICES["scope"]:
        for name in FIXED:  # expert 1 is the best of those that are not pinned
            report = remoe_sim.replay(trace, policy=name, train=trace, scope=scope, **given)
            assert (report[name].hits, report[name].evictions) == (4 + 2, 0)
        report = remoe_sim.replay(trace, policy="lfu", preload=trace, scope=scope, **given)
        assert report["lfu"].hits == 4 + 3
