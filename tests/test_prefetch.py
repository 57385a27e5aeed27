"""Prefetching against a slow twin, the laws between predictors and a plain replay, and cases worked out by hand."""

import json
from unittest.mock import patch

import hypothesis.strategies as st
import naive_prefetch
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from naive import DECODE, PREFILL, Row
from naive_tiers import Spec
from oracle import POLICIES
from strategies import Shape, cases, choices, examples, token_rows, trace_of
from test_tiers import BOTH_SCOPES, Oldest, drivable, random_trace

import remoe_sim
from remoe_sim import cli, prefetching
from remoe_sim.predictors import PREDICTORS
from remoe_sim.registry import find_policy
from remoe_sim.verbs import recency_of, sortable


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
        if draw(st.booleans()):
            training = draw(token_rows(shape, 8))
            arguments["train"] = trace_of(training, shape)
        else:
            arguments["train_share"] = draw(st.sampled_from((0, 0.3, 0.5, 1)))
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
    """The library's result and what was guessed, or None where a cache cannot be emptied at each request."""
    guessed = {}

    def spy(name, known):
        made = guess(name, known)
        for target, begin, end in zip(made.targets, made.offsets, made.offsets[1:], strict=False):
            guessed[int(target)] = [entry_of(known, entry) for entry in made.entries[begin:end]]
        return made

    guess = prefetching.guess
    try:
        with patch.object(prefetching, "guess", spy):
            return remoe_sim.prefetch(case.trace, **arguments)[0], guessed
    except remoe_sim.TraceError as error:
        if "cannot be emptied at each request" not in str(error):
            raise
        return None


def entry_of(known, entry):
    """(layer, expert) of an entry of all layers."""
    starts = known.stream.layer_starts
    layer = max(index for index, start in enumerate(starts) if start <= entry)
    return layer, int(entry - starts[layer])


@examples(300)
@given(situations())
def test_every_count_equals_the_twin(drawn):
    case, spec, training, arguments = drawn
    done = run(case, arguments)
    if done is not None:
        result, guessed = done
        names = ("admission", "phase", "warmup", "reset", "cap", "train_share")
        theirs = naive_prefetch.prefetch(
            case.rows, spec, arguments["predictor"], arguments["depth"], case.shape.top_k, sizes=case.shape.sizes,
            most=arguments["guesses"], train=training, named=guessed,
            **{name: arguments[name] for name in names if name in arguments},
        )  # fmt: skip
        assert counts_of(result, case.trace.layer_numbers) == summed(theirs)
        total = result.total
        assert total.named == total.resident + total.prefetched + total.cap_refused + total.room_refused
        assert total.hits == total.hits_resident + total.hits_by_prefetch
        if not arguments["warmup"]:
            assert total.prefetched == total.useful + total.wasted
            assert total.useful == total.hits_by_prefetch


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
    """Over 4000 groups of 4 among 64: the shares are met up to chance, and the same seed makes the same guesses."""
    chance = np.random.default_rng(1)
    rows = [Row(0, i, i, DECODE, [list(map(int, chance.permutation(64)[:4]))]) for i in range(4000)]
    trace = trace_of(rows, Shape((64,), (4,), (1,)))
    for recall, precision in ((1, 1), (0.8, 1), (1, 0.5), (0.3, 0.25), (0, 0.5)):
        noise = {"predictor": "noisy", "recall": recall, "precision": precision}
        one, other, again = (remoe_sim.prefetch(trace, 40, seed=seed, **noise)[0].total for seed in (0, 1, 0))
        assert one.recall == pytest.approx(recall, abs=0.02)
        assert one.precision is None if recall == 0 else one.precision == pytest.approx(precision, abs=0.02)
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
            patched.setattr("remoe_sim.registry.find_policy", lambda name: Oldest() if name == "lru" else known(name))
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


def single(experts, **arguments):
    """One layer, one expert per step, no top-k but what `guesses` says."""
    rows = [Row(0, i, i, DECODE, [[expert]]) for i, expert in enumerate(experts)]
    return remoe_sim.prefetch(trace_of(rows, Shape((4,), (1,), (10,))), **arguments)[0]


