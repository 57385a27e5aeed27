"""The compiled timeline against its slow twin, and the laws that every timeline obeys."""

import naive_timeline
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remoe_sim.kernels.timeline import LAYER, NONE, PREFETCH, run_timeline

SECONDS = st.floats(0, 1e-2)


@st.composite
def cases(draw, exact=False):
    """Arguments of `run_timeline`, all but the arrays that it fills; exact: what was read ahead is what is missing."""
    steps, layers = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    dense = [draw(st.booleans()) for _ in range(layers)]
    dense[draw(st.integers(0, layers - 1))] = False
    moe_of = np.where(dense, -1, np.cumsum(~np.array(dense)) - 1).astype(np.int32)
    columns, tensors = int((moe_of >= 0).sum()), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    needed = rng.integers(0, 5, (steps, columns))
    missing = rng.integers(0, needed + 1)
    host = draw(st.booleans())
    far = rng.integers(0, missing + 1) if host else missing
    storage = bool(far.any()) or not host or draw(st.booleans())
    scale = draw(SECONDS)
    early = rng.integers(0, 4, (steps, columns)) * (not exact)
    return {
        "tokens": rng.integers(1, 9, steps), "kv_tokens": rng.integers(0, 2000, steps),
        "needed": needed.astype(np.uint16), "far": far.astype(np.uint16), "near": (missing - far).astype(np.uint16),
        "early": early.astype(np.uint16), "used": rng.integers(0, early + 1).astype(np.uint16),
        "depth": draw(st.integers(1, columns)), "guessed": draw(st.booleans()),
        "overlap": draw(st.sampled_from((NONE, LAYER, PREFETCH))),
        "at_once": draw(st.sampled_from((0.0, 0.4, 1.0))), "on_cpu": False, "moe_of": moe_of,
        "layer_costs": rng.random((layers, 4)) * [scale, scale / 1000, scale / 5, scale],
        "head_costs": rng.random(3) * scale, "expert_costs": rng.random((columns, 5)) * scale,
        "far_sizes": np.ceil(rng.random((columns, tensors)) * 300),
        "near_sizes": np.ceil(rng.random((columns, tensors)) * 300),
        "link": rng.random((2, 4)) * [draw(SECONDS), 1e-3, draw(SECONDS) / 100, 1e-4],
        "lanes": np.array([rng.integers(1, 5) if storage else 0, rng.integers(1, 5) if host else 0]),
    }  # fmt: skip


def run(case, events=None, **changes):
    """(times, parts, late) of a case, with some arguments changed."""
    case = {**case, **changes}
    steps = case["tokens"].size
    times, parts, late = np.zeros(steps), np.zeros((steps, 5)), np.zeros(case["needed"].shape, np.int64)
    run_timeline(*case.values(), times, parts, late, *(events or (None, None)))
    return times, parts, late


def total(case, **changes):
    return run(case, **changes)[0].sum()


