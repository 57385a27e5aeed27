"""Pinned experts against the oracle: what they leave of a cache serves what they leave of the lookups."""

import numpy as np
from hypothesis import given

import remoe_sim
from tests.oracle.naive import DECODE, Row
from tests.support.pinnings import assert_pinned, pinnings
from tests.support.strategies import Shape, examples, trace_of


@examples(80)
@given(pinnings())
def test_pinned_experts(drawn):
    assert_pinned(drawn)


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
