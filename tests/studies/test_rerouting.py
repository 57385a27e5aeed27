"""Re-routing against its slow twin, by hand, by laws, and on a real capture."""

import math
from dataclasses import replace

import hypothesis.strategies as st
import naive
import numpy as np
import pytest
from data import SHARED, needs_traces
from hypothesis import given
from naive import DECODE, PREFILL, Row
from naive_schedule import reroute
from numba import config
from strategies import Shape, examples, trace_of
from test_scheduling import rows_of

import remoe_sim


@st.composite
def routed(draw, decode_only=False):
    """Rows, probabilities [row][layer] of all experts, and the trace of both, with weights for the chosen ones."""
    layers = draw(st.lists(st.integers(2, 7), min_size=1, max_size=2))
    top_k = [draw(st.integers(1, min(count, 4))) for count in layers]
    sizes = tuple(draw(st.integers(1, 5)) for _ in layers) if draw(st.booleans()) else None
    shape = Shape(tuple(layers), tuple(top_k), sizes)
    kinds = st.tuples(st.sampled_from((0, 1, 1)), st.just(DECODE) if decode_only else PHASE)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, probs, step = [], [], 0
    for position, (ahead, phase) in enumerate(draw(st.lists(kinds, max_size=12))):
        step += ahead
        probs.append([distribution(rng, count) for count in layers])
        decisions = [decision(rng, mine, k) for mine, k in zip(probs[-1], top_k, strict=True)]
        rows.append(Row(0, position, step, phase, decisions))
    return rows, probs, with_probs(rows, probs, shape)


PHASE = st.sampled_from((DECODE, DECODE, PREFILL))


def distribution(rng, experts):
    """Of few values, so that many are equal, and some 0."""
    raw = rng.integers(0, 10, experts) + (rng.permutation(experts) == 0)
    return [float(np.float16(one / raw.sum())) for one in raw]


def decision(rng, probs, k):
    """The k most probable, which a capture need not have in order; sometimes none, sometimes a slot less."""
    ranked = sorted(range(len(probs)), key=lambda expert: (-probs[expert], expert))[:k]
    rare = rng.integers(0, 14)
    if rare < 2:
        return None if rare else [None, *ranked[1:]]
    return ranked[::-1] if rare % 2 else ranked


def with_probs(rows, probs, shape, weights=None):
    trace = trace_of(rows, shape)
    layers = range(len(shape.top_k))
    all_probs = [
        np.array([row[at] for row in probs], np.float16).reshape(len(rows), shape.experts[at]) for at in layers
    ]
    weights = [weights_of(rows, probs, at, k) for at, k in enumerate(shape.top_k)] if weights is None else weights
    all_weights = [np.array(one, np.float32).reshape(len(rows), k) for one, k in zip(weights, shape.top_k, strict=True)]
    return replace(trace, source=remoe_sim.InMemory(trace.source.layers, all_weights, all_probs))


def weights_of(rows, probs, layer, k):
    """Of the slots of each row: the probability of the chosen expert, a little above it so that it is never 0."""
    return [
        [0.0 if e is None else probs[at][layer][e] + 0.125 for e in row.decisions[layer] or [None] * k]
        for at, row in enumerate(rows)
    ]


def in_order(rows, trace):
    """The rows with the slots of each decision by weight, the largest first, and these weights [row][layer]; null slots
    keep their place."""
    layers = [trace.source.weights(index).astype(float).tolist() for index in range(trace.moe_layers)]
    ordered, weights = [], []
    for at, row in enumerate(rows):
        decisions = []
        weights.append([])
        for decision, layer in zip(row.decisions, layers, strict=True):
            slots = decision or [None] * len(layer[at])
            there = [(weight, expert) for expert, weight in zip(slots, layer[at], strict=True) if expert is not None]
            rest = iter(sorted(there, key=lambda slot: -slot[0]))
            pairs = [(0.0, None) if expert is None else next(rest) for expert in slots]
            decisions.append(decision and [expert for _, expert in pairs])
            weights[-1].append([weight for weight, _ in pairs])
        ordered.append(replace(row, decisions=decisions))
    return ordered, weights