@given(cases(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_equals_its_slow_twin(case, on_cpu):
    assert_timeline(case, on_cpu)


def assert_timeline(case, on_cpu):
    """Every time and every cause equals the twin's."""
    case["on_cpu"] = on_cpu
    times, parts, late = run(case)
    for step, (seconds, causes, waited) in enumerate(naive_timeline.timeline(**case)):
        assert times[step] == pytest.approx(seconds, rel=1e-9, abs=1e-12)
        assert parts[step] == pytest.approx(list(causes.values()), rel=1e-9, abs=1e-12)
        assert late[step].tolist() == waited
    assert parts.sum(axis=1) == pytest.approx(times)


def perfect(case):
    """The same reads, issued ahead."""
    missing = case["far"] if case["lanes"][0] else case["near"]
    return {
        "early": missing,
        "used": missing,
        "guessed": False,
        "far": np.zeros_like(missing),
        "near": np.zeros_like(missing),
        "overlap": PREFETCH,
    }


@given(cases(exact=True))
@settings(max_examples=150, deadline=None)
def test_overlap_only_helps_and_is_bounded_by_compute_and_by_links(case):
    if case["lanes"][0]:
        case["near"][:] = 0  # all misses take the same way, as those read ahead do
    case["expert_costs"][:, 2] = 0  # where reads and computing compete for a CPU, overlap can lose
    slack = 1 + 1e-9
    none, layer, ahead = total(case, overlap=NONE), total(case, overlap=LAYER), total(case, **perfect(case))
    assert none * slack >= layer
    assert layer * slack >= ahead
    zeros = np.zeros_like(case["far"])
    assert ahead * slack >= total(case, far=zeros, near=zeros)
    for of, counts in ((0, case["far"]), (1, case["far"] + case["near"])):
        if case["lanes"][of]:
            sizes = case["far_sizes" if of == 0 else "near_sizes"]
            each = (case["link"][of, 1] + sizes * case["link"][of, 2]).sum(axis=1)
            assert ahead * slack >= (counts * each).sum()


@given(cases(), st.integers(0, 2), st.floats(1, 3))
@settings(max_examples=150, deadline=None)
def test_never_faster_with_a_slower_link_or_one_miss_more(case, overlap, factor):
    before = total(case, overlap=overlap)
    for column in range(4):
        slower = case["link"].copy()
        slower[:, column] *= factor
        assert total(case, overlap=overlap, link=slower) * (1 + 1e-9) >= before
    name = "far" if case["lanes"][0] else "near"
    hits = np.argwhere(
        case["needed"].astype(int) - case["far"] - case["near"] - (case["early"] if overlap == 2 else 0) > 0
    )
    if hits.size:
        more = case[name].copy()
        more[tuple(hits[0])] += 1
        assert total(case, overlap=overlap, **{name: more}) * (1 + 1e-9) >= before


@given(cases())
@settings(max_examples=50, deadline=None)
def test_without_misses_it_is_the_resident_model(case):
    zeros = np.zeros_like(case["far"])
    took = {total(case, far=zeros, near=zeros, early=zeros, overlap=mode) for mode in (NONE, LAYER, PREFETCH)}
    one = case["needed"] * (case["expert_costs"][:, 0] + case["expert_costs"][:, 4])
    arithmetic = case["tokens"][:, None] * case["expert_costs"][:, 1] * (case["needed"] > 0)
    costs = case["layer_costs"]
    dense = costs[:, 0].sum() + costs[:, 3].sum() + case["kv_tokens"] * costs[:, 1].sum()
    dense = dense + case["tokens"] * (costs[:, 2].sum() + case["head_costs"][1]) + case["head_costs"][[0, 2]].sum()
    expected = dense.sum() + one.sum() + arithmetic.sum()
    assert [*took] == pytest.approx([expected] * len(took))


@given(cases(), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_events_tell_the_same_story(case, room):
    """No two events of a lane overlap, what the device does and waits for fills the time, and logging changes none."""
    many = 10_000
    log, spans = np.zeros((many + 1, 4), np.int32), np.zeros((many, 2))
    times, _, _ = run(case, (log, spans))
    assert times.tolist() == run(case)[0].tolist()
    count = log[0, 0]
    assert count < many
    kinds, spans = log[1 : count + 1], spans[:count]
    device = np.isin(kinds[:, 0], (0, 1, 2))
    assert (spans[device, 1] - spans[device, 0]).sum() == pytest.approx(times.sum())
    for kind in (4, 5):
        for lane in range(5):
            mine = spans[(kinds[:, 0] == kind) & (kinds[:, 3] == lane)]
            assert (mine[1:, 0] >= mine[:-1, 1] - 1e-12).all()
    small = np.zeros((room + 1, 4), np.int32), np.zeros((room, 2))
    run(case, small)
    assert small[0][0, 0] == min(room, count)
    assert (small[0][1:][: small[0][0, 0]] == kinds[:room]).all()
