"""`select`, `concat` and `to_frame` against loops over the rows of traces, and models of one number."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given

import remoe_sim
from remoe_sim import Model, TraceError, concat
from tests.support.imported import rows_of
from tests.support.strategies import cases, examples


def numbers(trace):
    """request, position, step and phase of each row."""
    return list(zip(*(getattr(trace, name).tolist() for name in ("request", "position", "step", "phase")), strict=True))


def chosen(trace):
    """Of each row and layer the experts that are there, by slot."""
    rows = []
    for row in range(trace.tokens):
        of_row = {}
        for number, decisions in trace.layers():
            routed = decisions.routed is None or decisions.routed[row]
            valid = np.ones(decisions.experts.shape[1], bool) if decisions.valid is None else decisions.valid[row]
            of_row[number] = [
                int(e) if v and routed else None for e, v in zip(decisions.experts[row], valid, strict=True)
            ]
        rows.append(of_row)
    return rows


@examples(120)
@given(cases(), st.data())
def test_what_is_selected_is_what_a_loop_keeps(case, data):
    trace = case.trace
    assume(trace.tokens)
    requests = data.draw(st.none() | st.lists(st.sampled_from(sorted(set(trace.request.tolist()))), max_size=3))
    layers = data.draw(st.none() | st.lists(st.sampled_from(trace.layer_numbers), min_size=1, max_size=3))
    phase = data.draw(st.sampled_from((None, "prefill", "decode")))
    tokens = data.draw(st.none() | st.sets(st.integers(0, trace.tokens - 1)).map(sorted))
    kept = [
        row
        for row in range(trace.tokens)
        if (requests is None or trace.request[row] in requests)
        and (phase is None or ("prefill", "decode")[trace.phase[row]] == phase)
        and (tokens is None or row in tokens)
    ]
    arguments = {"requests": requests, "layers": layers, "tokens": tokens, "phase": phase}
    if not kept:
        with pytest.raises(ValueError, match="no token of"):
            trace.select(**arguments)
        return
    found = trace.select(**arguments)
    of_layers = sorted(set(layers or trace.layer_numbers))
    assert len(found) == len(kept)
    assert numbers(found) == [numbers(trace)[row] for row in kept]
    assert chosen(found) == [{layer: chosen(trace)[row][layer] for layer in of_layers} for row in kept]


@examples(60)
@given(cases())
def test_a_frame_has_a_row_for_each_chosen_expert(case):
    trace = case.trace
    right = [
        (*numbers(trace)[row], layer, slot, expert)
        for row, layers in enumerate(chosen(trace))
        for layer, experts in layers.items()
        for slot, expert in enumerate(experts)
        if expert is not None
    ]
    frame = trace.to_frame()
    columns = [*(frame[name] for name in ("request", "position", "step")), frame["phase"].cat.codes]
    columns += [frame[name] for name in ("layer", "slot", "expert")]
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == right


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"requests": 999_999}, "there is no request 999999; there are 0, 1"),
        ({"requests": "first"}, "requests 'first' is text"),
        ({"layers": [99]}, "there is no MoE layer 99; there are 0, 1, 2, 3"),
        ({"layers": []}, "layers names none"),
        ({"phase": "both"}, "phase 'both' is not possible"),
        ({"tokens": [3, 2]}, "each above the one before it"),
        ({"tokens": [0.5]}, "tokens are float64"),
        ({"tokens": slice(0, 0)}, "no token of 51200 is left"),
    ],
)
def test_what_is_not_there_is_refused(arguments, why):
    with pytest.raises(ValueError, match=why):
        remoe_sim.read_trace("sample:qwen-original").select(**arguments)


def test_parts_put_together_are_the_whole(tmp_path):
    trace = remoe_sim.read_trace("sample:qwen-original")
    parts = [trace.select(requests=range(0, 40)), trace.select(requests=range(40, 200))]
    whole = concat(parts)
    assert rows_of(whole) == rows_of(trace)
    remoe_sim.write_trace(parts[0], tmp_path / "p.parquet")
    assert rows_of(concat([tmp_path / "p.parquet", parts[1]])) == rows_of(trace)
    assert remoe_sim.replay(whole, cache=8).results[0].hits == remoe_sim.replay(trace, cache=8).results[0].hits


def test_what_does_not_go_together_is_refused():
    trace = remoe_sim.read_trace("sample:qwen-original")
    with pytest.raises(TraceError, match=r"its MoE layers .* differ from the first input's"):
        concat([trace, trace.select(layers=1)])
    with pytest.raises(ValueError, match="there is nothing to put together"):
        concat([])
    with pytest.raises(ValueError, match="give them in a list"):
        concat(trace)
    assert concat([trace]) is trace


def test_a_model_of_one_number():
    trace = remoe_sim.read_trace("sample:qwen-original")
    assert Model(experts=32).experts == (32,)
    made = replace(trace, model=Model(32, expert_bytes=7))
    assert (made.model.experts, made.model.top_k) == ((32,) * 4, trace.model.top_k)
    assert made.model.expert_bytes == (7,) * 4
    assert made.model.every == ()
    assert "32" in repr(Model(experts=32))
    with pytest.raises(TraceError, match=r"model.experts has 1 entries for 4 MoE layers"):
        remoe_sim.Trace(
            trace.request,
            trace.position,
            trace.step,
            trace.phase,
            trace.layer_numbers,
            Model((32,), (4,)),
            trace.source,
        )