RULES = st.sampled_from(
    [("cache-aware", "bias", bias) for bias in (0.0, 0.137, 0.5003, 0.999)]
    + [("max-rank", "max_rank", most) for most in (0, 2, 4, 9)]
    + [("cumulative", "threshold", mass) for mass in (0.0, 0.5003, 0.8517, 1.0)]
    + [("drop", "threshold", share) for share in (0.0, 0.5003, 0.95, 1.37, 9.0)]
)


def counts(rows, trace, cache):
    sizes = trace.model.expert_bytes
    found = naive.replay(rows, "lru", limit=[cache * size for size in sizes or [1] * trace.moe_layers], sizes=sizes)
    return found[DECODE]


@examples(300)
@given(routed(), RULES, st.integers(0, 5), st.integers(0, 2))
def test_every_decision_equals_the_twin(case, rule, cache, keep):
    assert_reroute(case, rule, cache, keep)


def assert_reroute(case, rule, cache, keep):
    """Every decision and every count equals the twin's."""
    rows, probs, trace = case
    rows, weights = in_order(rows, trace)
    method, name, amount = rule
    keep = max(keep, 1) if method == "drop" else keep
    scores = weights if method == "drop" else probs
    expected, changed, lost = reroute(rows, scores, method, amount, keep, cache)
    report = remoe_sim.reroute(trace, cache, method, keep=keep, **{name: amount})
    assert rows_of(report.rerouted) == expected
    assert report.changed_slots == changed
    assert report.lost.tolist() == pytest.approx(lost)
    assert report.decisions == len(lost)
    slots = [e for row in rows if row.phase == DECODE for one in row.decisions for e in one or [] if e is not None]
    assert report.slots == len(slots)
    for result, replayed in ((report.before, rows), (report.after, expected)):
        found = result.decode
        theirs = counts(replayed, trace, cache)
        assert {"lookups": found.lookups, "hits": found.hits, "bytes_read": found.bytes_read} == theirs


@examples(60)
@given(routed(), st.integers(0, 5), st.integers(1, 2))
def test_nothing_changes_at_nothing(case, cache, keep):
    rows, _, trace = case
    rows, _ = in_order(rows, trace)
    for given_ in (
        {"bias": 0},
        {"method": "max-rank", "max_rank": 1},
        {"method": "cumulative", "threshold": 0},
        {"method": "drop", "threshold": 0},
    ):
        report = remoe_sim.reroute(trace, cache, keep=keep, **given_)
        assert rows_of(report.rerouted) == rows
        assert report.changed_slots == 0
        assert not report.lost.any()
        assert report.before.decode == report.after.decode


@examples(60)
@given(routed(decode_only=True), RULES, st.integers(0, 5))
def test_laws(case, rule, cache):
    rows, _, trace = case
    method, name, amount = rule
    report = remoe_sim.reroute(trace, cache, method, **{name: amount})
    assert ((report.lost >= 0) & (report.lost < 1)).all()
    assert report.changed_slots <= report.slots
    for old, new in zip(rows, rows_of(report.rerouted), strict=True):
        assert (old.position, old.step, old.phase) == (new.position, new.step, new.phase)
        for before, after in zip(old.decisions, new.decisions, strict=True):
            if before is not None:
                assert len(after) == len(before)
                some = {expert for expert in after if expert is not None}
                assert bool(some) == any(expert is not None for expert in before)  # at least one is kept
                if method == "drop":
                    assert some <= set(before)
                else:
                    assert len(some) == len({expert for expert in before if expert is not None})


def one_layer(probs, decisions, phases=None, sizes=(10,)):
    """A trace of one layer: its rows, and the trace."""
    phases = phases or [DECODE] * len(probs)
    rows = [Row(0, at, at, phase, [decisions[at]]) for at, phase in enumerate(phases)]
    shape = Shape((len(probs[0]),), (len(decisions[0]),), sizes)
    return with_probs(rows, [[one] for one in probs], shape)


def decisions_of(report):
    return [row.decisions[0] for row in rows_of(report.rerouted)]


