"""Large traces are replayed in parts: every count is that of the same trace whole."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given

import remoe_sim
from remoe_sim.cache import parts as parts_module
from remoe_sim.trace import Decisions, sources
from tests.support.data import DEMO
from tests.support.strategies import cases, choices, examples


class Cut:
    """A source that gives its layers some rows at a time, and only so."""

    resident = False

    def __init__(self, source, rows):
        self.source, self.rows = source, rows
        self.weights, self.probs = source.weights, source.probs

    def decisions(self, index):
        raise AssertionError("a layer was read whole")

    def parts(self, index):
        whole = self.source.decisions(index)
        for at in range(0, max(len(whole.experts), 1), self.rows):
            yield whole.take(np.arange(at, min(at + self.rows, len(whole.experts))))


@pytest.fixture
def whole_layers_too(monkeypatch):
    """What is said of a trace besides the replay may read a layer whole."""
    monkeypatch.setattr(Cut, "decisions", lambda self, index: self.source.decisions(index))


def alone(trace):
    """Every token a step of its own."""
    return replace(trace, step=np.arange(trace.tokens, dtype=np.int32))


POLICIES = ["lru", "lfu", "belady", "belady-size"]  # those that go on
ROWS = st.sampled_from((1, 2, 3, 5))  # of a part
SETTINGS = choices("admission", "order", "reset", "warmup")


def possible(trace, settings):
    try:
        remoe_sim.curve(trace, policy="lru", **settings)
    except remoe_sim.TraceError:
        return False
    return True


@examples(60)
@given(case=cases(large=False), settings=SETTINGS, rows=ROWS)
def test_curves(case, settings, rows):
    trace = alone(case.trace)
    if not possible(trace, settings):
        return
    wanted = remoe_sim.curve(trace, policy=POLICIES, preload=case.preload, **settings)
    cut = replace(trace, source=Cut(trace.source, rows))
    assert remoe_sim.curve(cut, policy=POLICIES, preload=case.preload, **settings).equals(wanted)


@pytest.mark.usefixtures("whole_layers_too")
@pytest.mark.parametrize("reset", ["never", "request"])
def test_replays(reset):
    @examples(20)
    @given(
        case=cases(large=False), settings=choices("admission", "order", "warmup"), rows=ROWS,
        cache=st.sampled_from((0, 1, 2, 3, 4, 20)),
    )  # fmt: skip
    def check(case, settings, rows, cache):
        trace = alone(case.trace)
        assume(possible(trace, {**settings, "reset": reset}))
        given = {"cache": cache, "policy": POLICIES, "preload": case.preload, "reset": reset, **settings}
        cut = replace(trace, source=Cut(trace.source, rows))
        answers = [remoe_sim.replay(one, **given).to_dict() for one in (cut, trace)]
        assert answers[0]["trace"].pop("trace_hash") is None  # of what is never held whole
        assert answers[1]["trace"].pop("trace_hash")
        assert answers[0] == answers[1]

    check()


def test_when_layers_are_read_whole():
    trace = alone(remoe_sim.read_trace(DEMO))
    cut = replace(trace, source=Cut(trace.source, 100))
    remoe_sim.curve(cut, policy="lru", phase="all")
    for arguments in ({"policy": "lru,fifo"}, {"phase": "decode"}, {"scope": "global"}):
        with pytest.raises(AssertionError, match="whole"):
            remoe_sim.curve(cut, **arguments)


def test_a_fault_is_found_with_its_row():
    trace = alone(remoe_sim.read_trace(DEMO))
    broken = trace.decisions(2).experts.copy()
    broken[1234, 1] = 32
    layers = [Decisions(broken) if index == 2 else trace.decisions(index) for index in range(trace.moe_layers)]
    cut = replace(trace, source=Cut(remoe_sim.InMemory(layers), 500))
    with pytest.raises(remoe_sim.TraceError, match="row 1234, column 'experts_03': expert 32 is not below"):
        remoe_sim.curve(cut, policy="lru")


def test_layers_of_different_length():
    trace = alone(remoe_sim.read_trace(DEMO))
    short = [replace(d, experts=d.experts[: 1490 - 10 * (i == 1)]) for i, (_, d) in enumerate(trace.layers())]
    with pytest.raises(remoe_sim.TraceError, match="different numbers of rows"):
        remoe_sim.replay(replace(trace, source=Cut(remoe_sim.InMemory(short), 2000)), cache=3, policy="lru")


@pytest.mark.parametrize("masks", [False, True])
def test_parts_of_a_layer_as_one(masks):
    trace = remoe_sim.read_trace(DEMO)
    decisions = trace.decisions(0)
    if masks:
        routed = np.arange(trace.tokens) % 300 > 40
        decisions = Decisions(decisions.experts, np.repeat(routed[:, None], 4, axis=1), routed)
    parts = Cut(remoe_sim.InMemory([decisions]), 64).parts(0)
    plain = (
        Decisions(p.experts, *((None, None) if p.routed is None or p.routed.all() else (p.valid, p.routed)))
        for p in parts
    )
    again = sources.joined(plain, trace.tokens, 4)
    for name in ("experts", "valid", "routed"):
        assert np.array_equal(getattr(again, name), getattr(decisions, name))


def test_a_file_is_read_in_parts(tmp_path, monkeypatch):
    trace = alone(remoe_sim.read_trace(DEMO))
    remoe_sim.write_trace(trace, tmp_path / "t.parquet")
    monkeypatch.setattr("remoe_sim.trace.reader.RESIDENT_BYTES", 0)
    monkeypatch.setattr("remoe_sim.trace.reader.PART_ROWS", 256)
    large = remoe_sim.read_trace(tmp_path / "t.parquet")
    assert [len(part.experts) for part in large.source.parts(0)] == [256] * 5 + [210]
    assert (large.decisions(3).experts == trace.decisions(3).experts).all()
    used = []
    monkeypatch.setattr(parts_module, "parts_of", lambda *given: used.append(given) or sources.parts_of(*given))
    for policy in ("lru", "fifo"):
        curves = [remoe_sim.curve(one, policy=policy, cache=[3, 9, 20]) for one in (large, trace)]
        assert curves[0].equals(curves[1])
        theirs = remoe_sim.replay(trace, cache=8, policy=policy).to_dict()["results"]
        assert remoe_sim.replay(large, cache=8, policy=policy).to_dict()["results"] == theirs
    assert len(used) == 2 * trace.moe_layers
