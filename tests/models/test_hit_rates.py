"""Hit rates of models without a trace: the known points are met, nothing falls, and others' curves are said."""

import pytest

import remoe_sim
from remoe_sim.models.hit_rates import KnownRates, all_series
from remoe_sim.util.cards import card_names


@pytest.mark.parametrize("name", sorted(set(all_series()) & set(card_names("model"))))
def test_more_cache_never_hits_less(name):
    frame = remoe_sim.hit_rate_curve(name).to_frame()
    assert frame.hit_rate.is_monotonic_increasing
    assert (frame.hit_rate.iloc[0], frame.hit_rate.iloc[-1]) == (0, 1)
    assert (frame.low <= frame.hit_rate).all()
    assert (frame.hit_rate <= frame.high).all()


@pytest.mark.parametrize("name", sorted(all_series()))
def test_a_series_meets_its_points(name):
    for one in all_series()[name]:
        assert list(one.shares) == sorted(set(one.shares))
        for share, rate in zip(one.shares, one.rates, strict=True):
            assert one.at(share) == pytest.approx(max(rate, 1e-4), abs=1e-9)
            assert 0 < share < 1


def test_between_two_points_by_hand():
    one = KnownRates("m", 64, 6, (0.1, 0.4), (1 - 0.9**3, 1 - 0.6**5), "", "measured", "")
    assert one.at(0.2) == pytest.approx(1 - 0.8**4)  # 0.2 is the geometric mean, so the exponent is between 3 and 5
    assert one.at(0.05) == pytest.approx(1 - 0.95**3)
    assert one.at(0.7) == pytest.approx(1 - 0.3 ** (5 * (0.7 / 0.4) ** -0.3))
    assert (one.at(0), one.at(1)) == (0, 1)


def test_the_curve_of_a_recording_is_what_a_replay_says():
    # 206 requests to gpt-oss-20b; LRU at 8 of 32 experts per layer hits 65.71 % there
    said = remoe_sim.hit_rate_curve("gpt-oss-20b").at(0.25)
    assert said.rate == pytest.approx(0.6571, abs=5e-4)
    assert said.low < 0.6 < said.high
    assert "gpt-oss-20b" in said.source


def test_a_model_without_curves_takes_those_of_the_nearest():
    curve = remoe_sim.hit_rate_curve("qwen3-coder-480b-a35b")
    assert not curve.own
    assert {one.model for one in curve.series} & {"qwen3-30b-a3b", "qwen3-235b-a22b"}
    assert curve.source.startswith("no curve of qwen3-coder-480b-a35b; ")
    assert "record a trace" in curve.source
    own = remoe_sim.hit_rate_curve("qwen3-30b-a3b")
    said, known = curve.at(0.25), own.at(0.25)
    assert said.high - said.low > known.high - known.low


def test_what_is_not_possible_is_said():
    curve = remoe_sim.hit_rate_curve("gpt-oss-20b")
    with pytest.raises(ValueError, match=r"^a share of 1\.5 of the experts is not possible"):
        curve.at(1.5)
    with pytest.raises(ValueError, match="unknown policy with known curves 'fifo'"):
        remoe_sim.hit_rate_curve("gpt-oss-20b", "fifo")
