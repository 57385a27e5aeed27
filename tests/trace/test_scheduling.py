"""Scheduling against its slow twin, by hand, and by laws."""

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import given

import remoe_sim
from tests.oracle import naive
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.oracle.naive_schedule import distinct, rescheduled
from tests.oracle.oracle import assert_equal
from tests.support.schedules import both, requests, rows_of
from tests.support.strategies import Case, Shape, cases, examples, trace_of


def steps_of(trace):
    """Steps as lists of (request, position), and a mark for prefill tokens."""
    steps = {}
    for row in rows_of(trace):
        steps.setdefault(row.step, []).append(f"{row.request}.{row.position}" + "p" * (row.phase == PREFILL))
    assert list(steps) == list(range(len(steps)))
    return [" ".join(step) for step in steps.values()]


arguments = st.fixed_dictionaries(
    {
        "size": st.integers(1, 5),
        "chunk": st.none() | st.integers(1, 4),
        "draft": st.sampled_from((0, 0, 1, 2, 7)),
        "accept": st.none() | st.sampled_from((0.0, 0.3, 0.8, 1.0)),
        "seed": st.integers(0, 3),
        "random": st.booleans(),
    }
)


@examples(200)
@given(cases(preload=False, layers=1, large=False, most=20), arguments)
def test_rows_and_steps_equal_the_twin(case, given):
    rows, scheduled = both(case, given)
    assert rows_of(scheduled) == rows


@examples(40)
@given(cases(preload=False, layers=2, large=False), arguments)
def test_replays_equal_the_oracle_on_the_rows_of_the_twin(case, given):
    rows, scheduled = both(case, given)
    again = Case(rows, scheduled, case.shape)
    for policy in ("lru", "fifo"):
        sizes = case.shape.sizes
        limit = [3 * size for size in sizes or [1] * len(case.shape.top_k)]
        expected = naive.replay(rows, policy, limit=limit, sizes=sizes)
        assert_equal(remoe_sim.replay(again.trace, cache=3, policy=policy)[policy], expected)


@examples(80)
@given(cases(preload=False, layers=1, large=False, most=20), arguments)
def test_laws(case, given):
    rows, scheduled = both(case, given)

    def content(some):
        return Counter((row.request, row.position, row.phase, str(row.decisions)) for row in some)

    assert content(rows_of(scheduled)) == content(case.rows)
    requests = {row.request for row in rows}
    for request in requests:  # a request is executed as it was
        mine = [(row.position, row.phase) for row in rows_of(scheduled) if row.request == request]
        assert mine == [(row.position, row.phase) for row in case.rows if row.request == request]
    for step in {row.step for row in rows}:
        members = [row for row in rows if row.step == step]
        assert len({row.request for row in members}) <= given["size"]
        prompts = [row for row in members if row.phase == PREFILL]
        assert len({(row.request) for row in prompts}) <= 1
        assert len(prompts) <= (given["chunk"] or len(rows))
        assert given["chunk"] or len(prompts) in (0, len(members))
        assert max(Counter(row.request for row in members if row.phase == DECODE).values(), default=0) <= (
            given["draft"] + 1
        )
    single = sum(found for _, found in distinct(rescheduled(rows, [[at] for at in range(len(rows))])).values())
    assert sum(found for _, found in distinct(rows).values()) <= single  # a union has no more than its parts


@examples(40)
@given(cases(preload=False, layers=1, large=False))
def test_one_at_a_time_is_the_identity_where_that_is_what_was_recorded(case):
    order = list(dict.fromkeys(row.request for row in case.rows))
    rows = sorted(case.rows, key=lambda row: order.index(row.request))
    alone = rescheduled(rows, [[at] for at in range(len(rows))])
    trace = trace_of(alone, case.shape)
    assert rows_of(remoe_sim.batch(trace)) == alone
    assert rows_of(remoe_sim.batch(trace, prefill_chunk=1)) == alone


def test_continuous_batching_by_hand():
    trace = requests((2, 3), (0, 1), (1, 2), (3, 0), (0, 1))
    assert steps_of(remoe_sim.batch(trace, 2)) == [
        "0.0p 0.1p", "0.2 1.0", "2.0p", "0.3 2.1", "0.4 2.2", "3.0p 3.1p 3.2p", "4.0",
    ]  # fmt: skip
    assert steps_of(remoe_sim.batch(trace, 99)) == [
        "0.0p 0.1p",
        "2.0p",
        "3.0p 3.1p 3.2p",
        "0.2 1.0 2.1 4.0",
        "0.3 2.2",
        "0.4",
    ]
    assert steps_of(remoe_sim.batch(trace, 1)) == steps_of(trace)


def test_chunks_share_steps_with_decode_tokens_by_hand():
    trace = requests((1, 4), (5, 1), (3, 1))
    assert steps_of(remoe_sim.batch(trace, 2, prefill_chunk=2)) == [
        "0.0p", "0.1 1.0p 1.1p", "0.2 1.2p 1.3p", "0.3 1.4p", "0.4 1.5", "2.0p 2.1p", "2.2p", "2.3",
    ]  # fmt: skip
    assert steps_of(remoe_sim.batch(trace, 3, prefill_chunk=4)) == [
        "0.0p", "0.1 1.0p 1.1p 1.2p 1.3p", "0.2 1.4p", "0.3 1.5 2.0p 2.1p 2.2p", "0.4 2.3",
    ]  # fmt: skip


