"""Export and import again: the same trace, or a sentence that says what the format cannot hold."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

import remoe_sim
from remoe_sim import Decisions, InMemory, Model, TraceError
from tests.support.imported import rows_of
from tests.support.strategies import cases, examples

LAYER = Decisions(np.array([[0, 1], [2, 3], [4, 5], [0, 2]], np.uint16))


TOKENS = {"request": (0, 0, 1, 1), "position": (0, 1, 0, 1), "step": (0, 1, 2, 2)}


def trace_of(layers=(LAYER, LAYER), weights=None, tokens=(), **model):
    request, position, step = (TOKENS | dict(tokens)).values()
    columns = [np.array(one, np.int32) for one in (request, position, step)]
    about = Model((6,) * len(layers), tuple(one.experts.shape[1] for one in layers), **model)
    numbers = tuple(range(1, len(layers) + 1))
    return remoe_sim.Trace(*columns, np.ones(4, np.uint8), numbers, about, InMemory(layers, weights))


def again(trace, folder, suffix):
    path = folder / f"t.{suffix}"
    remoe_sim.export(trace, path)
    return remoe_sim.import_trace(path, experts=max(trace.model.experts))


def assert_the_same(found, trace):
    assert rows_of(found) == rows_of(trace)
    assert found.layer_numbers == trace.layer_numbers
    assert found.model.top_k == trace.model.top_k
    for index in range(trace.moe_layers):
        mine, theirs = (one.source.weights(index) for one in (trace, found))
        assert theirs is None if mine is None else np.array_equal(mine, theirs, equal_nan=True)


@examples(150)
@given(case=cases(preload=False, large=False))
def test_any_trace_is_kept_or_refused(case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("round")
    for suffix in ("csv", "npz"):
        if case.trace.tokens and exported(case.trace, folder / f"t.{suffix}"):
            names = list(dict.fromkeys(case.trace.request.tolist()))
            counted = [names.index(one) for one in case.trace.request.tolist()]
            request = np.array(counted, np.int32) if suffix == "npz" else case.trace.request
            assert_the_same(again(case.trace, folder, suffix), replace(case.trace, request=request))


def exported(trace, path):
    """Whether it was; else one sentence says why not."""
    try:
        remoe_sim.export(trace, path)
    except TraceError as error:
        sentence = str(error)
    else:
        return True
    assert "\n" not in sentence
    return False


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_tokens_of_a_step_keep_their_order(tmp_path, suffix):
    """A group's recency is the order of its tokens, so another order is another replay."""
    turned = trace_of(tokens={"request": (0, 1, 1, 0), "position": (0, 0, 1, 1)})
    backwards = trace_of(tokens={"request": (0, 0, 0, 0), "position": (3, 0, 2, 1), "step": (0, 0, 0, 0)})
    for trace in (backwards,) if suffix == "npz" else (turned, backwards):
        assert_the_same(again(trace, tmp_path, suffix), trace)


def test_a_file_layer_by_layer_is_in_order_of_positions(tmp_path):
    """Where a token is not routed at the first layer, its first row says nothing about its place."""
    rows = ["0,1,0,prefill,0,1", "0,2,0,prefill,0,2", "0,0,0,prefill,3,1", "0,1,0,prefill,3,2", "0,2,0,prefill,3,4"]
    (tmp_path / "t.csv").write_text("request,position,step,phase,layer,expert\n" + "\n".join(rows) + "\n")
    assert remoe_sim.import_trace(tmp_path / "t.csv").position.tolist() == [0, 1, 2]


def nobody():
    there = np.zeros((4, 2), bool)
    return Decisions(np.zeros((4, 2), np.uint16), there, there[:, 0])


def unused():
    valid = np.array([[True, False]] * 4)
    return Decisions(np.where(valid, LAYER.experts, 0).astype(np.uint16), valid)


@pytest.mark.parametrize("layer", [nobody, unused])
@pytest.mark.parametrize("weighted", [False, True])
def test_layers_where_something_is_never_used(tmp_path, layer, weighted):
    layers = [LAYER, layer()]
    weights = [np.float32([[0.75, 0.25]] * 4) * (1 if one is LAYER else one.valid) for one in layers]
    trace = trace_of(layers, weights if weighted else None)
    found = again(trace, tmp_path, "npz")
    assert rows_of(found) == rows_of(trace)
    assert (found.layer_numbers, found.model.top_k) == (trace.layer_numbers, trace.model.top_k)
    what = "layer 2 has no expert at any token" if layer is nobody else "layer 2 has 2 slots, but only the first 1"
    with pytest.raises(TraceError, match=f"{what}.*export it as npz"):
        remoe_sim.export(trace, tmp_path / "u.csv")
    assert not (tmp_path / "u.csv").exists()


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_a_decision_of_null_slots_is_not_taken_for_none(tmp_path, suffix):
    valid = np.array([[True, True], [False, False], [True, True], [True, True]])
    dropped = Decisions(np.where(valid, LAYER.experts, 0).astype(np.uint16), valid)
    with pytest.raises(TraceError, match="row 1, column 'experts_02': all slots of this decision are null"):
        remoe_sim.export(trace_of([LAYER, dropped]), tmp_path / f"t.{suffix}")
    assert not list(tmp_path.iterdir())
    null = Decisions(dropped.experts, valid, valid[:, 0])
    assert_the_same(again(trace_of([LAYER, null]), tmp_path, suffix), trace_of([LAYER, null]))


def test_repeated_positions(tmp_path):
    trace = trace_of(tokens={"request": (0, 0, 0, 0), "position": (0, 1, 1, 2)})
    with pytest.raises(TraceError, match=r"row 2: position 1 of request 0 is there twice.*export it as npz"):
        remoe_sim.export(trace, tmp_path / "t.csv")
    assert_the_same(again(trace, tmp_path, "npz"), trace)


@pytest.mark.parametrize("suffix", ["csv", "npz"])
@pytest.mark.parametrize("which", [0, 1])
def test_weights_at_some_layers(tmp_path, suffix, which):
    weights = [None, None]
    weights[which] = np.float32([[0.75, 0.25], [0.5, 0.125], [1, 0.1], [0.3, 0.2]])
    trace = trace_of(weights=weights)
    assert_the_same(again(trace, tmp_path, suffix), trace)


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_weights_of_null_slots(tmp_path, suffix):
    valid = np.array([[True, True], [True, False], [False, True], [True, True]])
    layer = Decisions(np.where(valid, LAYER.experts, 0).astype(np.uint16), valid)
    weights = [np.float32([[0.75, 0.25], [0.5, 0.125], [0.1, 1], [0.3, 0.2]])]
    trace = trace_of([layer], weights)
    assert_the_same(again(trace, tmp_path, suffix), trace)


def test_sizes_of_layers_that_are_not_all_known(tmp_path):
    trace = trace_of(dense_bytes=(5, 6, 7), expert_bytes=(8, 9))
    assert again(trace, tmp_path, "npz").model == trace.model
