"""Routing with probabilities, and the comparison of re-routing with its twin."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest

import remoe_sim
from tests.oracle import naive
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.oracle.naive_schedule import reroute
from tests.support.schedules import rows_of
from tests.support.strategies import Shape, trace_of


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
    + [("cache-prior", "bias", 0.137)]
    + [("substitute", "threshold", share) for share in (0.0, 0.5003, 1.0)]
    + [("cumulative", "threshold", mass) for mass in (0.0, 0.5003, 0.8517, 1.0)]
    + [("drop", "threshold", share) for share in (0.0, 0.5003, 0.95, 1.37, 9.0)]
)


def counts(rows, trace, cache):
    sizes = trace.model.expert_bytes
    found = naive.replay(rows, "lru", limit=[cache * size for size in sizes or [1] * trace.moe_layers], sizes=sizes)
    return found[DECODE]


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


def one_layer(probs, decisions, phases=None, sizes=(10,)):
    """A trace of one layer: its rows, and the trace."""
    phases = phases or [DECODE] * len(probs)
    rows = [Row(0, at, at, phase, [decisions[at]]) for at, phase in enumerate(phases)]
    shape = Shape((len(probs[0]),), (len(decisions[0]),), sizes)
    return with_probs(rows, [[one] for one in probs], shape)