def test_a_wrong_guess_is_charged_by_hand():
    """0 is most frequent, so it is loaded once more after 2 has taken its place, and pushes out 1, which is next."""
    result = single((0, 0, 1, 2, 1), cache=2, predictor="frequent")
    assert (result.total.misses, result.without.total.misses) == (4, 3)
    total = result.total
    assert (total.named, total.right, total.resident, total.prefetched) == (4, 1, 3, 1)
    assert (total.useful, total.wrong, total.wasted) == (0, 1, 1)
    assert (total.demand_bytes, total.prefetch_bytes, total.total_bytes, total.wasted_bytes) == (40, 10, 50, 10)
    assert (result.evictions, result.evictions_by_prefetch) == (3, 1)


def test_a_guess_needs_room_beside_the_running_group_by_hand():
    assert single((0, 1, 0, 1), cache=1, predictor="oracle").total.room_refused == 3
    result = single((0, 1, 0, 1), cache=2, predictor="oracle")
    assert (result.total.misses, result.total.useful, result.total.resident) == (1, 1, 2)


def test_a_guess_may_be_used_later_than_meant_by_hand():
    """0 is loaded once more while 2 runs, for a step that wants 2 again, and is used in the next one."""
    result = single((0, 0, 1, 2, 2, 0), cache=2, predictor="frequent")
    total = result.total
    assert (total.misses, result.without.total.misses) == (3, 4)
    assert (total.named, total.right, total.resident, total.prefetched) == (5, 2, 4, 1)
    assert (total.useful, total.wrong, total.wasted) == (1, 1, 0)
    assert (total.hits_resident, total.hits_by_prefetch) == (2, 1)
    assert (result.evictions, result.evictions_by_prefetch) == (2, 1)


def test_guesses_for_the_first_layer_are_issued_in_the_step_before_by_hand():
    """Two layers share a cache of 3 in LRU order; the cap of one expert per step goes to what is issued first."""
    rows = [Row(0, i, i, DECODE, [[first], [second]]) for i, (first, second) in enumerate(((0, 0), (1, 1), (2, 2)))]
    trace = trace_of(rows, Shape((4, 4), (1, 1), (10, 10)))
    result = remoe_sim.prefetch(trace, 3, predictor="oracle", scope="global", cap=10)[0]
    # step 0: (0, 0) misses, (1, 0) is loaded and hits; (0, 1) for the next step is beyond the cap, misses, and so on
    assert [one.misses for one in result.layers.values()] == [3, 0]
    assert [one.prefetched for one in result.layers.values()] == [0, 3]
    assert [one.cap_refused for one in result.layers.values()] == [2, 0]
    deeper = remoe_sim.prefetch(trace, 4, predictor="oracle", scope="global", cap=10, depth=2)[0]
    # two layers ahead is the same layer of the next step: (0, 1) is loaded in step 0, (0, 2) in step 1
    assert [one.misses for one in deeper.layers.values()] == [1, 3]
    assert [one.cap_refused for one in deeper.layers.values()] == [0, 2]


@pytest.mark.parametrize("scope", BOTH_SCOPES)
@pytest.mark.parametrize("tokens", [0, 3])
def test_nothing_to_look_up(scope, tokens):
    shape = Shape((4, 3), (2, 1), (5, 7))
    trace = trace_of([Row(0, i, i, DECODE, [None, [None]]) for i in range(tokens)], shape)
    arguments = {"recall": 1, "precision": 0.5, "train_share": 0.5, "scope": scope}
    for result in remoe_sim.prefetch(trace, 2, predictor=tuple(PREDICTORS), policy=POLICIES, **arguments):
        assert (result.total.lookups, result.total.named, result.total.total_bytes, result.evictions) == (0, 0, 0, 0)
        assert result.total.hit_rate is result.total.recall is result.total.precision is None


