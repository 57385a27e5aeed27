"""Intervals of differences of ratios: against the slow way, how often they cover, and what cannot be told."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from remoe_sim.studies.bootstrap import Ratios, differences
from remoe_sim.studies.compare_result import Difference, adjusted
from tests.support.strategies import examples

ROOT = Path(__file__).resolve().parents[1]


def slow(a, b, paired):
    """Value and standard error of one difference, request by request; a and b are lists of (y, x).

    The standard error is the root of Σ c u², where c makes each squared residual unbiased if rates have one spread per
    side and a correlation, which are estimated. Expectations are those of matrices.
    """
    sides = [np.array(side, float) for side in (a, b)]
    totals = [side[:, 1].sum() for side in sides]
    w = [side[:, 1] / total for side, total in zip(sides, totals, strict=True)]
    rates = [np.divide(side[:, 0], side[:, 1], out=np.zeros(len(side)), where=side[:, 1] > 0) for side in sides]
    ratio = [float(one @ rate) for one, rate in zip(w, rates, strict=True)]
    value = ratio[1] - ratio[0]
    left = [(rate - r) * (one > 0) for rate, r, one in zip(rates, ratio, w, strict=True)]
    centred = [np.eye(len(one)) - np.outer(np.ones(len(one)), one) for one in w]

    def moment(i, j):
        weight = np.sqrt(w[i] * w[j])
        return (weight * left[i] * left[j]).sum() / (weight * np.diag(centred[i] @ centred[j].T)).sum()

    if paired and np.allclose(w[0], w[1], rtol=1e-9, atol=0):
        change = left[1] - left[0]
        u = w[0] * change
        shares = np.diag(w[0])
        rest = shares @ centred[0]
        spread = np.eye(len(u))
    elif paired:
        va, vb, joint = moment(0, 0), moment(1, 1), moment(0, 1)
        largest = max(va, vb)
        va, vb = max(va, 1e-12 * largest), max(vb, 1e-12 * largest)
        both = math.sqrt(va * vb)
        joint = np.clip(joint / both, -0.99, 0.99) * both if both else 0.0
        u = w[1] * left[1] - w[0] * left[0]
        shares = np.hstack([-np.diag(w[0]), np.diag(w[1])])
        rest = np.hstack([-np.diag(w[0]) @ centred[0], np.diag(w[1]) @ centred[1]])
        eye = np.eye(len(u))
        spread = np.block([[va * eye, joint * eye], [joint * eye, vb * eye]])
    else:
        u = np.concatenate([-w[0] * left[0], w[1] * left[1]])
        none = np.zeros((len(w[0]), len(w[1])))
        shares = np.block([[-np.diag(w[0]), none], [none.T, np.diag(w[1])]])
        rest = np.block([[-np.diag(w[0]) @ centred[0], none], [none.T, np.diag(w[1]) @ centred[1]]])
        v = [moment(0, 0), moment(1, 1)]
        v = [max(one, 1e-12 * max(v)) for one in v]
        spread = np.diag(np.repeat(v, [len(w[0]), len(w[1])]))
    meant, seen = np.diag(shares @ spread @ shares.T), np.diag(rest @ spread @ rest.T)
    c = np.divide(meant, seen, out=np.zeros(len(u)), where=seen > 0)
    return value, math.sqrt((c * u**2).sum()), (shares, rest, spread, c)


def beyond(model, t, many, rng):
    """How often |t| is larger where rates are drawn from the model, the slow way."""
    shares, rest, spread, c = model
    rates = rng.multivariate_normal(np.zeros(len(spread)), spread, many)
    ones = np.ones(len(shares))
    value, u = rates @ shares.T @ ones, rates @ rest.T
    return float(np.mean(np.abs(value) > t * np.sqrt((c * u**2).sum(axis=1))))


def sides(draw_from, count=None):
    pair = st.tuples(st.integers(0, 20), st.integers(1, 40)).map(lambda p: (min(p), max(p)))
    return draw_from(st.lists(pair, min_size=count or 4, max_size=count or 8))


@given(st.data(), st.booleans())
@examples(100)
def test_standard_errors_are_those_of_the_slow_way(data, paired):
    a = sides(data.draw)
    b = sides(data.draw, len(a) if paired else None)
    value, error, _ = slow(a, b, paired)
    many = [Ratios(*np.array([list(zip(*side, strict=True))] * 2, float).transpose(1, 0, 2)) for side in (a, b)]
    fast = differences(*many, paired, 100, 3)
    assert fast.value == pytest.approx([value, value], abs=1e-9)
    assert fast.error == pytest.approx([error, error], rel=1e-6, abs=1e-7)


def test_p_values_are_those_of_the_model_drawn_the_slow_way():
    rng = np.random.default_rng(5)
    for paired, own in ((True, False), (True, True), (False, True)):
        a = drawn(rng, 7, 0.4)
        b = Ratios(a.y + rng.binomial(3, 0.5, a.y.shape), a.x) if not own else drawn(rng, 7, 0.45)
        found = differences(a, b, paired, 4000, 1)
        pairs = [list(zip(one.y[0], one.x[0], strict=True)) for one in (a, b)]
        value, error, model = slow(*pairs, paired)
        assert found.p_value(0) == pytest.approx(beyond(model, abs(value) / error, 200_000, rng), abs=0.01)
        for alpha in (0.3, 0.05, 0.01):
            low, high = found.interval(0, alpha)
            assert beyond(model, (high - low) / 2 / error, 200_000, rng) == pytest.approx(alpha, rel=0.1)


def test_pairs_of_equal_lengths_are_held_against_students_t():
    rng = np.random.default_rng(0)
    for count in (4, 5, 30):
        a, b = rng.normal(0.4, 0.05, (2, count))
        x = np.full((1, count), 7.0)
        found = differences(Ratios(a * x, x), Ratios(b * x, x), True, 100, 0)
        expected = ttest_rel(b, a)
        assert found.p_value(0) == pytest.approx(expected.pvalue)
        assert found.interval(0, 0.001) == pytest.approx(expected.confidence_interval(0.999)[:])


@pytest.mark.parametrize("paired", [True, False])
def test_equal_models_are_not_called_different_with_few_requests(paired):
    """With two requests 38 of 40 paired comparisons of uniform routing said that they were."""
    for count in (1, 2, 3, 4, 5, 8):
        rng = np.random.default_rng(count)
        x = np.full((300, count), 400.0)
        a, b = (Ratios(rng.binomial(400, 0.4, x.shape).astype(float), x) for _ in range(2))
        found = differences(a, b, paired, 499, 0)
        if count < 4:
            assert all(found.interval(at, 0.05) is None and found.p_value(at) is None for at in range(300))
        else:
            wrong = sum(found.p_value(at) <= 0.05 for at in range(300))
            assert wrong <= 27  # 15 are meant; three standard deviations are 11


def test_requests_without_a_weight_do_not_count():
    x = np.array([[4.0, 5.0, 6.0, 0.0, 0.0]])
    a, b = (Ratios(x * rate, x) for rate in ([[0.3, 0.4, 0.5, 0, 0]], [[0.5, 0.5, 0.8, 0, 0]]))
    assert differences(a, b, True, 100, 0).interval(0, 0.05) is None
    assert differences(a, b, False, 100, 0).interval(0, 0.05) is None


def test_requests_that_all_differ_by_the_same():
    """Four pairs that differ by the same may be chance (one of eight); eight are not."""
    for count, paired, p in ((4, True, 1 / 8), (8, True, 1 / 128), (4, False, 2 / 70)):
        x = np.full((1, count), 10.0)
        found = differences(Ratios(0.3 * x, x), Ratios(0.5 * x, x), paired, 100, 0)
        assert found.p_value(0) == pytest.approx(p)
        assert found.interval(0, 0.05) == (None if p > 0.05 else pytest.approx((0.2, 0.2)))


@pytest.mark.parametrize("resamples", [100, 1999])
def test_a_star_and_a_p_value_never_contradict_each_other(resamples):
    """With 100 resamples a star stood next to an adjusted p of 0.14."""
    rng = np.random.default_rng(3)
    for count in (4, 6, 12):
        a, b = (drawn(rng, count, rate) for rate in (0.4, 0.5))
        a, b = (Ratios(np.repeat(one.y, 9, 0), np.repeat(one.x, 9, 0)) for one in (a, b))
        b = Ratios(b.y * np.linspace(0.8, 1.2, 9)[:, None], b.x)
        found = differences(a, b, False, resamples, 0)
        others = [
            Difference("m", None, None, None, 0.0, 1.0, 1.0, found.interval(at, 0.05), 0.95, found.p_value(at), at)
            for at in range(9)
        ]
        for one in (*others, *adjusted(others, found, 0.05)):
            assert bool(one.shown) == ((one.p_value if one.p_adjusted is None else one.p_adjusted) <= 0.05)
        for at in range(9):  # and at a level that is exactly p
            low, high = found.interval(at, found.p_value(at))
            assert not low <= 0 <= high


def test_a_level_that_the_draws_cannot_resolve_has_no_interval():
    x = np.array([[1000.0, 20.0, 10.0, 5.0]])
    a, b = (Ratios(x * rate, x) for rate in ([[0.4, 0.3, 0.5, 0.2]], [[0.5, 0.1, 0.9, 0.4]]))
    found = differences(a, b, False, 100, 0)
    assert found.interval(0, 1e-9) is None
    assert found.interval(0, 0.05) is not None
    far = differences(a, Ratios(b.y + 1e6 * x, x), False, 100, 0)
    assert 1e-9 < far.p_value(0) <= 1 / 101


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
        assert (low <= 0 <= high) == (p > 0.05)


def test_what_cannot_be_told():
    one = Ratios(np.array([[3.0]]), np.array([[4.0]]))
    found = differences(one, one, False, 100, 0)
    assert found.interval(0, 0.05) is None
    assert found.p_value(0) is None
    nothing = Ratios(np.zeros((1, 5)), np.zeros((1, 5)))
    assert differences(nothing, nothing, False, 100, 0).interval(0, 0.05) is None
    some = Ratios(np.array([[3.0, 1.0, 2.0, 2.0]]), np.array([[4.0, 2.0, 2.0, 9.0]]))
    same = differences(some, some, True, 100, 0)
    assert same.interval(0, 0.05) == (0.0, 0.0)
    assert same.p_value(0) == 1.0


def test_many_requests_are_drawn_in_blocks(monkeypatch):
    from remoe_sim.studies import bootstrap as module

    rng = np.random.default_rng(0)
    a, b = drawn(rng, 50, 0.4), drawn(rng, 40, 0.4)
    whole = differences(a, b, False, 1999, 0)
    monkeypatch.setattr(module, "NORMALS_AT_ONCE", 1000)
    found = differences(a, b, False, 1999, 0)
    assert found.square.shape == (1, 1999)
    assert found.p_value(0) == pytest.approx(whole.p_value(0), rel=0.05)


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


def coverage():
    spec = importlib.util.spec_from_file_location("compare_coverage", ROOT / "benchmarks" / "compare_coverage.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look it up there
    spec.loader.exec_module(module)
    return module


def test_the_document_has_the_measured_coverage():
    answer = json.loads((ROOT / "benchmarks" / "results" / "compare_coverage.json").read_text())
    text = (ROOT / "docs" / "compare.md").read_text()
    for table in coverage().tables(answer):
        assert table in text
    assert f"{answer['repetitions']:,} for each cell" in text
    worst = max(100 * (1 - cell["held"]) for cell in answer["cells"] if cell["kind"] == "long")
    assert f"Where long requests have higher rates, up to {worst:.1f} of 100 are" in text


def test_coverage_that_was_measured_is_what_was_asked_for():
    """The bootstrap that was there before held the truth in 84 % of some cells."""
    answer = json.loads((ROOT / "benchmarks" / "results" / "compare_coverage.json").read_text())
    for cell in answer["cells"]:
        least, most = (0.93, 0.97) if cell["requests"] >= 10 else (0.90, 0.98)
        assert least <= cell["held"] <= most, cell
    assert {cell["requests"] for cell in answer["cells"]} == {4, 6, 10, 20, 50, 200}


def test_coverage_of_some_cells_today():
    module = coverage()
    for kind, lengths, pairing in (("spread +3", "lognormal", "paired, own lengths"), ("uniform", "equal", "paired")):
        cell = module.Experiments(kind, lengths, pairing, 6, 300).measured(1)
        assert 0.9 <= cell["held"] <= 0.985
