"""Synthetic traces: what is asked for is what comes out, of a law and of a real trace's likeness."""

from dataclasses import replace

import numpy as np
import pytest
from numba import config

import remoe_sim
from remoe_sim.synthetic import synth
from remoe_sim.trace import DECODE, PREFILL
from remoe_sim.trace.reader import read_trace
from tests.support.data import DEMO, SHARED, needs_traces

FEW = 300 if config.DISABLE_JIT else 3000
compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="takes minutes where kernels are interpreted")


def pooled(trace):
    return remoe_sim.reuse(trace).reuse_rate.iloc[-1]


def same(a, b):
    return all((x.experts == y.experts).all() for (_, x), (_, y) in zip(a.layers(), b.layers(), strict=True))


@pytest.fixture(scope="module")
def demo():
    return read_trace(DEMO)


def test_a_plain_one():
    trace = remoe_sim.synth(tokens=FEW, layers=3, experts=12, top_k=2, reuse=0.5, request_tokens=100, prompt_tokens=30)
    assert (trace.tokens, trace.moe_layers, trace.requests) == (FEW, 3, FEW // 100)
    assert (trace.model.experts, trace.model.top_k) == ((12,) * 3, (2,) * 3)
    assert (np.bincount(trace.phase)[[PREFILL, DECODE]] == [0.3 * FEW, 0.7 * FEW]).all()
    first = trace.request == 0
    assert trace.position[first].tolist() == list(range(100))
    assert trace.step[first].tolist() == [0] * 30 + list(range(1, 71))
    assert trace.step[-1] + 1 == trace.requests * 71
    assert pooled(trace) == pytest.approx(0.5, abs=0.01)
    assert trace.origin["format"] == "synthetic"
    assert "not recorded" in trace.notes


def test_the_same_arguments_give_the_same_trace_and_another_seed_another():
    some = {"tokens": 200, "layers": 2, "experts": 8, "top_k": 2}
    one = remoe_sim.synth(**some, seed=3)
    assert same(one, remoe_sim.synth(**some, seed="3"))
    assert not same(one, remoe_sim.synth(**some, seed=4))


def test_layers_differ_and_may_have_skew_and_reuse_of_their_own():
    trace = remoe_sim.synth(tokens=FEW, layers=2, experts=32, top_k=3, skew="0,1.5", reuse=[0.2, 0.6], prompt_tokens=0)
    found = remoe_sim.info(trace).layers
    assert [layer["reuse_rate"] for layer in found] == pytest.approx([0.2, 0.6], abs=0.01)
    assert found[1]["load_balance_cv"] > 2 * found[0]["load_balance_cv"]


def test_a_model_from_its_card():
    trace = remoe_sim.synth(model="flame-moe-1.7b-10.3b", quant="q4_k_m", tokens=50)
    card = remoe_sim.model("flame-moe-1.7b-10.3b", "q4_k_m")
    assert trace.layer_numbers == card.moe_layers
    assert trace.model.expert_bytes == card.expert_bytes
    assert trace.model.dense_bytes == card.dense_bytes


def test_sizes_and_names_that_are_given():
    trace = remoe_sim.synth(tokens=10, layers=2, expert_bytes="3MiB", name="mine")
    assert trace.model.expert_bytes == (3 * 2**20,) * 2
    assert trace.model.name == "mine"


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 4), (512, 10)])
def test_shapes_at_the_edges(shape):
    experts, k = shape
    least = max(0, 2 * k - experts) / k
    wanted = 1.0 if least == 1 else max(0.4, (1 + least) / 2)
    trace = remoe_sim.synth(tokens=150, layers=1, experts=experts, top_k=k, reuse=wanted, prompt_tokens=3)
    for _, decisions in trace.layers():
        assert all(len(set(row)) == k and max(row) < experts for row in decisions.experts.tolist())
    assert pooled(trace) == pytest.approx(wanted, abs=0.01)


@pytest.mark.once
def test_a_trace_of_prompts_alone():
    trace = remoe_sim.synth(tokens=40, layers=1, request_tokens=20, prompt_tokens=20)
    assert np.unique(trace.step).size == 2
    with pytest.raises(ValueError, match="no decode token follows another"):
        remoe_sim.synth(trace, reuse="1.2x")
    assert remoe_sim.synth(trace).tokens == 40


def test_large_traces_are_drawn_when_they_are_read(monkeypatch, tmp_path):
    some = {"tokens": 700, "layers": 2, "experts": 16, "top_k": 2}
    whole = remoe_sim.synth(**some)
    monkeypatch.setattr(synth, "RESIDENT_BYTES", 0)
    drawn = remoe_sim.synth(**some)
    assert not drawn.source.resident
    assert same(whole, drawn)
    blocks = list(drawn.source.blocks(64))
    assert len(blocks) == 11
    for index, (_, decisions) in enumerate(whole.layers()):
        assert (np.concatenate([block.layers[index].experts for block in blocks]) == decisions.experts).all()
    remoe_sim.write_trace(drawn, tmp_path / "t.parquet")
    assert same(whole, read_trace(tmp_path / "t.parquet"))


