"""`optimize`: chosen on one part of the requests, judged on the other, with a command that gives the same figure."""

import json
import shlex

import numpy as np
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim.cli import main
from remoe_sim.studies.fit_result import cache_flags
from tests.oracle import naive
from tests.oracle.naive import DECODE, Row
from tests.support.strategies import Shape, trace_of


def rows_of(requests, layers=2):
    """Layer 0 cycles over many experts, layer 1 over few, most of all expert 0."""
    rows = []
    for request in range(requests):
        draws = np.random.default_rng(request)
        for position in range(30):
            many, few = draws.integers(0, 8), draws.choice(3, p=[0.8, 0.1, 0.1])
            rows.append(Row(request, position, len(rows), DECODE, [[int(many)], [int(few)]][:layers]))
    return rows


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "trace.parquet"
    remoe_sim.write_trace(trace_of(rows_of(12), Shape((8, 8), (1, 1), None)), path)
    return path


def test_the_command_gives_the_same_figure(saved):
    report = remoe_sim.optimize(saved, cache=3, policy="lru,lfu,hot+lru,static")
    done = CliRunner().invoke(main, [*shlex.split(report.command)[1:], "--json"])
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["results"]
    assert (result["misses"], result["lookups"]) == (report["choice"].total, report["choice"].of)
    assert report["choice"].total <= report["lru"].total


def test_held_out_counts_are_those_of_the_naive_twin(saved):
    report = remoe_sim.optimize(saved, cache=3, policy="lru,lfu")
    drawn = set(np.random.default_rng(0).permutation(12)[:6].tolist())
    others = [row for row in rows_of(12) if row.request not in drawn]
    assert report["lru"].total == naive.replay(others, "lru", limit=[3, 3])["misses"]
    assert (report.trained_requests, report.judged_requests) == (6, 6)


def test_a_choice_is_never_significantly_worse_than_a_plain_policy(saved):
    for cache in (1, 2, 4):
        report = remoe_sim.optimize(saved, cache=cache, policy="lru,lfu,fifo")
        assert not report["best plain"].choice_is_worse
        assert not report["lru"].choice_is_worse


def test_one_request_is_cut_by_its_steps_without_an_interval():
    report = remoe_sim.optimize(trace_of(rows_of(1), Shape((8, 8), (1, 1), None)), cache=3, policy="lru,lfu")
    assert report.by_steps
    assert report["best plain"].interval is None
    assert report["lru"].of == 30


def test_with_a_device_the_least_time_is_asked_for():
    named = ["optimize", "sample:qwen-original", "--cache", "4", "--policy", "lru", "--phase", "decode"]
    done = CliRunner().invoke(main, [*named, "--device", "laptop", "--train-share", "0.1", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["minimise"] == "modelled time"
    assert "overlap" in {one["step"] for one in found["steps"]}


def test_an_engine_whose_cache_is_chosen_is_named_with_its_flags(saved):
    report = remoe_sim.optimize(saved, cache=3, policy="class-lru,lru")
    for engine in report.engines:
        assert remoe_sim.engine_cache(engine["engine"]).settings["policy"] == report.choice["policy"]
    assert {"llama.cpp-moe-cache", "vllm-expert-cache"} <= set(cache_flags(8, 4 << 20))


def test_what_goes_with_a_device_alone_is_refused():
    with pytest.raises(ValueError, match="go with a device"):
        remoe_sim.optimize("sample:qwen-original", cache=4, quant="q8_0")
