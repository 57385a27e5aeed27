"""The emulator: its cache misses what the replay says, and the benchmark runs. No times are asserted."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from remoe_sim import Decisions, InMemory, Model, Trace
from tests.support.data import DEMO

FOLDER = Path(__file__).parents[2] / "benchmarks" / "emulator"


@pytest.fixture(scope="module")
def engine():
    """The benchmark's engine, as a module."""
    sys.path.insert(0, str(FOLDER))
    try:
        import engine

        return engine
    finally:
        sys.path.remove(str(FOLDER))


@given(
    seed=st.integers(0, 2**32 - 1), experts=st.integers(1, 9), k=st.integers(1, 4), tokens=st.integers(1, 30),
    capacity=st.integers(0, 10), policy=st.sampled_from(("lru", "lfu")),
)  # fmt: skip
def test_its_cache_misses_what_the_replay_says(engine, seed, experts, k, tokens, capacity, policy):
    rng, k = np.random.default_rng(seed), min(k, experts)
    groups = np.argsort(rng.random((tokens, experts)), axis=1)[:, :k].astype(np.uint16)
    column = np.arange(tokens, dtype=np.int32)
    trace = Trace(
        column * 0, column, column, np.ones(tokens, np.uint8), (0,), Model((experts,), (k,), "random"),
        InMemory([Decisions(groups)]),
    )  # fmt: skip
    slots = [object() for _ in range(capacity + k)]
    cache, missed = engine.Cache(capacity, policy, list(slots)), 0
    for group in groups.tolist():
        missed += len(cache.need(group))
        assert set(group) <= set(cache.slots)
        cache.rest()
        assert len(cache.slots) <= capacity
        assert {*cache.free, *cache.slots.values()} == set(slots)
    assert missed == remoe_sim.replay(trace, cache=capacity, policy=policy)[policy].misses


@pytest.mark.heavy("numba")  # takes long
@pytest.mark.once
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has O_DIRECT")
def test_it_runs(tmp_path):
    """The script itself stops where misses or bytes of any step are not those of the replay."""
    output, scratch = tmp_path / "emulator.json", tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, FOLDER / "run.py", "--quick", "--scratch", scratch, "--output", output]
    done = subprocess.run(command, capture_output=True, text=True)
    if "refuses direct reads" in done.stderr:
        pytest.skip("the folder for temporary files refuses direct reads")
    assert done.returncode == 0, done.stderr
    assert list(scratch.iterdir()) == []
    found = json.loads(output.read_text())
    assert found["summary"]["configurations"] == len(found["rows"]) == 16
    assert {(row["policy"], row["overlap"], row["weights"]) for row in found["rows"]} == {
        (p, o, w) for p in ("lru", "lfu") for o in ("none", "layer") for w in ("int8", "float32")
    }
    trace = remoe_sim.read_trace(DEMO)
    for row in found["rows"]:
        block = 0 if row["aligned"] else 4096
        assert row["bytes_read"] == row["misses"] * 3 * (row["tensor_bytes"] + block)
        assert 0 < row["misses"] <= found["tokens"] * trace.moe_layers * trace.model.top_k[0]
        for name in ("predicted_ms", "measured_ms", "card_only_ms", "link_bytes_per_s", "resident_ms", "efficiency"):
            assert 0 < row[name] < math.inf
    assert done.stdout.count("\n") == 1 + 16 + 5
