"""The same input, seed and version give the same bits, however many threads there are; answers say what they are of.

On a cluster: tests/studies/test_distributed.py, whose rows are compared exactly.
"""

import json

import pandas as pd
import pytest

import remoe_sim
from remoe_sim.util import threads
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.support.strategies import Shape, trace_of
from tests.support.timed import with_dense

pytestmark = pytest.mark.once  # kernels are tested elsewhere, and interpreted this takes minutes

LAYERS = 20  # more than are replayed side by side, so that threads have something to share


def decisions(at):
    """Of one token at every layer; sometimes one expert alone."""
    both = [[at * layer % 7, (at + layer) % 6] for layer in range(1, LAYERS + 1)]
    return [one if one[0] != one[1] else [one[0], None] for one in both]


ROWS = [Row(at // 12, at % 12, at, PREFILL if at % 12 < 2 else DECODE, decisions(at)) for at in range(48)]
TRACE = with_dense(trace_of(ROWS, Shape((8,) * LAYERS, (2,) * LAYERS, (64,) * LAYERS)))
ON = {"device": "oneplus-15r"}
ANSWERS = {
    "replay": lambda: remoe_sim.replay(TRACE, 3, policy="lru,lfu,belady,arc,random", **ON),
    "replay, one cache": lambda: remoe_sim.replay(TRACE, budget=900, scope="global", policy="lru,lfu,belady,fifo"),
    "verdict": lambda: remoe_sim.verdict(TRACE, cache=3),
    "split": lambda: remoe_sim.split(TRACE, cache=3),
    "batches": lambda: remoe_sim.batches(TRACE, "1,3", cache=3),
    "compare": lambda: remoe_sim.compare(TRACE, TRACE, cache=3, resamples=200, seed=4, **ON),
    "plan": lambda: remoe_sim.plan(TRACE, **ON),
    "tiers": lambda: remoe_sim.tiers(TRACE, device_cache=1, host_cache=40),
    "prefetch": lambda: remoe_sim.prefetch(TRACE, cache=3, predictor="noisy", recall=0.5, precision=0.5, seed=3),
    "info": lambda: remoe_sim.info(TRACE),
}
FRAMES = {
    "curve": lambda: remoe_sim.curve(TRACE, "lru,lfu,belady,fifo"),
    "curve, one cache": lambda: remoe_sim.curve(TRACE, "lru,lfu,belady", scope="global"),
    "sweep": lambda: remoe_sim.sweep(TRACE, "lru,lfu,belady,arc", "1,3", "40%", "layer,global", "trace,2"),
    "sweep, timed": lambda: remoe_sim.sweep(TRACE, "lru,fifo", "1,3", overlap="none,layer", **ON),
}


def with_threads(ask, monkeypatch):
    """The answers of one, two and five threads, and of two once more."""
    for processors in (1, 2, 5, 2):
        monkeypatch.setattr(threads.os, "cpu_count", lambda processors=processors: processors)
        yield ask()


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_do_not_depend_on_threads(name, monkeypatch):
    answers = [json.dumps(answer.to_dict(), default=str) for answer in with_threads(ANSWERS[name], monkeypatch)]
    assert len(set(answers)) == 1
    assert len(answers[0]) > 200


@pytest.mark.parametrize("name", FRAMES)
def test_tables_do_not_depend_on_threads(name, monkeypatch):
    first, *others = with_threads(FRAMES[name], monkeypatch)
    for other in others:
        pd.testing.assert_frame_equal(first, other, check_exact=True)


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_say_what_they_are_of(name):
    answer = ANSWERS[name]().to_dict()
    assert list(answer)[:2] == ["schema", "version"]
    assert answer["version"] == remoe_sim.__version__
    for trace in [answer[one] for one in ("trace", "a", "b") if one in answer]:
        assert trace["trace_hash"].startswith("xxh3:")


def test_a_hash_is_that_of_the_content():
    found = remoe_sim.replay(TRACE, 3).trace["trace_hash"]
    assert found == remoe_sim.sweep(TRACE, "lru", 3)["trace_hash"].item()
    other = remoe_sim.replay(TRACE, 3, expert_bytes=65).trace["trace_hash"]
    assert other != found  # sizes are part of it


def test_settings_of_a_replay_are_in_its_json():
    answer = remoe_sim.replay(TRACE, 3, warmup=2, preload=TRACE, pin={1: [3]}, policy="lru").to_dict()
    named = {name: answer[name] for name in ("warmup", "preload", "train", "pin")}
    assert named == {"warmup": 2, "preload": answer["trace"]["trace_hash"], "train": None, "pin": {"1": [3]}}
    plain = remoe_sim.replay(TRACE, 3, policy="lru").to_dict()
    assert [plain[name] for name in ("warmup", "preload", "train", "pin")] == [0, None, None, None]
    assert remoe_sim.replay(TRACE, 3, policy="lru", pin="1:3").to_dict()["pin"] == "1:3"
