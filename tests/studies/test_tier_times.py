"""Times of a device above a host: without a host those of a replay, never more with one, and what is refused."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from tests.support.data import DEMO
from tests.support.strategies import choices, examples
from tests.support.timed import planned

DEVICE = "rtx-3090"


@given(planned(), st.integers(0, 6), st.sampled_from(("none", "layer")), choices("scope", "admission"))
@examples(25)
def test_without_a_host_times_are_those_of_a_replay(traces, cache, overlap, settings):
    trace = traces[0]
    run = {"device": DEVICE, "overlap": overlap, **settings}
    bare = remoe_sim.tiers(trace, cache, host_cache=0, relation="independent", **run)[0]
    replayed = remoe_sim.replay(trace, cache, policy="lru", misses_from="storage", **run)["lru"]
    assert (bare.timed.times.seconds == replayed.timed.times.seconds).all()
    hosted = remoe_sim.tiers(trace, cache, host_cache="all", relation="independent", **run)[0]
    assert (hosted.timed.times.seconds <= bare.timed.times.seconds * (1 + 1e-9)).all()
    for result in (bare, hosted):
        reads, counts, sizes = result.timed.reads, result.counts, np.array(trace.model.expert_bytes)
        assert reads.far.sum() == counts.storage_reads
        assert reads.near.sum() == counts.host_hits
        assert (reads.far * sizes).sum() == counts.storage_to_host_bytes


def test_json_has_the_times_of_each_result():
    report = remoe_sim.tiers(DEMO, 8, host_cache=200, relation="inclusive,exclusive", device=DEVICE, lanes=2)
    inclusive, exclusive = (one["times"] for one in report.to_dict()["results"])
    assert exclusive["tpot_ms"]["mean"] < inclusive["tpot_ms"]["mean"]
    assert (inclusive["device"], inclusive["lanes"]) == (DEVICE, 2)
    assert sum(inclusive["parts_ms"].values()) == pytest.approx(inclusive["tpot_ms"]["mean"])
    assert remoe_sim.tiers(DEMO, 8, host_cache=200).to_dict()["results"][0]["times"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"device": "oneplus-15r"}, "no link from host memory"),
        ({"device": "rtx-4090", "storage": "abacus"}, "unknown storage"),
        ({"device": DEVICE, "overlap": "prefetch"}, "overlap none or layer"),
        ({"device": DEVICE, "order": "sequential"}, "--order set"),
        ({"overlap": "none"}, "--device"),
        ({"overlap": "layer"}, "--device"),
    ],
)
def test_what_is_not_possible_is_said_in_a_sentence(arguments, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        remoe_sim.tiers(DEMO, 8, host_cache=200, **arguments)
