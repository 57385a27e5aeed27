"""The synthetic trace of the tests is what its script makes."""

import numpy as np

import remoe_sim
from tests.support import demo_trace
from tests.support.data import DEMO


def test_it_is_what_its_script_makes():
    made, kept = demo_trace.make(), remoe_sim.read_trace(DEMO)
    assert (made.model, made.layer_numbers, made.notes, made.origin) == (
        kept.model, kept.layer_numbers, kept.notes, kept.origin,
    )  # fmt: skip
    for name in ("request", "position", "step", "phase"):
        np.testing.assert_array_equal(getattr(made, name), getattr(kept, name))
    for index in range(made.moe_layers):
        np.testing.assert_array_equal(made.decisions(index).experts, kept.decisions(index).experts)


def test_policies_differ_on_it():
    results = remoe_sim.replay(DEMO, cache=8)
    assert 0.35 < results["lru"].reuse_rate < 0.45
    assert results["lru"].gap_to_belady > 0.1
