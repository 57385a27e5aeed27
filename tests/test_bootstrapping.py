"""Intervals of differences of ratios: against a slow bootstrap, how often they cover, and what cannot be told."""

import math
from statistics import quantiles

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from remoe_sim.bootstrapping import Ratios, differences
from remoe_sim.comparison import Difference, adjusted


def slow(a, b, paired, resamples, seed):
    """Value, standard error and sorted t of one difference, request by request; a and b are lists of (y, x)."""
    rng = np.random.default_rng(seed)
    size_a, size_b = len(a), len(b)
    drawn_a = rng.multinomial(size_a, [1 / size_a] * size_a, resamples)
    drawn_b = drawn_a if paired else rng.multinomial(size_b, [1 / size_b] * size_b, resamples)

    def ratio(side):
        x = sum(x for _, x in side)
        return sum(y for y, _ in side) / x if x else math.nan

    def residuals(side):
        x = sum(x for _, x in side)
        return [(y - ratio(side) * d) / x if x else math.nan for y, d in side]

    def error(one, two):
        mine, theirs = residuals(one), residuals(two)
        if paired:
            n = len(one)
            return math.sqrt(n / (n - 1) * sum((q - p) ** 2 for p, q in zip(mine, theirs, strict=True)))
        return math.sqrt(sum(len(r) / (len(r) - 1) * sum(e * e for e in r) for r in (mine, theirs)))

    value, found = ratio(b) - ratio(a), []
    for times_a, times_b in zip(drawn_a, drawn_b, strict=True):
        one = [pair for pair, times in zip(a, times_a, strict=True) for _ in range(times)]
        two = [pair for pair, times in zip(b, times_b, strict=True) for _ in range(times)]
        own = error(one, two)
        found.append((ratio(two) - ratio(one) - value) / own if own > 1e-9 else math.nan)
    return value, error(a, b), sorted(t for t in found if not math.isnan(t))


def sides(draw_from, least=2):
    pair = st.tuples(st.integers(0, 20), st.integers(1, 40)).map(lambda p: (min(p), max(p)))
    return draw_from(st.lists(pair, min_size=least, max_size=8))


@given(st.data(), st.booleans())
@examples(60)
def test_against_a_slow_bootstrap(data, paired):
    a = sides(data.draw)
    b = data.draw(st.permutations(a)) if paired else sides(data.draw)
    value, error, t = slow(a, b, paired, 40, 3)
    many = [Ratios(*np.array([list(zip(*side, strict=True))] * 2, float).transpose(1, 0, 2)) for side in (a, b)]
    fast = differences(*many, paired, 40, 3)
    assert fast.value == pytest.approx([value, value])
    assert fast.error == pytest.approx([error, error], abs=1e-9)
    mine = fast.t[1][~np.isnan(fast.t[1])]
    if error > 1e-9:
        near = [one for one in t if abs(one) < 1e4]  # above that the error of a resample is a rounding error
        assert sorted(mine[np.abs(mine) < 1e4])[-len(near) :] == pytest.approx(near, rel=1e-4, abs=1e-6) or len(
            mine
        ) != len(t)


def drawn(rng, count, rate):
    """Requests of lognormal lengths, each with a rate of its own."""
    x = np.ceil(rng.lognormal(5, 1, count))
    own = np.clip(rate + 0.05 * rng.standard_normal(count) + 0.02 * (np.log(x) - 5), 0.01, 0.99)
    return Ratios(rng.binomial(x.astype(int), own)[None].astype(float), x[None])


def test_intervals_cover_and_find():
    covered = found = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        a, b, c = (drawn(rng, 100, rate) for rate in (0.4, 0.4, 0.45))
        low, high = differences(a, b, False, 499, seed).interval(0, 0.05)
        covered += low <= 0 <= high
        found += differences(a, c, False, 499, seed).interval(0, 0.05)[0] > 0
    assert 133 <= covered <= 149  # 142 or 143 of 150 are meant; three standard deviations are 8
    assert found >= 130


def test_paired_intervals_are_narrower_where_requests_are_the_same():
    rng = np.random.default_rng(0)
    a = drawn(rng, 60, 0.4)
    b = Ratios(a.y + rng.binomial(5, 0.5, a.y.shape), a.x)
    widths = [np.diff(differences(a, b, paired, 999, 0).interval(0, 0.05))[0] for paired in (True, False)]
    assert widths[0] < widths[1] / 3


def test_an_interval_leaves_zero_out_when_its_p_value_is_small():
    rng = np.random.default_rng(1)
    for _ in range(40):
        found = differences(drawn(rng, 20, 0.4), drawn(rng, 20, 0.44), False, 999, 1)
        low, high = found.interval(0, 0.05)
        p = found.p_value(0)
        assert (low <= 0 <= high) == (p > 0.05) or abs(p - 0.05) < 0.005


def test_what_cannot_be_told():
    one = Ratios(np.array([[3.0]]), np.array([[4.0]]))
    found = differences(one, one, False, 100, 0)
    assert found.interval(0, 0.05) is None
    assert found.p_value(0) is None
    nothing = Ratios(np.zeros((1, 3)), np.zeros((1, 3)))
    assert differences(nothing, nothing, False, 100, 0).interval(0, 0.05) is None
    some = Ratios(np.array([[3.0, 1.0]]), np.array([[4.0, 2.0]]))
    same = differences(some, some, True, 100, 0)
    assert same.interval(0, 0.05) == (0.0, 0.0)
    assert same.p_value(0) == 1.0


def test_many_requests_are_drawn_in_blocks(monkeypatch):
    import remoe_sim.bootstrapping as module

    rng = np.random.default_rng(0)
    a, b = drawn(rng, 50, 0.4), drawn(rng, 40, 0.4)
    whole = differences(a, b, False, 1999, 0)
    monkeypatch.setattr(module, "COUNTS_AT_ONCE", 1000)
    found = differences(a, b, False, 1999, 0)
    assert found.t.shape == (1, 1999)
    assert quantiles(found.t[0], n=4) == pytest.approx(quantiles(whole.t[0], n=4), abs=0.2)


def test_holm_by_hand():
    class Found:
        def interval(self, at, alpha):
            return (alpha, at)

    p_values = [0.04, 0.001, None, 0.02, 0.5]
    others = [Difference("m", None, None, None, 0.0, 1.0, 1.0, None, 0.95, p, at) for at, p in enumerate(p_values)]
    done = adjusted(others, Found(), 0.05)
    # in order: 0.001 · 4, 0.02 · 3, 0.04 · 2, 0.5 · 1; the first is below 0.05 / 4, the second not below 0.05 / 3
    assert [one.p_adjusted for one in done] == pytest.approx([0.08, 0.004, None, 0.06, 0.5])
    assert [1 - one.confidence for one in done if one.p_value] == pytest.approx(
        [0.05 / 3, 0.05 / 4, 0.05 / 3, 0.05 / 3]
    )