@compiled
def test_like_a_trace(demo):
    made = remoe_sim.synth(demo)
    for name in ("request", "position", "step", "phase"):
        assert (getattr(made, name) == getattr(demo, name)).all()
    assert made.model.expert_bytes == demo.model.expert_bytes
    assert made.model.name == "synthetic-12x32-top4"
    assert pooled(made) == pytest.approx(pooled(demo), abs=0.005)
    assert not same(made, demo)


@compiled
@pytest.mark.parametrize(
    ("reuse", "wanted"), [("1.26x", 1.26), ("0.8x", 0.8), ("+0.07", None), ("-0.05", None), ("0.5", None)]
)
def test_more_and_less_reuse(demo, reuse, wanted):
    before, after = pooled(demo), pooled(remoe_sim.synth(demo, reuse=reuse))
    if wanted is not None:
        assert after / before == pytest.approx(wanted, abs=0.01)
    else:
        assert after == pytest.approx(float(reuse) + (before if reuse[0] in "+-" else 0), abs=0.004)


@compiled
def test_another_number_of_tokens_takes_requests_at_random(demo):
    made = remoe_sim.synth(demo, tokens=4000)
    assert made.tokens == 4000
    shapes = {
        (tuple(t.position[t.request == r]), tuple(t.phase[t.request == r]))
        for t in [demo]
        for r in range(demo.requests)
    }
    for request in range(made.requests - 1):
        of = made.request == request
        assert (tuple(made.position[of]), tuple(made.phase[of])) in shapes
    assert pooled(made) == pytest.approx(pooled(demo), abs=0.01)


@compiled
def test_tokens_without_a_decision_stay_without_one(demo):
    routed = demo.phase == DECODE
    layers = [remoe_sim.Decisions(d.experts, np.repeat(routed[:, None], 4, axis=1), routed) for _, d in demo.layers()]
    made = remoe_sim.synth(replace(demo, source=remoe_sim.InMemory([*layers[:1], *[d for _, d in demo.layers()][1:]])))
    assert (made.decisions(0).routed == routed).all()
    assert made.decisions(1).routed is None
    assert remoe_sim.info(made).null_decisions == int((~routed).sum())


@compiled
def test_interleaved_requests_come_one_after_the_other(demo):
    batched = remoe_sim.batch(demo, 4)
    made = remoe_sim.synth(batched)
    assert np.flatnonzero(np.diff(made.request)).size + 1 == demo.requests
    assert pooled(made) == pytest.approx(pooled(demo), abs=0.005)


PATHS = {"qwen": "bigmoe/qwen.route.csv", "gptoss": "bigmoe/gptoss.route.csv",
         "gpt-oss-20b": "gpt-oss-20b/gptoss20b_decode_subset.npz"}  # fmt: skip


@compiled
@needs_traces
@pytest.mark.heavy("numba")  # takes long
@pytest.mark.parametrize("name", PATHS)
def test_like_real_traces(name):
    real = remoe_sim.import_trace(SHARED / PATHS[name])
    made = remoe_sim.synth(real)
    theirs, ours = (remoe_sim.curve(trace, policy="lru") for trace in (real, made))
    difference = (ours.hit_rate - theirs.hit_rate).abs() * 100
    in_all = theirs.layer == "all"
    assert difference[in_all].max() < 2
    assert difference[~in_all].groupby(theirs.capacity).mean().max() < 3
    theirs, ours = (remoe_sim.reuse(trace, [1, 2, 4, 8]) for trace in (real, made))
    difference = (ours.reuse_rate - theirs.reuse_rate).abs() * 100
    in_all, adjacent = theirs.layer == "all", theirs.window == 1
    assert difference[in_all & adjacent].max() < 0.5
    assert difference[in_all].max() < 2
    assert difference[~in_all & adjacent].mean() < 3
    tuned = remoe_sim.synth(real, reuse="1.26x")
    assert pooled(tuned) / pooled(real) == pytest.approx(1.26, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tokens": "0"}, "tokens '0' is not possible; give a whole number from 1"),
        ({"tokens": "2.5"}, "whole number"),
        ({"reuse": 1.5}, "reuse '1.5' is not possible; give a number from 0 to 1"),
        ({"reuse": "1.26x"}, "reuse '1.26x' is not possible"),
        ({"reuse": [0.1, 0.2, 0.3], "layers": 2}, "reuse has 3 values for 2 MoE layers"),
        ({"experts": 4, "top_k": 5, "layers": 1}, "top_k 5 is not possible"),
        ({"experts": 70000}, "at most 65536"),
        ({"experts": 5, "top_k": 4, "reuse": 0.1, "tokens": 500, "layers": 1}, "the nearest is 0.7"),
        ({"quant": "q4_k_m"}, "quant belongs to a model"),
        ({"model": "olmoe-1b-7b", "experts": 3}, "experts is that of the model"),
        ({"model": "olmo"}, "unknown model"),
        ({"like": DEMO, "skew": 1}, "skew is taken from the trace"),
        ({"like": DEMO, "reuse": "3x"}, "would be 1.177, where the trace has 0.3923"),
        ({"like": DEMO, "reuse": "more"}, "give a share such as 0.5, or a change: 1.26x or"),
        ({"seed": -1}, "seed '-1' is not possible"),
    ],
)
def test_what_is_not_possible(arguments, said):
    with pytest.raises(ValueError, match=said.replace("+", r"\+")):
        remoe_sim.synth(**arguments)