def test_recorded_prompt_steps_are_kept_and_chunks_stay_within_them():
    rows = [Row(7, at, step, PREFILL, [[at]]) for at, step in enumerate((0, 0, 0, 1, 1))]
    trace = trace_of([*rows, Row(7, 5, 2, DECODE, [[5]])], Shape((32,), (1,), None))
    assert steps_of(remoe_sim.batch(trace)) == ["7.0p 7.1p 7.2p", "7.3p 7.4p", "7.5"]
    assert steps_of(remoe_sim.batch(trace, prefill_chunk=2)) == ["7.0p 7.1p", "7.2p", "7.3p 7.4p", "7.5"]


def test_a_second_prompt_of_a_request_waits_for_its_turn():
    kinds = [(0, PREFILL), (0, DECODE), (0, PREFILL), (0, DECODE), (1, PREFILL), (1, DECODE), (1, DECODE), (1, DECODE)]
    rows = [Row(request, at, at, phase, [[0]]) for at, (request, phase) in enumerate(kinds)]
    trace = trace_of(rows, Shape((2,), (1,), None))
    assert steps_of(remoe_sim.batch(trace, 2)) == ["0.0p", "1.4p", "0.1 1.5", "0.2p", "0.3 1.6", "1.7"]
    assert steps_of(remoe_sim.batch(trace, 2, prefill_chunk=8)) == ["0.0p", "0.1 1.4p", "1.5 0.2p", "0.3 1.6", "1.7"]


def test_windows_by_hand():
    trace = requests((1, 5), (0, 3))
    assert steps_of(remoe_sim.batch(trace, draft=1)) == ["0.0p", "0.1 0.2", "0.3 0.4", "0.5", "1.0 1.1", "1.2"]
    assert steps_of(remoe_sim.batch(trace, 2, draft=3)) == ["0.0p", "0.1 0.2 0.3 0.4 1.0 1.1 1.2", "0.5"]
    assert steps_of(remoe_sim.batch(trace, draft=3, accept=0)) == steps_of(remoe_sim.batch(trace))
    assert steps_of(remoe_sim.batch(trace, draft=3, accept=1)) == steps_of(remoe_sim.batch(trace, draft=3))


def test_interleaved_and_shared_steps_are_scheduled_anew():
    rows = [Row(at % 2, at // 2, at // 2, DECODE, [[at]]) for at in range(6)]
    trace = trace_of(rows, Shape((8,), (1,), None))
    with pytest.raises(remoe_sim.TraceError, match="a step holds tokens of two requests"):
        remoe_sim.replay(trace, cache=2, reset="request")
    alone = remoe_sim.batch(trace)
    assert steps_of(alone) == ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2"]
    remoe_sim.replay(alone, cache=2, reset="request")
    with pytest.raises(remoe_sim.TraceError, match="a step holds tokens of two requests"):
        remoe_sim.replay(remoe_sim.batch(alone, 2), cache=2, reset="request")
    assert steps_of(remoe_sim.batch(alone, 2)) == steps_of(trace)


def test_nothing_to_schedule():
    empty = trace_of([], Shape((4,), (2,), None))
    for more in ({}, {"prefill_chunk": 2}, {"draft": 2, "accept": 0.5}, {"arrival": "random"}):
        assert remoe_sim.batch(empty, 3, **more).tokens == 0


def test_only_the_layer_that_is_asked_for_is_put_in_order():
    trace = requests((1, 2))
    asked = []

    class Watched:
        resident = False

        def decisions(self, index):
            asked.append(index)
            return trace.source.decisions(index)

        weights = probs = None

    watched = remoe_sim.Trace(
        trace.request, trace.position, trace.step, trace.phase, trace.layer_numbers, trace.model, Watched()
    )
    made = remoe_sim.batch(watched, 2)
    assert not asked
    assert not made.source.resident
    made.decisions(0)
    assert asked == [0]


def test_drafts_are_accepted_as_often_as_they_should():
    trace = requests((0, 4000))
    for accept in (0.25, 0.8):
        made = remoe_sim.batch(trace, draft=3, accept=accept, seed=1)
        expected = 1 + accept + accept**2 + accept**3
        assert made.tokens / (made.step[-1] + 1) == pytest.approx(expected, rel=0.03)
        assert rows_of(remoe_sim.batch(trace, draft=3, accept=accept, seed=1)) == rows_of(made)
    first, second = (remoe_sim.batch(trace, draft=3, accept=0.5, seed=seed) for seed in (1, 2))
    assert first.step.tolist() != second.step.tolist()


def test_windows_do_not_depend_on_size_or_arrival():
    trace = requests((1, 30), (2, 20), (0, 25))

    def windows(made):
        steps = {}
        for row in rows_of(made):
            if row.phase == DECODE:
                steps.setdefault((row.step, row.request), []).append(row.position)
        return sorted((request, positions) for (_, request), positions in steps.items())

    first = windows(remoe_sim.batch(trace, 1, draft=4, accept=0.6))
    assert windows(remoe_sim.batch(trace, 3, draft=4, accept=0.6)) == first
    assert windows(remoe_sim.batch(trace, 2, prefill_chunk=1, draft=4, accept=0.6, arrival="random")) == first
