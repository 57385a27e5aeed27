"""Prefetching against a slow twin, and the laws between predictors, policies and a plain replay."""

import numpy as np
import pytest
from hypothesis import given

import remoe_sim
from remoe_sim.policy.drive import recency_of, sortable
from remoe_sim.policy.find import find_policy
from tests.oracle.naive import DECODE, Row
from tests.oracle.oracle import POLICIES
from tests.support.hierarchies import BOTH_SCOPES, Oldest, drivable, random_trace
from tests.support.prefetches import assert_prefetch, situations
from tests.support.strategies import Shape, examples, trace_of


@examples(250)
@given(situations())
def test_every_count_equals_the_twin(drawn):
    assert_prefetch(drawn)


NOTHING = (
    {"predictor": "oracle", "cap": 0},
    {"predictor": "frequent", "guesses": 0},
    {"predictor": "noisy", "recall": 0, "precision": 1},
)


@pytest.mark.parametrize("scope", BOTH_SCOPES)
def test_without_loads_every_policy_does_what_it_does_alone(scope):
    trace, limit = random_trace(), 4 if scope == "layer" else 11
    for policy, admission in drivable():
        rest = {"policy": policy, "scope": scope, "admission": admission}
        alone = remoe_sim.replay(trace, limit, **rest)[policy]
        for arguments in NOTHING:
            result = remoe_sim.prefetch(trace, limit, **arguments, **rest)[0]
            assert (result.total.hits, result.evictions) == (alone.hits, alone.evictions), policy
            assert (result.total.demand_bytes, result.total.prefetch_bytes) == (alone.bytes_read, 0), policy
            assert result.without.total.hits == alone.hits


@pytest.mark.parametrize("scope", BOTH_SCOPES)
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_oracle_misses_only_what_nothing_can_be_issued_for(scope, depth, policy):
    """With room for the running group and all groups that are guessed, whatever the policy."""
    trace = random_trace()
    room = 2 * (depth + 1) if scope == "global" else 4 if depth == 3 else 2
    for reset in ("never", "request"):
        result = remoe_sim.prefetch(
            trace, room, predictor="oracle", depth=depth, policy=policy, scope=scope, reset=reset
        )[0]
        assert result.total.misses == 2 * depth
        assert result.total.wrong == result.total.wasted == result.total.room_refused == 0
        assert [one.misses for one in result.layers.values()] == [2] * depth + [0] * (3 - depth)


def test_more_of_a_perfect_thing_is_bounded_by_the_cap():
    trace = random_trace()
    for cap in (0, 3, 4, 7, 12, 100):
        result = remoe_sim.prefetch(trace, 4, predictor="oracle", cap=cap)[0]
        assert result.total.prefetch_bytes <= cap * 60  # steps
        assert (result.total.cap_refused > 0) == (cap < 24)


def test_noise_is_what_was_asked_for():
    """Over 1500 groups of 4 among 64: the shares are met up to chance, and the same seed makes the same guesses."""
    chance = np.random.default_rng(1)
    rows = [Row(0, i, i, DECODE, [list(map(int, chance.permutation(64)[:4]))]) for i in range(1500)]
    trace = trace_of(rows, Shape((64,), (4,), (1,)))
    for recall, precision in ((1, 1), (0.8, 1), (1, 0.5), (0.3, 0.25), (0, 0.5)):
        noise = {"predictor": "noisy", "recall": recall, "precision": precision}
        one, other, again = (remoe_sim.prefetch(trace, 40, seed=seed, **noise)[0].total for seed in (0, 1, 0))
        assert one.recall == pytest.approx(recall, abs=0.03)
        assert one.precision is None if recall == 0 else one.precision == pytest.approx(precision, abs=0.03)
        assert one == again
        assert (one == other) == (recall == 0 or recall == precision == 1)
    perfect = remoe_sim.prefetch(trace, 40, predictor="oracle")[0].total
    assert remoe_sim.prefetch(trace, 40, predictor="noisy", recall=1, precision=1)[0].total == perfect


def test_a_policy_in_plain_python_is_driven_like_any_other(monkeypatch):
    trace, known = random_trace(), find_policy
    arguments = {"predictor": "previous,frequent,oracle", "guesses": 3, "cap": 20}
    for scope, limit in (("layer", 4), ("global", 13)):
        lru = remoe_sim.prefetch(trace, limit, scope=scope, **arguments)
        with monkeypatch.context() as patched:
            patched.setattr(
                "remoe_sim.policy.find.find_policy", lambda name: Oldest() if name == "lru" else known(name)
            )
            mine = remoe_sim.prefetch(trace, limit, scope=scope, **arguments)
        assert [one.total for one in mine] == [one.total for one in lru]
        assert [one.evictions for one in mine] == [one.evictions for one in lru]


def test_which_policies_order_by_recency_alone():
    by_recency = {"lru": 1, "mru": -1, "lru-k:k=1": 1, "lfu": 0, "belady": 0, "lru-k": 0, "fifo": 0}
    assert {name: recency_of(find_policy(name)) for name in by_recency} == by_recency


def test_fractions_keep_their_order_as_whole_numbers():
    keys = np.array([-np.inf, -1e300, -2.5, -1e-300, -0.0, 0.0, 1e-300, 1, 2, np.inf])
    assert sortable(keys)[4] == sortable(keys)[5]
    assert (np.diff(sortable(keys)) >= 0).all()
    assert (np.diff(sortable(np.delete(keys, 4))) > 0).all()
