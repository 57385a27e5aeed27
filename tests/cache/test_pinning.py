"""Pinned experts against the oracle: what they leave of a cache serves what they leave of the lookups."""

import hypothesis.strategies as st
import naive
import numpy as np
from hypothesis import assume, given
from naive import DECODE, PREFILL, Row, interleaved
from oracle import POLICIES
from strategies import CHOICES, POOL, Shape, cases, choices, examples, trace_of

import remoe_sim


@st.composite
def pinnings(draw):
    """A case, arguments, pinned entries, and how many entries the cache holds beside them."""
    case, arguments = draw(cases(large=False)), draw(choices(*CHOICES))
    rows = [row for row in case.rows if arguments["phase"] in ("all", row.phase)]
    assume(not (arguments["reset"] == "request" and interleaved(rows)))
    entries = [(layer, expert) for layer, most in enumerate(case.shape.experts) for expert in range(min(most, POOL))]
    pinned = draw(st.lists(st.sampled_from(entries), max_size=6, unique=True))
    return case, arguments, frozenset(pinned), draw(st.integers(0, 8)), draw(st.booleans())


@examples(80)
@given(pinnings())
def test_pinned_experts(drawn):
    assert_pinned(drawn)


def assert_pinned(drawn):
    """Every count equals the oracle's; the policies."""
    case, arguments, pinned, free, by_bytes = drawn
    layers = range(len(case.shape.top_k))
    sizes = case.shape.sizes or (1,) * len(layers)
    held = sum(sizes[layer] for layer, _ in pinned)
    taken = [sum(layer == index for layer, _ in pinned) for index in layers]
    if arguments["scope"] == "layer":
        limit = {"cache": max(taken) + free}
        left, sized = [(limit["cache"] - n) * size for n, size in zip(taken, sizes, strict=True)], case.shape.sizes
    elif by_bytes and case.shape.sizes:
        limit, left, sized = {"budget": held + free}, free, sizes
    else:
        limit, left, sized = {"cache": len(pinned) + free}, free, None

    pin = {case.trace.layer_numbers[index]: [expert for layer, expert in pinned if layer == index] for index in layers}
    report = remoe_sim.replay(case.trace, policy=POLICIES, preload=case.preload, pin=pin, **arguments, **limit)

    preload = [entry for entry in case.entries if entry not in pinned]
    grouping = {name: arguments[name] for name in ("order", "reset", "phase", "warmup")}
    always = [
        event.kind[entry] for event in naive.events(case.rows, **grouping) for entry in event.entries if entry in pinned
    ]
    for result in report:
        theirs = naive.replay(
            case.rows, result.policy, limit=left, sizes=sized, preload=preload, pinned=pinned, **arguments
        )
        for phase in (PREFILL, DECODE):
            mine = getattr(result, phase)
            assert mine.lookups == theirs[phase]["lookups"] + always.count(phase)
            assert mine.hits == theirs[phase]["hits"] + always.count(phase)
        assert (result.cold_misses, result.evictions) == (theirs["cold_misses"], theirs["evictions"])
        if sized and result.lookups:
            assert result.peak_resident_bytes == theirs["peak_resident"] + held
    return POLICIES


def test_ways_to_say_which():
    shape = Shape((4, 5), (1, 1), (2, 3))
    trace = trace_of([Row(0, i, i, DECODE, [[i % 4], [i % 5]]) for i in range(20)], shape)
    for pin in ("1:2,3:0,3:4", {1: [2], 3: [0, 4]}, {3: (4, 0, 4), 1: np.array([2])}):
        result = remoe_sim.replay(trace, 2, policy="lru", pin=pin)["lru"]
        assert result.hits == 5 + 2 * 4
        assert result.peak_resident_bytes == (1 + 1) * 2 + 2 * 3 + 3
    for pin in (None, "", {}):
        assert remoe_sim.replay(trace, 2, policy="lru", pin=pin)["lru"].hits == 0


def test_what_is_held_while_only_pinned_experts_are_wanted():
    """In one cache of all layers: pinned and preloaded experts are there, though no group needs room."""
    shape = Shape((4, 4), (1, 1), (2, 3))
    trace = trace_of([Row(0, i, i, DECODE, [[0], [1]]) for i in range(5)], shape)
    other = trace_of([Row(0, 0, 0, DECODE, [[3], [3]])], shape)
    given = {"budget": 10, "scope": "global", "policy": "lru,fifo", "pin": "1:0,3:1"}
    for result in remoe_sim.replay(trace, **given):
        assert (result.misses, result.peak_resident_bytes) == (0, 2 + 3)
    for result in remoe_sim.replay(trace, preload=other, **given):
        assert (result.misses, result.peak_resident_bytes) == (0, 2 + 3 + 2 + 3)
