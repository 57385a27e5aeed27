"""Prefetching against a slow twin, and the laws between predictors, policies and a plain replay."""

from unittest.mock import patch

import hypothesis.strategies as st
import naive_prefetch
import numpy as np
import pytest
from hypothesis import given
from naive import DECODE, PREFILL, Row
from naive_tiers import Spec
from oracle import POLICIES
from strategies import Shape, cases, choices, examples, token_rows, trace_of
from test_tiers import BOTH_SCOPES, Oldest, drivable, random_trace

import remoe_sim
from remoe_sim.policy.drive import recency_of, sortable
from remoe_sim.policy.find import find_policy
from remoe_sim.studies import prefetch
from remoe_sim.studies.predictors import PREDICTORS
from remoe_sim.studies.prefetch import PrefetchRun


@st.composite
def situations(draw, predictors=tuple(PREDICTORS)):
    """A case, the twin's cache and training rows, and the library's arguments."""
    case = draw(cases(preload=False, layers=3, large=False, most=20))
    shape, layers = case.shape, len(case.shape.top_k)
    arguments = draw(choices("scope", "admission", "phase", "warmup"))
    arguments |= {"reset": draw(st.sampled_from(("never", "never", "request"))), "depth": draw(st.integers(1, layers))}
    arguments |= {"predictor": draw(st.sampled_from(predictors)), "policy": draw(st.sampled_from(POLICIES))}
    arguments["guesses"] = draw(st.sampled_from((None, None, 0, 1, 3, 9)))
    per_layer, in_bytes = arguments["scope"] == "layer", shape.sizes is not None and draw(st.booleans())
    limit = draw(st.integers(0, 40 if in_bytes else 7) | st.integers(0, 16 * layers))
    most = limit // layers if in_bytes and per_layer else limit
    arguments["budget" if in_bytes else "cache"] = limit
    if shape.sizes is not None:
        arguments["cap"] = draw(st.none() | st.integers(0, 12))
    spec = Spec(
        arguments["policy"], [most] * (layers if per_layer else 1), shape.sizes if in_bytes else None, per_layer
    )
    training = None
    if arguments["predictor"] == "noisy":
        arguments |= {"recall": draw(st.sampled_from((0, 0.4, 1))), "precision": draw(st.sampled_from((0.3, 0.8, 1)))}
        arguments["seed"] = draw(st.integers(0, 3))
    if arguments["predictor"] == "transition" or draw(st.integers(0, 3)) == 0:
        if arguments["predictor"] in ("transition", "frequent") and draw(st.booleans()):
            training = draw(token_rows(shape, 8))
            arguments["train"] = trace_of(training, shape)
        else:
            arguments["train_share"] = draw(st.sampled_from((0.3, 0.5, 0.8)))
    return case, spec, training, arguments


def counts_of(result, layer_numbers):
    """A result in the twin's words, both phases and all layers together where the library does not split both."""
    names = [name for name in naive_prefetch.NAMES if name != "by_prefetch"]

    def counts(one):
        return {name: getattr(one, name) for name in names} | {"by_prefetch": one.hits_by_prefetch}

    return {
        **{phase: counts(getattr(result, phase)) for phase in (PREFILL, DECODE)},
        "layers": [counts(result.layers[number]) for number in layer_numbers],
        "evictions": (result.evictions, result.evictions_by_prefetch),
    }


def summed(theirs):
    """The twin's answer: over layers, and over phases."""

    def add(some):
        return {name: sum(one[name] for one in some) for name in naive_prefetch.NAMES}

    return {
        **{phase: add(theirs[phase]) for phase in (PREFILL, DECODE)},
        "layers": [add(both) for both in zip(theirs[PREFILL], theirs[DECODE], strict=True)],
        "evictions": theirs["evictions"],
    }


def run(case, arguments):
    """The library's result, what was guessed and what was read for each group, or None where a cache cannot be emptied
    at each request, or there are too few steps to learn from a share of them."""
    guessed = {}

    def spy(name, known):
        made = guess(name, known)
        for target, begin, end in zip(made.targets, made.offsets, made.offsets[1:], strict=False):
            guessed[int(target)] = [entry_of(known, entry) for entry in made.entries[begin:end]]
        return made

    def watch(self, policy, guesses, *tables):
        missed, came, used = replay(self, policy, guesses, *tables)
        loads = zip(guesses.targets.tolist(), zip(came.tolist(), used.tolist(), strict=True), strict=True)
        reads[:] = missed.tolist(), {target: (some, right) for target, (some, right) in loads if some}
        return missed, came, used

    guess, replay, reads = prefetch.guess, PrefetchRun._replay, []
    try:
        with patch.object(prefetch, "guess", spy), patch.object(PrefetchRun, "_replay", watch):
            result = remoe_sim.prefetch(case.trace, **arguments)[0]
        return result, guessed, tuple(reads)
    except ValueError as error:
        phase = arguments["phase"]
        steps = len({row.step for row in case.rows if phase in ("all", row.phase)})
        few = "train share" in str(error) and steps > 0 and int(arguments["train_share"] * steps) == 0
        if not few and "cannot be emptied at each request" not in str(error):
            raise
        return None


def entry_of(known, entry):
    """(layer, expert) of an entry of all layers."""
    starts = known.stream.layer_starts
    layer = max(index for index, start in enumerate(starts) if start <= entry)
    return layer, int(entry - starts[layer])


@examples(250)
@given(situations())
def test_every_count_equals_the_twin(drawn):
    assert_prefetch(drawn)


def assert_prefetch(drawn):
    """Every count equals the twin's; whether there was anything to compare."""
    case, spec, training, arguments = drawn
    done = run(case, arguments)
    if done is not None:
        result, guessed, reads = done
        names = ("admission", "phase", "warmup", "reset", "cap", "train_share")
        theirs = naive_prefetch.prefetch(
            case.rows, spec, arguments["predictor"], arguments["depth"], case.shape.top_k, sizes=case.shape.sizes,
            most=arguments["guesses"], train=training, named=guessed,
            **{name: arguments[name] for name in names if name in arguments},
        )  # fmt: skip
        assert counts_of(result, case.trace.layer_numbers) == summed(theirs)
        assert reads == theirs["reads"]
        total = result.total
        assert total.named == total.resident + total.prefetched + total.cap_refused + total.room_refused
        assert total.hits == total.hits_resident + total.hits_by_prefetch
        if not arguments["warmup"]:
            assert total.prefetched == total.useful + total.wasted
            assert total.useful == total.hits_by_prefetch
    return done is not None


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