def test_cache_prior_by_hand():
    # the range of both tokens is log 8; expert 0 is resident for the second token, which prefers 1 to 0 by log 2
    trace = one_layer([[0.5, 0.25, 0.0625, 0.125], [0.25, 0.5, 0.0625, 0.125]], [[0], [1]])
    assert decisions_of(remoe_sim.reroute(trace, 1, bias=0.33, keep=0)) == [[0], [1]]  # log 8 / 3 = log 2
    report = remoe_sim.reroute(trace, 1, bias=0.34, keep=0)
    assert decisions_of(report) == [[0], [0]]
    assert (report.changed_slots, report.slots, report.changed_share) == (1, 2, 0.5)
    assert report.lost.tolist() == [0, 0.5]
    assert report.lost_mass == {"of": "probability", "mean": 0.25, "p95": pytest.approx(0.475)}
    assert (report.before.decode.hits, report.after.decode.hits) == (0, 1)
    assert (report.before.decode.bytes_read, report.after.decode.bytes_read) == (20, 10)
    assert decisions_of(remoe_sim.reroute(trace, 1, bias=1)) == [[0], [1]]  # keep 1 keeps all of a top-1 model


def test_the_range_is_the_mean_of_all_tokens_so_far():
    wide = [0.96875, 2**-10, 2**-10, 2**-10]
    narrow = [0.3125, 0.375, 0.15625, 0.15625]
    alone = one_layer([narrow, narrow], [[1], [1]])
    after_wide = one_layer([wide, narrow], [[0], [1]])
    bias = 1.5 * math.log(0.375 / 0.3125) / (math.log(0.375 / 0.15625))
    assert decisions_of(remoe_sim.reroute(after_wide, 1, bias=bias / 2, keep=0)) == [[0], [0]]
    assert decisions_of(remoe_sim.reroute(alone, 1, bias=bias / 2, keep=0)) == [[1], [1]]


def test_max_rank_and_cumulative_by_hand():
    first, second = [0.0, 0.0, 0.5, 0.5, 0.0], [0.375, 0.25, 0.1875, 0.125, 0.0625]
    trace = one_layer([first, second], [[2, 3], [0, 1]])
    for most, expected in ((2, [0, 1]), (3, [0, 2]), (4, [0, 2])):
        assert decisions_of(remoe_sim.reroute(trace, 2, "max-rank", max_rank=most)) == [[2, 3], expected]
    assert decisions_of(remoe_sim.reroute(trace, 2, "max-rank", max_rank=4, keep=0))[1] == [2, 3]
    assert decisions_of(remoe_sim.reroute(trace, 2, "max-rank", max_rank=4, keep=2))[1] == [0, 1]
    for mass, expected in ((0.625, [0, 1]), (0.63, [0, 2])):  # 0 and 1 together have 0.625
        assert decisions_of(remoe_sim.reroute(trace, 2, "cumulative", threshold=mass))[1] == expected


def test_drop_by_hand():
    rows = [Row(0, 0, 0, PREFILL, [[0, 1, 2]]), Row(0, 1, 1, DECODE, [[3, 0, 4]]), Row(0, 2, 2, DECODE, [[3, 4, 0]])]
    weights = [[[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.2, 0.15, 0.15]]]
    flat = [[[0.2] * 5]] * 3
    trace = with_probs(rows, flat, Shape((5,), (3,), (10,)), weights)
    report = remoe_sim.reroute(trace, 3, "drop", threshold=0.95)
    # 4 is cold and has 0.1 of 1 < 0.95 / 3; then 0.15 of 0.5 < 0.95 / 3 and still cold, 0 is as light but resident
    assert decisions_of(report) == [[0, 1, 2], [3, 0, None], [3, None, 0]]
    assert report.lost.tolist() == pytest.approx([0.1, 0.3])
    assert report.lost_mass["of"] == "gate weight"
    assert report.rerouted.source.weights(0).tolist() == trace.source.weights(0).tolist()
    all_cold = remoe_sim.reroute(trace, 0, "drop", threshold=100)
    assert decisions_of(all_cold) == [[0, 1, 2], [3, None, None], [3, None, None]]
    no_weights = replace(trace, source=remoe_sim.InMemory(trace.source.layers, None, trace.source.all_probs))
    even = remoe_sim.reroute(no_weights, 3, "drop", threshold=1.1)
    assert decisions_of(even) == [[0, 1, 2], [3, 0, None], [3, None, 0]]  # equal ones: the first stays


