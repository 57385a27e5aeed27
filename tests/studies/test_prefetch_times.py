"""Times of prefetching: what is read is what was counted, perfect guesses never cost time, what is refused."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from tests.support.data import DEMO
from tests.support.strategies import choices, examples
from tests.support.timed import planned

pytestmark = pytest.mark.once  # kernels are tested elsewhere, and interpreted this takes minutes

DEVICES = ("oneplus-15r", "rtx-3090")


@given(
    planned(), st.integers(0, 6), st.integers(1, 3), st.sampled_from(("previous", "oracle")), st.sampled_from(DEVICES),
    choices("scope", "admission"),
)  # fmt: skip
@examples(30)
def test_reads_are_those_that_were_counted(traces, cache, depth, predictor, device, settings):
    trace = traces[0]
    depth = min(depth, trace.moe_layers)
    result = remoe_sim.prefetch(trace, cache, predictor=predictor, depth=depth, device=device, **settings)[0]
    reads, counts, sizes = result.timed.reads, result.total, np.array(trace.model.expert_bytes)
    missed = reads.far + reads.near
    assert (missed.sum(), (missed * sizes).sum()) == (counts.misses, counts.demand_bytes)
    assert (reads.early.sum(), (reads.early * sizes).sum()) == (counts.prefetched, counts.prefetch_bytes)
    assert (reads.used <= reads.early).all()
    assert (reads.used + missed <= result.timed.steps.needed).all()
    assert 0 <= result.late <= reads.used.sum()
    bare = remoe_sim.replay(trace, cache, policy="lru", device=device, **settings)["lru"].timed
    assert (result.without.timed.times.seconds == bare.times.seconds).all()


@given(planned(), st.integers(1, 3), st.sampled_from(DEVICES))
@examples(30)
def test_perfect_guesses_of_the_same_reads_never_cost_time(traces, depth, device):
    """With room for all experts each is read once, guessed or not."""
    trace = traces[0]
    depth = min(depth, trace.moe_layers)
    result = remoe_sim.prefetch(trace, 12, predictor="oracle", depth=depth, device=device)[0]
    bare = result.without
    assert result.total.prefetched + result.total.misses == bare.total.misses
    assert result.timed.times.seconds.sum() <= bare.timed.times.seconds.sum() * (1 + 1e-9)


def test_guesses_that_come_true_save_time_and_wrong_ones_cost_it():
    report = remoe_sim.prefetch(DEMO, 8, predictor="oracle,frequent", device="rtx-3090")
    right, wrong = (one.timed.times.tpot_ms["mean"] for one in report)  # frequent ones are in the cache or not wanted
    bare = report[0].without.timed.times.tpot_ms["mean"]
    assert right < bare < wrong


def test_json_has_times_with_and_without():
    answer = remoe_sim.prefetch(DEMO, 8, predictor="frequent", device="rtx-3090").to_dict()["results"][0]
    times = answer["times"]
    assert times["device"] == "rtx-3090"
    assert 0 < times["late"] <= answer["decode"]["prefetched"]
    sizes = remoe_sim.read_trace(DEMO).model.expert_bytes
    assert min(sizes) * times["late"] < times["late_bytes"] < max(sizes) * times["late"]
    assert sum(times["parts_ms"].values()) == pytest.approx(times["tpot_ms"]["mean"])
    replayed = remoe_sim.replay(DEMO, 8, policy="lru", device="rtx-3090")["lru"]
    assert times["without_prefetch"]["tpot_ms"] == replayed.tpot_ms
    assert remoe_sim.prefetch(DEMO, 8, predictor="previous").to_dict()["results"][0]["times"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"device": "rtx-3090", "misses_from": "cpu"}, "nothing to prefetch"), ({"lanes": 2}, "--device")],
)
def test_what_is_not_possible_is_said_in_a_sentence(arguments, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        remoe_sim.prefetch(DEMO, 8, **arguments)
