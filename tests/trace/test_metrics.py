"""Reuse and routing statistics against slow, obvious versions."""

import math
import statistics
from collections import Counter
from unittest.mock import patch

import hypothesis.strategies as st
import numba
import numpy as np
import pytest
from hypothesis import example, given, settings

import remoe_sim
from remoe_sim.trace import Decisions, InMemory, Model, Trace, metrics
from remoe_sim.trace.metrics import layer_statistics, previous_rows
from tests.oracle import naive
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.support.data import SHARED, bigmoe_rows, needs_traces
from tests.support.tokens import EMPTY, K_ONE, NO_DECODE, ONE_TOKEN, tokens, trace_of


@st.composite
def routings(draw):
    """(rows, experts, top_k): several requests with gaps, both phases, nulls of both kinds, rows in any order."""
    top_k = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    experts = [k + draw(st.integers(0, 4)) for k in top_k]
    places = draw(st.lists(st.tuples(st.integers(-1, 2), st.integers(-2, 9)), unique=True, max_size=30))
    if draw(st.booleans()):
        places.sort()
    rows = []
    for step, (request, position) in enumerate(places):
        decisions = []
        for k, e in zip(top_k, experts, strict=True):
            chosen = draw(st.permutations(range(e)))[:k]
            kind = draw(st.sampled_from(["whole", "whole", "whole", "null", "dropped"]))
            if kind == "dropped":
                chosen = [draw(st.sampled_from([expert, None])) for expert in chosen]
            decisions.append(None if kind == "null" else chosen)
        phase = draw(st.sampled_from([DECODE, DECODE, DECODE, PREFILL]))
        rows.append(Row(request, position, step // 2, phase, decisions))
    return rows, experts, top_k


MANY_EXPERTS = (tokens([[511, 0, 77], [77, 511, 300], None, [300, 2, 3]]), [512], [3])
ALL_DROPPED = (tokens([[None, None], [None, 1], [1, None]]), [4], [2])


def examples(test):
    for case in (EMPTY, ONE_TOKEN, NO_DECODE, K_ONE, MANY_EXPERTS, ALL_DROPPED):
        test = example(case)(test)
    return settings(deadline=None)(test)


@examples
@given(routings())
def test_previous_rows_are_one_position_back(case):
    rows, experts, top_k = case
    where = {(row.request, row.position): index for index, row in enumerate(rows) if row.phase == DECODE}
    wanted = [where.get((row.request, row.position - 1), -1) if row.phase == DECODE else -1 for row in rows]
    found = previous_rows(trace_of(rows, experts, top_k))
    assert found.dtype == np.int64
    assert found.tolist() == wanted


@examples
@given(routings())
def test_reuse_equals_the_naive_count(case):
    rows, experts, top_k = case
    windows = [1, 2, 3, 8]
    numbers = tuple(3 * layer + 1 for layer in range(len(top_k)))
    frame = remoe_sim.reuse(trace_of(rows, experts, top_k, numbers), window=windows)
    assert list(frame.columns) == ["layer", "window", "shared", "wanted", "reuse_rate"]
    assert len(frame) == len(windows) * (len(numbers) + 1)
    for window in windows:
        mine = frame[frame.window == window]
        counts = naive.reuse(rows, window) if rows else [(0, 0)] * len(top_k)
        assert list(mine.layer) == [*numbers, "all"]
        totals = tuple(map(sum, zip(*counts, strict=True)))
        assert list(zip(mine.shared, mine.wanted, strict=True)) == [*counts, totals]
        for rate, shared, wanted in zip(mine.reuse_rate, mine.shared, mine.wanted, strict=True):
            assert rate == shared / wanted if wanted else math.isnan(rate)


@examples
@given(routings())
def test_reuse_by_request_equals_the_naive_mean(case):
    rows, experts, top_k = case
    rates = []
    for request in {row.request for row in rows}:
        counts = naive.reuse([row for row in rows if row.request == request])
        shared, wanted = (sum(part) for part in zip(*counts, strict=True))
        if wanted:
            rates.append(shared / wanted)
    result = remoe_sim.info(trace_of(rows, experts, top_k))
    assert result.reuse_requests == len(rates)
    assert result.reuse_rate_by_request == (pytest.approx(statistics.mean(rates)) if rates else None)


def naive_statistics(rows, experts, layer, spans):
    """The statistics of a layer, from their definitions."""
    here = [row for row in rows if row.decisions[layer] is not None]
    slots = [expert for row in here for expert in row.decisions[layer]]
    uses = Counter(expert for expert in slots if expert is not None)
    total, loads = uses.total(), [uses[expert] for expert in range(experts)]
    entropy = -sum(n / total * math.log(n / total) for n in uses.values()) if total else None
    runs = []  # lengths
    for request in {row.request for row in here}:
        for expert in range(experts):
            turns = [r for r in here if r.request == request and r.phase == DECODE and expert in r.decisions[layer]]
            places = sorted(row.position for row in turns)
            for place in places:
                runs = [*runs[:-1], runs[-1] + 1] if place - 1 in places else [*runs, 1]
    sets = {}
    for span in spans:
        sets[span] = []
        for request in {row.request for row in here}:
            turns = sorted(
                (row.position, row.decisions[layer]) for row in here if row.request == request and row.phase == DECODE
            )
            for begin in range(0, len(turns) - span + 1, span):
                window = turns[begin : begin + span]
                sets[span].append(len({expert for _, decision in window for expert in decision} - {None}))
    return {
        "decisions": len(here),
        "null_decisions": len(rows) - len(here),
        "dropped_slots": slots.count(None),
        "slots": total,
        "distinct_experts": len(uses),
        "top10_slots": sum(sorted(loads)[-math.ceil(experts / 10) :]),
        "streaks": len(runs),
        "mean_streak": statistics.fmean(runs) if runs else None,
        "load_balance_cv": statistics.pstdev(loads) / statistics.fmean(loads) if total else None,
        "routing_entropy": entropy,
        "routing_entropy_normalised": entropy / math.log(experts) if total and experts > 1 else None,
        "working_sets": [statistics.fmean(found) if found else None for found in sets.values()],
        "windows": [len(found) for found in sets.values()],
    }


@examples
@given(routings())
def test_statistics_equal_their_definitions(case):
    rows, experts, top_k = case
    spans = (1, 2, 5)
    with patch.object(metrics, "SPANS", spans):
        layers = list(layer_statistics(trace_of(rows, experts, top_k)))
    assert [layer.index for layer in layers] == list(range(len(top_k)))
    for index, layer in enumerate(layers):
        wanted = naive_statistics(rows, experts[index], index, spans)
        assert [one.mean_experts for one in layer.working_sets] == wanted.pop("working_sets")
        assert [one.windows for one in layer.working_sets] == wanted.pop("windows")
        for name, value in wanted.items():
            close = None if value is None else pytest.approx(value, rel=1e-12, abs=1e-12)
            assert getattr(layer, name) == close, name


def one_layer(decisions, experts, **more):
    top_k = max(len(chosen) for chosen in decisions if chosen)
    return next(layer_statistics(trace_of(tokens(decisions, **more), [experts], [top_k])))


def test_even_use_of_all_experts():
    layer = one_layer([[0], [1], [2], [3]] * 5, 4)
    assert layer.routing_entropy == pytest.approx(math.log(4))
    assert layer.routing_entropy_normalised == 1
    assert layer.load_balance_cv == 0
    assert layer.mean_streak == 1
    assert [(one.windows, one.mean_experts) for one in layer.working_sets] == [(1, 4), (0, None), (0, None)]


def test_one_expert_alone():
    layer = one_layer([[3]] * 20, 64)
    assert (layer.routing_entropy, layer.routing_entropy_normalised, layer.distinct_experts) == (0, 0, 1)
    assert layer.load_balance_cv == pytest.approx(math.sqrt(63))
    assert (layer.top10_slots, layer.slots) == (20, 20)
    assert (layer.mean_streak, layer.streaks) == (20, 1)


def test_entropy_of_a_model_with_one_expert_cannot_be_normalised():
    layer = one_layer([[0]] * 3, 1)
    assert (layer.routing_entropy, layer.routing_entropy_normalised) == (0, None)


def test_requests_do_not_share_and_rows_may_come_in_any_order():
    first, second = tokens([[0], [0], [0]]), tokens([[0], [0]], request=1)
    rows = [row for turn in zip(second, first, strict=False) for row in turn] + first[2:]
    for step, row in enumerate(rows):
        row.step = step
    trace = trace_of(rows, [2], [1])
    assert previous_rows(trace).tolist() == [-1, -1, 0, 1, 3]
    assert remoe_sim.reuse(trace)[["shared", "wanted"]].to_numpy().tolist() == [[3, 3], [3, 3]]
    late = [Row(0, 1, 0, DECODE, [[1]]), Row(0, 0, 1, DECODE, [[1]])]
    assert previous_rows(trace_of(late, [2], [1])).tolist() == [1, -1]


def test_the_last_row_of_a_repeated_position_stands_for_it():
    rows = [Row(0, 0, 0, DECODE, [[1]]), Row(0, 1, 0, DECODE, [[2]])]  # the draft of position 1 is rejected
    rows += [Row(0, 1, 1, DECODE, [[1]]), Row(0, 2, 2, DECODE, [[2]])]
    trace = trace_of(rows, [4], [1])
    assert previous_rows(trace).tolist() == [-1, -1, 0, 2]
    assert remoe_sim.reuse(trace).iloc[-1].tolist()[2:] == [1, 2, 0.5]


def test_positions_at_the_ends_of_int32():
    ends = [2**31 - 1, -(2**31)]
    rows = [Row(0, position, step, DECODE, [[0]]) for step, position in enumerate(ends)]
    assert previous_rows(trace_of(rows, [2], [1])).tolist() == [-1, -1]
    assert list(remoe_sim.reuse(trace_of(rows, [2], [1])).wanted) == [0, 0]


@pytest.mark.parametrize("window", [(4, 1, 4), np.array([1, 4]), [np.int64(1), 4]])
def test_windows_are_ascending_and_come_once(window):
    assert list(remoe_sim.reuse(trace_of(*K_ONE), window).window) == [1, 1, 4, 4]


@pytest.mark.parametrize("window", [0, -1, 1.5, True, "2", None, [1, 0], [], 2**63])
def test_impossible_windows_are_errors(window):
    with pytest.raises(ValueError, match=r"give whole numbers of tokens that are 1 or more"):
        remoe_sim.reuse(trace_of(*K_ONE), window)


@needs_traces
@pytest.mark.parametrize(("name", "top_k", "shared", "wanted"), [("qwen", 6, 13881, 36576), ("gptoss", 2, 811, 4536)])
def test_reuse_of_real_captures(name, top_k, shared, wanted):
    rows, sizes = bigmoe_rows(name)
    frame = remoe_sim.reuse(trace_of(rows, [128] * len(sizes), [top_k] * len(sizes)), [1, 2, 4, 8])
    assert frame[(frame.layer == "all") & (frame.window == 1)].iloc[0].tolist()[2:4] == [shared, wanted]
    for window in (2, 8):
        mine = frame[(frame.window == window) & (frame.layer != "all")]
        assert list(zip(mine.shared, mine.wanted, strict=True)) == naive.reuse(rows, window)


@needs_traces
def test_reuse_of_many_requests():
    capture = np.load(SHARED / "gpt-oss-20b" / "gptoss20b_decode_subset.npz")
    ids, offsets = capture["experts"].astype(np.uint16), capture["offsets"]
    requests = np.repeat(np.arange(offsets.size - 1, dtype=np.int32), np.diff(offsets))
    rows = np.arange(len(ids), dtype=np.int32)
    position = rows - offsets[requests].astype(np.int32)
    model = Model((32,) * 24, (4,) * 24)
    trace = Trace(
        requests,
        position,
        rows,
        np.ones(len(rows), np.uint8),
        tuple(range(24)),
        model,
        InMemory([Decisions(ids[:, layer]) for layer in range(24)]),
    )
    previous = previous_rows(trace)
    pairs = np.flatnonzero(previous >= 0)
    assert pairs.size == len(rows) - (offsets.size - 1)
    mine, before = ids[pairs], ids[previous[pairs]]
    shared = sum((mine[:, :, a] == before[:, :, b]) for a in range(4) for b in range(4)).sum(axis=1)
    assert shared.sum() / (pairs.size * 96) == pytest.approx(0.4422, abs=5e-5)
    by_request = np.bincount(requests[pairs], shared) / np.bincount(requests[pairs]) / 96
    assert by_request.mean() == pytest.approx(0.4352, abs=5e-5)
    if not numba.config.DISABLE_JIT:  # interpreted, the kernels take minutes for this
        total = remoe_sim.reuse(trace).iloc[-1]
        assert (total.layer, total.shared, total.wanted) == ("all", shared.sum(), pairs.size * 96)
