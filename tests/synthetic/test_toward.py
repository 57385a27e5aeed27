"""A pair in another shape: popularity and reuse change together as they do from an original to what it was tuned to."""

import numpy as np
import pytest
from numba import config

import remoe_sim
from benchmarks.paper.predicted import measured

PAIR = {"like": "sample:deepseek-original", "toward": "sample:deepseek-remoe"}
compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="takes minutes where kernels are interpreted")


@pytest.fixture(scope="module")
def real():
    return [measured(remoe_sim.read_trace(one)) for one in PAIR.values()]


@compiled
@pytest.mark.parametrize("seed", [0, 7])
def test_in_its_own_shape_a_pair_keeps_how_reuse_and_popularity_change(real, seed):
    before = measured(remoe_sim.synth(PAIR["like"], seed=seed))
    after = measured(remoe_sim.synth(**PAIR, seed=seed))
    assert after.reuse / before.reuse == pytest.approx(real[1].reuse / real[0].reuse, rel=0.01)
    assert after.cv / before.cv == pytest.approx(real[1].cv / real[0].cv, rel=0.05)


@compiled
def test_in_another_shape_both_change_in_the_same_direction_and_about_as_far(real):
    shape = {"model": "deepseek-v2-lite", "quant": "q4_k_m", "tokens": 3000}
    before, after = remoe_sim.synth(PAIR["like"], **shape), remoe_sim.synth(**PAIR, **shape)
    assert after.model.experts == (64,) * 26
    assert after.model.expert_bytes == remoe_sim.model("deepseek-v2-lite", "q4_k_m").expert_bytes
    assert np.array_equal(before.request, after.request)
    old, new = measured(before), measured(after)
    assert new.reuse / old.reuse == pytest.approx(real[1].reuse / real[0].reuse, rel=0.03)
    assert new.cv / old.cv == pytest.approx(real[1].cv / real[0].cv, rel=0.1)


@compiled
def test_in_another_shape_lru_misses_of_the_original_are_those_in_the_same_share_of_memory():
    drawn = remoe_sim.synth(PAIR["like"], experts=64, top_k=6, tokens=6000)
    small, large = (
        remoe_sim.replay(one, cache, policy="lru", phase="decode")["lru"].hit_rate
        for one, cache in ((PAIR["like"], 24), (drawn, 48))
    )
    assert large == pytest.approx(small, abs=0.02)


def test_what_is_not_possible_is_said():
    with pytest.raises(ValueError, match="give both"):
        remoe_sim.synth(toward=PAIR["toward"])
    with pytest.raises(ValueError, match="differs from 'like'"):
        remoe_sim.synth("sample:deepseek-original", toward=remoe_sim.synth(tokens=50, layers=2, experts=8, top_k=2))
