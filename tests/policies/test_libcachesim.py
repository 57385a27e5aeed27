"""The same accesses in libCacheSim: one at a time, all of one size, misses to the last."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from numba import config

import remoe_sim
from tests.oracle.naive import events
from tests.support.data import SHARED, needs_traces
from tests.support.strategies import cases, examples

pytest.importorskip("libcachesim")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "agreement.py"
SCOPES = ("layer", "global")


@pytest.fixture(scope="module")
def agreement():
    """The benchmark, as a module."""
    spec = importlib.util.spec_from_file_location("agreement", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("accesses")


@examples(50)
@given(case=cases(preload=False, large=False))
def test_which_accesses_are_compared(agreement, case):
    layer, expert = agreement.accesses(case.trace)
    wanted = [event.entries[0] for event in events(case.rows, order="sequential")]
    assert list(zip(layer.tolist(), expert.tolist(), strict=True)) == wanted
    after = [
        wanted[at + 1 :].index(entry) + at + 1 if entry in wanted[at + 1 :] else -1 for at, entry in enumerate(wanted)
    ]
    assert agreement.next_uses(layer * 1000 + expert).tolist() == after


def assert_agreement(agreement, trace, scope, sizes, folder):
    rows = list(agreement.compare(trace, scope, sizes, list(agreement.TWINS), folder))
    assert len(rows) == sum(len(agreement.compared(policy, sizes)) for policy in agreement.TWINS)
    assert [row for row in rows if row["difference"]] == []
    return rows


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("seed", range(4))
def test_random_traces(agreement, seed, scope, folder):
    rng = np.random.default_rng(seed)
    layers, experts, k = int(rng.integers(1, 4)), int(rng.integers(6, 20)), int(rng.integers(1, 5))
    trace = agreement.synthetic(30 if config.DISABLE_JIT else 150, layers, experts, k, seed)
    most = experts if scope == "layer" else layers * experts
    rows = assert_agreement(agreement, trace, scope, list(range(1, most + 1, 1 if scope == "layer" else 3)), folder)
    assert {row["accesses"] for row in rows} == {trace.tokens * layers * k}


@needs_traces
@pytest.mark.skipif(config.DISABLE_JIT, reason="takes minutes where kernels are interpreted")
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", ["qwen", "gptoss", "gpt-oss-20b"])
def test_real_traces(agreement, name, scope, folder):
    if name == "gpt-oss-20b":
        whole = remoe_sim.import_trace(SHARED / name / "gptoss20b_decode_subset.npz")
        trace = agreement.first_tokens(whole, 1000)
    else:
        trace = remoe_sim.import_trace(SHARED / "bigmoe" / f"{name}.route.csv")
    entries = sum(trace.model.experts) if scope == "global" else max(trace.model.experts)
    rows = assert_agreement(agreement, trace, scope, [1, 4, entries // 6, entries // 3, entries - 1], folder)
    for row in rows:  # replay says what the curve says
        same = {"cache": row["size"], "scope": scope, "order": "sequential", "policy": row["policy"]}
        assert remoe_sim.replay(trace, **same)[row["policy"]].misses == row["misses"]


@pytest.mark.once
def test_the_table(agreement, tmp_path):
    agreement_of = agreement.measure(tmp_path)  # no real traces there
    sizes = [agreement.sizes_of(agreement.synthetic(), scope) for scope in SCOPES]
    cases = sum(len(agreement.compared(policy, some)) for policy in agreement.TWINS for some in sizes)
    assert agreement_of["cases"] == len(agreement_of["rows"]) == cases > 150
    assert agreement_of["cases_that_differ"] == 0
    assert {"slru", "2q", "s3fifo", "w-tinylfu"} < {one["policy"] for one in agreement_of["not_compared"]}
