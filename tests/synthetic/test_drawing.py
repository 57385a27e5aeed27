"""Drawn decisions against a twin in plain Python, and what must hold of any."""

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from remoe_sim.kernels.state import first_state
from remoe_sim.kernels.synthesis import DECODE_TOKEN, FIRST_TOKEN, PREFILL_TOKEN, STRATA, count_depths
from remoe_sim.synthetic.laws import (
    Drawing,
    Law,
    _classes,
    odds,
    plain_law,
    tilt_to,
)  # fmt: skip
from tests.oracle.naive_drawing import ABSENT, draw
from tests.support.strategies import examples


@st.composite
def laws(draw):
    experts = draw(st.integers(1, 20))
    k = draw(st.integers(1, min(experts, 5)))
    positive = st.sampled_from((0.25, 0.5, 1.0, 2.0, 3.0, 1000.0))
    popularity = draw(st.lists(positive, min_size=experts, max_size=experts))
    pull = [draw(st.lists(positive, min_size=experts + 1, max_size=experts + 1)) for _ in range(3)]
    return Law(k, np.array(popularity), np.array(pull))


kinds_lists = st.lists(st.sampled_from((FIRST_TOKEN, PREFILL_TOKEN, DECODE_TOKEN, DECODE_TOKEN, ABSENT)), max_size=30)


def as_kinds(kinds):
    return np.array(kinds, np.uint8)


@examples(150)
@given(law=laws(), kinds=kinds_lists, seed=st.integers(0, 2**40), cut=st.integers(0, 30))
def test_decisions_are_those_of_the_twin_however_they_are_cut(law, kinds, seed, cut):
    drawing = Drawing(law, seed)
    drawn = np.concatenate([drawing.draw(as_kinds(kinds[:cut])), drawing.draw(as_kinds(kinds[cut:]))]).tolist()
    wanted, depths = draw(kinds, law.popularity.tolist(), law.pull.tolist(), law.top_k, first_state(seed))
    assert [row if kind != ABSENT else None for row, kind in zip(drawn, kinds, strict=True)] == wanted
    counted = Counter((kind, law.experts if depth is None else depth) for kind, depth in depths)
    assert {(a, b): n for (a, b), n in np.ndenumerate(drawing.counts) if n} == counted
    assert drawing.uses.tolist() == [sum(row.count(e) for row in wanted if row) for e in range(law.experts)]


@examples(100)
@given(law=laws(), kinds=kinds_lists, seed=st.integers(0, 99))
def test_what_is_counted_of_decisions_is_what_was_counted_when_they_were_drawn(law, kinds, seed):
    drawing = Drawing(law, seed)
    experts = drawing.draw(as_kinds(kinds))
    counts, exposed, uses = np.zeros_like(drawing.counts), np.zeros_like(drawing.counts), np.zeros_like(drawing.uses)
    none = np.zeros((0, 0), np.bool_)
    count_depths(experts, none, as_kinds(kinds), np.arange(law.experts), counts, uses, exposed)
    assert (counts == drawing.counts).all()
    assert (uses == drawing.uses).all()
    assert (
        exposed.sum(axis=1) == [law.experts * kinds.count(kind) for kind in (FIRST_TOKEN, PREFILL_TOKEN, DECODE_TOKEN)]
    ).all()
    assert (exposed >= counts).all()


def test_slots_that_were_not_computed_are_not_counted():
    experts, valid = np.array([[3, 1], [0, 1]], np.uint16), np.array([[True, True], [False, True]])
    counts, exposed, uses = np.zeros((3, 5), np.int64), np.zeros((3, 5), np.int64), np.zeros(4, np.int64)
    count_depths(experts, valid, as_kinds([FIRST_TOKEN, DECODE_TOKEN]), np.arange(4), counts, uses, exposed)
    assert uses.tolist() == [0, 2, 0, 1]
    assert counts.tolist() == [[0, 0, 0, 0, 2], [0] * 5, [1, 0, 0, 0, 0]]
    assert exposed.tolist() == [[0, 0, 0, 0, 4], [0] * 5, [1, 1, 0, 0, 2]]


def test_each_slot_draws_once_from_each_stratum():
    law = Law(1, np.ones(STRATA), np.ones((3, STRATA + 1)))  # with equal weights a stratum is a place in the stack
    drawing = Drawing(law, 3)
    used = set()
    for _ in range(3):
        drawing.draw(as_kinds([DECODE_TOKEN] * STRATA))
        used.add(int(drawing.counts.sum()))
    depths = drawing.counts[DECODE_TOKEN]
    assert used == {STRATA, 2 * STRATA, 3 * STRATA}
    assert depths[:STRATA].sum() + depths[STRATA] == 3 * STRATA
    assert depths[: STRATA // 2].max() <= 3  # never more than once in a block


def test_an_expert_with_no_weight_left_is_never_drawn():
    pull = np.ones((3, 7))
    pull[DECODE_TOKEN, 2:6] = 0.0
    drawing = Drawing(Law(2, np.ones(6), pull), 1)
    experts = drawing.draw(as_kinds([FIRST_TOKEN, *[DECODE_TOKEN] * 200]))
    assert all(len(set(row)) == 2 for row in experts.tolist())
    assert drawing.counts[DECODE_TOKEN, 2:6].sum() == 0


@pytest.mark.parametrize(("experts", "k"), [(1, 1), (4, 4), (7, 2), (32, 4), (128, 8), (512, 10)])
def test_classes_of_depths_cover_all_of_them(experts, k):
    classes = _classes(experts, k)
    assert classes.size == experts + 1
    assert set(np.diff(classes)) <= {0, 1}
    assert classes[-1] == classes[-2] + 1
    assert classes[: min(2 * k, experts)].tolist() == list(range(min(2 * k, experts)))


def test_a_tilt_changes_only_what_the_token_before_used():
    law = plain_law(16, 3, 0.5, 0)
    tilted = law.tilted(np.log(2))
    assert (tilted.pull[FIRST_TOKEN] == law.pull[FIRST_TOKEN]).all()
    assert tilted.pull[PREFILL_TOKEN:, :3] == pytest.approx(2 * law.pull[PREFILL_TOKEN:, :3])
    assert (tilted.pull[:, 3:] == law.pull[:, 3:]).all()


def test_tilting_finds_the_nearest():
    law = plain_law(16, 3, 0.5, 0)
    base = law.pull[DECODE_TOKEN, 0]

    def share(tilted):  # the odds are those of the tilt
        return 1 / (1 + 1 / (tilted.pull[DECODE_TOKEN, 0] / base))

    assert share(law) == 0.5
    assert tilt_to(law, 0.8, share)[1] == pytest.approx(0.8, abs=0.001)
    assert tilt_to(law, 0.8, lambda tilted: min(share(tilted), 0.7))[1] == 0.7
    assert odds(0) == pytest.approx(-odds(1))
    assert odds(0) < -10
