"""`ema`, which swaps every few steps, and `hot+lru`, which keeps the experts of a profile, against slow twins."""

from unittest.mock import patch

import hypothesis.strategies as st
import pytest
from hypothesis import given

import remoe_sim
from tests.oracle import naive
from tests.oracle.naive import DECODE, Row
from tests.oracle.naive_keys import Ema
from tests.oracle.oracle import assert_equal, expected
from tests.support.replays import limits
from tests.support.strategies import Shape, cases, choices, examples, most_used, token_rows, trace_of

WITHOUT_ADMISSION = ("scope", "order", "reset", "phase", "warmup")


@st.composite
def situations(draw):
    case = draw(cases().filter(lambda case: case.rows))
    return case, draw(token_rows(case.shape, 6)), draw(choices(*WITHOUT_ADMISSION)), draw(limits(case))


def replayed(case, policy, arguments, limit, train=None):
    """The result, or None where the cache cannot be emptied between requests that interleave."""
    try:
        return remoe_sim.replay(case.trace, policy=policy, preload=case.preload, train=train, **arguments, **limit)[
            policy
        ]
    except remoe_sim.TraceError:
        assert arguments["reset"] == "request"
        return None


@examples(60)
@given(situations(), st.sampled_from([(256.0, 60, 2.0), (2.0, 1, 1.5), (3.0, 2, 0.5)]))
def test_ema_is_its_twin(situation, options):
    case, _, arguments, limit = situation
    half_life, every, hysteresis = options
    twin = type("Twin", (Ema,), {"half_life": half_life, "every": every, "hysteresis": hysteresis})
    name = f"ema:half_life={half_life}:every={every}:hysteresis={hysteresis}"
    arguments = {**arguments, "admission": "bypass"}
    with patch.dict(naive.SLOT, {name: twin}):
        result = replayed(case, name, arguments, limit)
        if result is not None:
            assert_equal(result, expected(case, name, arguments, **limit))


@examples(60)
@given(situations(), st.sampled_from(["mandatory", "bypass"]), st.integers(0, 5))
def test_hot_lru_is_its_twin(situation, admission, hot):
    case, training, arguments, limit = situation
    arguments = {**arguments, "admission": admission}
    used = most_used(training)
    if arguments["scope"] == "global":
        best = used[:hot]
    else:
        best = [entry for i, entry in enumerate(used) if sum(e[0] == entry[0] for e in used[:i]) < hot]

    def key(history, entry):
        return (0, best.index(entry)) if entry in best else (1, -history.last[entry])

    name = f"hot+lru:hot={hot}"
    with patch.dict(naive.STACK, {name: key}):
        result = replayed(case, name, arguments, limit, trace_of(training, case.shape))
        if result is not None:
            assert_equal(result, expected(case, name, arguments, **limit))


def test_without_a_profile_it_is_lru():
    sample = "sample:qwen-original"
    one = remoe_sim.curve(sample, "lru").drop(columns="policy")
    other = remoe_sim.curve(sample, "hot+lru:hot=0", train=sample).drop(columns="policy")
    assert one.equals(other)


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ("ema:every=0", "every=0 of policy 'ema' is not possible; give a whole number from 1"),
        ("ema:half_life=0", "half_life=0.* of policy 'ema' is not possible"),
        ("hot+lru:hot=-1", "hot=-1 of policy 'hot\\+lru' is not possible; give 0 or more"),
        ("class-lru:classes=0", "classes=0 of policy 'class-lru' are not possible; give 1 to 32"),
    ],
)
def test_what_is_not_possible_is_said(policy, sentence):
    with pytest.raises(ValueError, match=sentence):
        remoe_sim.replay("sample:qwen-original", cache=4, policy=policy, admission="bypass")


def test_class_lru_by_hand():
    """Two experts fit. Expert 0 is used in 8 steps, 1 in one; then 2 comes: 1 is younger, but of a lower class."""
    ids = [0] * 8 + [1, 1, 2, 0]
    trace = trace_of([Row(0, i, i, DECODE, [[expert]]) for i, expert in enumerate(ids)], Shape((4,), (1,), None))
    report = remoe_sim.replay(trace, cache=2, policy="class-lru,lru")
    assert [report[name].hits for name in ("class-lru", "lru")] == [7 + 1 + 1, 7 + 1 + 0]
