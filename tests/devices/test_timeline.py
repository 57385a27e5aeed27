"""The compiled timeline against its slow twin, and the laws that every timeline obeys."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config

from remoe_sim.kernels.timeline import LAYER, NONE, PREFETCH
from tests.oracle import naive_timeline
from tests.support.timelines import CPU, assert_timeline, cases, given_to_cpu, run


def total(case, **changes):
    return run(case, **changes)[0].sum()


@given(cases(), CPU)
@settings(max_examples=150, deadline=None)
def test_equals_its_slow_twin(case, cpu):
    assert_timeline(case, cpu)


@given(cases(), CPU, st.integers(0, 2), st.sampled_from((3, 5, 6)), st.floats(1, 3))
@settings(max_examples=100, deadline=None)
def test_never_faster_with_a_slower_cpu_hand_over_or_synchronisation(case, cpu, overlap, column, factor):
    case = given_to_cpu(case, cpu)
    slower = case["expert_costs"].copy()
    slower[:, column] *= factor
    before = total(case, overlap=overlap)
    assert total(case, overlap=overlap, expert_costs=slower) * (1 + 1e-9) >= before


def test_the_layer_ends_when_the_slower_of_cpu_and_device_is_done():
    case = two_links(0, 4)  # four experts, a second each over the link
    case["expert_costs"][0, [3, 5]] = [3.0, 0.5]  # on the CPU, and handing over
    for on_cpu, ends in ((0, 4.0), (1, 3.5), (2, 6.5), (4, 12.5)):
        cpu, near = np.full((1, 1), on_cpu, np.uint16), np.full((1, 1), 4 - on_cpu, np.uint16)
        times, parts, _ = run(case, cpu=cpu, near=near)
        assert times[0] == pytest.approx(ends)
        assert parts.sum() == pytest.approx(ends)


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


def two_links(far, near, lanes=(1, 1), tensors=1):
    """One layer that computes nothing: a read of a tensor takes 10 s on storage and 1 s on the link from the host."""
    none, sizes = np.zeros((1, 1), np.uint16), np.ones((1, tensors))
    return {
        "tokens": np.ones(1, np.int64), "kv_tokens": np.zeros(1, np.int64),
        "needed": np.full((1, 1), far + near, np.uint16), "far": np.full((1, 1), far, np.uint16),
        "near": np.full((1, 1), near, np.uint16), "early": none, "used": none, "depth": 1, "guessed": False,
        "overlap": LAYER, "at_once": 1.0, "cpu": none, "moe_of": np.zeros(1, np.int32),
        "layer_costs": np.zeros((1, 4)), "head_costs": np.zeros(3), "expert_costs": np.zeros((1, 7)),
        "far_sizes": sizes, "near_sizes": sizes, "link": np.array([[0, 0, 10.0, 0], [0, 0, 1.0, 0]]),
        "lanes": np.array(lanes),
    }  # fmt: skip


@pytest.mark.parametrize("overlap", [NONE, LAYER])
@pytest.mark.parametrize(
    ("far", "near", "storage", "pcie"),
    [
        (1, 1, 9, 2),  # the host's is there after 1 s; storage delivers after 10 s, and its expert takes 1 s more
        (1, 9, 1, 10),
        (2, 5, 14, 7),
        (1, 20, 0, 21),  # the link from the host is busy until then
        (0, 3, 0, 3),
        (3, 0, 28, 3),  # all but the first is read while the one before crosses
    ],
)
def test_what_the_host_holds_crosses_its_link_while_storage_is_read(overlap, far, near, storage, pcie):
    times, parts, _ = run(two_links(far, near), overlap=overlap)
    assert times[0] == pytest.approx(max(10 * far + 1, near + far) if far else near)
    assert times[0] == pytest.approx(storage + pcie)
    assert parts[0, [2, 3]] == pytest.approx([storage, pcie])


@given(cases(exact=True), st.sampled_from((NONE, LAYER)))
@settings(max_examples=150, deadline=None)
def test_no_order_of_reads_is_faster_than_the_host_first(case, overlap):
    case["overlap"] = overlap
    seconds = total(case)
    for order in ("storage first", "in turns"):
        slow = naive_timeline.timeline(**case, order=order)
        assert seconds <= sum(took for took, *_ in slow) * (1 + 1e-9)


@pytest.mark.parametrize("overlap", [NONE, LAYER])
def test_what_is_remembered_of_layers_is_what_each_takes(overlap):
    """More patterns than are remembered, and some of them again: as without it, which is so where events are kept."""
    rng, (steps, columns) = np.random.default_rng(overlap), (300 if config.DISABLE_JIT else 3000, 2)
    needed, most = rng.integers(0, 40, (2, steps, columns)).astype(np.uint16)
    far, near, cpu = (np.minimum(needed // 3, most // part).astype(np.uint16) for part in (2, 3, 5))
    case = two_links(1, 1) | {
        "tokens": rng.integers(1, 3, steps), "kv_tokens": rng.integers(0, 99, steps), "needed": needed, "far": far,
        "near": near, "cpu": cpu, "early": np.zeros_like(far), "used": np.zeros_like(far),
        "moe_of": np.array([-1, 1, 0], np.int32), "layer_costs": rng.random((3, 4)), "head_costs": rng.random(3),
        "expert_costs": rng.random((columns, 7)), "far_sizes": rng.random((columns, 2)),
        "near_sizes": rng.random((columns, 2)), "link": rng.random((2, 4)), "lanes": np.array([2, 3]),
        "overlap": overlap, "at_once": 0.4,
    }  # fmt: skip
    times, parts, _ = run(case)
    slowly, by_part, _ = run(case, (np.zeros((1, 4), np.int32), np.zeros((0, 2))))
    np.testing.assert_allclose(times, slowly, rtol=1e-9)
    np.testing.assert_allclose(parts, by_part, rtol=1e-6, atol=1e-9)


@given(cases(), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_events_tell_the_same_story(case, room):
    """No two events of a lane overlap, what the device does and waits for fills the time, and logging changes none."""
    many = 10_000
    log, spans = np.zeros((many + 1, 4), np.int32), np.zeros((many, 2))
    times, _, _ = run(case, (log, spans))
    assert times.tolist() == pytest.approx(run(case)[0].tolist(), rel=1e-12)
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