def test_what_is_named_in_the_result():
    report = remoe_sim.prefetch("sample:demo", 8, predictor="previous,oracle", policy="lru,fifo", cap="64MiB")
    assert [(one.predictor, one.policy) for one in report] == [
        ("previous", "lru"), ("previous", "fifo"), ("oracle", "lru"), ("oracle", "fifo"),
    ]  # fmt: skip
    answer = json.loads(json.dumps(report.to_dict()))
    assert answer["schema"] == "remoe-sim.prefetch.v1"
    one = answer["results"][2]
    assert (one["depth"], one["cap_bytes"], one["capacity"]) == (1, 64 * 2**20, {"experts_per_layer": 8})
    for name in ("lookups", "hits", "named", "useful", "wrong", "cap_refused", "wasted_bytes", "total_bytes"):
        assert one[name] == one["prefill"][name] + one["decode"][name] == sum(layer[name] for layer in one["layers"])
    alone = remoe_sim.replay("sample:demo", 8, policy="lru")["lru"]
    assert one["without_prefetch"]["misses"] == alone.misses
    assert one["without_prefetch"]["decode"]["demand_bytes"] == alone.decode.bytes_read
    frame, layers = report.to_frame(), report.layer_frame()
    assert frame["decode_hits"].tolist() == [result.decode.hits for result in report]
    assert layers.groupby(["predictor", "policy"])["hits"].sum()["oracle", "lru"] == one["hits"]
    assert "<td>fifo</td>" in report._repr_html_()


def test_the_first_share_is_only_learned_from():
    trace = random_trace(tokens=40)
    whole, half = (remoe_sim.prefetch(trace, 4, predictor="frequent", train_share=share)[0] for share in (None, 0.5))
    assert (whole.total.tokens, half.total.tokens) == (40, 20)
    assert half.total.named == 2 * 3 * 20
    nothing = remoe_sim.prefetch(trace, 4, predictor="transition", train_share=1)[0]
    assert (nothing.total.lookups, nothing.total.named) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"predictor": "oracel"}, "unknown predictor 'oracel'; did you mean 'oracle'"),
        ({"predictor": "oracle,oracle"}, "names one twice"),
        ({"predictor": "transition"}, "give --train other.parquet, or --train-share 0.5"),
        ({"predictor": "noisy"}, "takes --recall and --precision"),
        ({"predictor": "noisy", "recall": 1}, "takes --recall and --precision"),
        ({"recall": 1, "precision": 1}, "takes --recall and --precision"),
        ({"predictor": "noisy", "recall": 1.1, "precision": 1}, "recall '1.1' is not possible"),
        ({"predictor": "noisy", "recall": 1, "precision": 0}, "precision 0 is not possible"),
        ({"depth": 0}, "depth 0 is not possible; give 1 to 3"),
        ({"depth": 4}, "depth 4 is not possible"),
        ({"guesses": -1}, "guesses '-1' is not possible"),
        ({"train_share": 2}, "train share '2' is not possible"),
        ({"train_share": 0.5, "train": random_trace()}, "give one of them"),
        ({"train": random_trace(2)}, "preload a trace of the same model"),
        ({"policy": "static-oracle", "admission": "bypass"}, "policy 'static-oracle' has a replay of its own"),
    ],
)
def test_bad_arguments(arguments, says):
    with pytest.raises(ValueError, match=says):
        remoe_sim.prefetch(random_trace(), 2, **arguments)


def test_sizes_are_needed_for_a_cap_only():
    trace = trace_of([Row(0, i, i, DECODE, [[i]]) for i in range(3)], Shape((4,), (1,), None))
    assert remoe_sim.prefetch(trace, 2)[0].total.total_bytes is None
    with pytest.raises(remoe_sim.TraceError, match="a byte cap needs them"):
        remoe_sim.prefetch(trace, 2, cap=1)
    assert remoe_sim.prefetch(trace, 2, cap=1, expert_bytes=1, predictor="oracle")[0].total.prefetch_bytes == 2


def test_the_command(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ["prefetch", "sample:demo", "--cache", "8", "--predictor", "transition,noisy", "--train-share", "0.5"]
    arguments += ["--recall", "0.8", "--precision", "0.6", "--cap", "64MiB", "--policy", "lru,lfu-forget"]
    done = CliRunner().invoke(cli.main, [*arguments, "--layers"])
    assert done.exit_code == 0, done.output
    assert "prefetch: 1 layer ahead, at most 64.0 MiB per step" in done.output
    assert max(map(len, done.output.splitlines())) <= 80
    assert "…" not in done.output
    answer = json.loads(CliRunner().invoke(cli.main, [*arguments, "--json"]).stdout)
    noise = {"recall": 0.8, "precision": 0.6, "train_share": 0.5, "cap": "64MiB"}
    report = remoe_sim.prefetch("sample:demo", 8, predictor="transition,noisy", policy="lru,lfu-forget", **noise)
    assert answer == report.to_dict()