def test_tokens_of_a_step_see_the_same_residents():
    probs = [[0.5, 0.25, 0.125, 0.125]] * 2 + [[0.25, 0.5, 0.125, 0.125]] * 2
    trace = one_layer(probs, [[0], [0], [1], [1]])
    together = replace(trace, step=np.array([0, 1, 2, 2], np.int32))
    assert decisions_of(remoe_sim.reroute(together, 1, bias=1, keep=0)) == [[0]] * 4
    first = replace(trace, step=np.array([0, 0, 0, 0], np.int32))
    assert decisions_of(remoe_sim.reroute(first, 1, bias=1, keep=0)) == [[0], [0], [1], [1]]


def test_the_rerouted_trace_is_a_trace_as_any_other(tmp_path):
    rng = np.random.default_rng(3)
    scores = np.exp(2 * rng.standard_normal((40, 16)))
    probs = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float16).astype(float)
    decisions = [sorted(range(16), key=lambda e, at=at: (-probs[at][e], e))[:3] for at in range(40)]
    trace = replace(one_layer(probs.tolist(), decisions), notes="mine")
    report = remoe_sim.reroute(trace, 5, bias=0.25)
    assert report.changed_slots > 0
    assert report.rerouted.source.weights(0) is None
    assert report.rerouted.source.probs(0) is trace.source.probs(0)
    remoe_sim.write_trace(report.rerouted, tmp_path / "rerouted.parquet")
    read = remoe_sim.read_trace(tmp_path / "rerouted.parquet")
    assert rows_of(read) == rows_of(report.rerouted)
    assert read.origin["reroute"] == report.rule
    assert read.notes.startswith("mine; decode tokens re-routed (cache-aware, bias 0.25, keep 1)")
    answer = remoe_sim.replay(read, cache=5, policy="lru,belady")
    assert answer.trace["reroute"] == report.rule
    assert answer["lru"].decode == report.after.decode
    remoe_sim.write_trace(trace, tmp_path / "trace.parquet")
    assert (
        remoe_sim.reroute(tmp_path / "trace.parquet", "5", bias="0.25").to_dict()["after"] == report.to_dict()["after"]
    )
    whole = remoe_sim.reroute(remoe_sim.batch(trace, draft=3), 5, bias=0.25)
    assert whole.rerouted.origin["schedule"]["draft"] == 3


def test_a_source_that_keeps_nothing_is_rerouted_anew_each_time():
    trace = one_layer([[0.5, 0.25, 0.25, 0.0], [0.25, 0.5, 0.25, 0.0]], [[0], [1]])

    class Lazy(remoe_sim.InMemory):
        resident = False

    lazy = replace(trace, source=Lazy(trace.source.layers, trace.source.all_weights, trace.source.all_probs))
    report = remoe_sim.reroute(lazy, 1, bias=1, keep=0)
    assert not report.rerouted.source.resident
    assert report.rerouted.decisions(0).experts is not report.rerouted.decisions(0).experts
    assert decisions_of(report) == [[0], [0]]


@needs_traces
@pytest.mark.skipif(config.DISABLE_JIT, reason="takes minutes where kernels are interpreted")
def test_drop_on_a_real_capture():
    """What BigMoeOnEdge publishes of its rule (docs/expert-dropping.md, replay over the engine's recorded residency of
    about 80 %): at 0.75 it drops 37 % of the reads for 4.4 % of the weight, at 1.0 66 % for 9.5 %. Here what is dropped
    does not enter the cache either, so that more is lost for the same share of reads."""
    trace = remoe_sim.import_trace(SHARED / "bigmoe" / "qwen.route.csv")
    for threshold, reads, lost in ((0.75, (0.37, 0.42), (0.044, 0.05)), (1.0, (0.66, 0.70), (0.095, 0.125))):
        report = remoe_sim.reroute(trace, 32, "drop", threshold=threshold)
        before, after = (one.decode.lookups - one.decode.hits for one in (report.before, report.after))
        assert reads[0] < 1 - after / before < reads[1]
        assert lost[0] < report.lost_mass["mean"] < lost[1]
    with pytest.raises(remoe_sim.TraceError, match="column 'probs_00' is missing"):
        remoe_sim.reroute(trace, 32, bias=0.1)
