"""What changes would buy a replay: each is the replay that one would ask for, and reuse is a rule by hand."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from remoe_sim.cli import main
from remoe_sim.studies.what_if import fewer
from tests.support.strategies import examples

TRACE = "sample:qwen-original"
BOARD = {"device": "jetson-orin-nx-16gb"}


def mean(policy="lru", cache=8, **timing):
    return remoe_sim.replay(TRACE, cache=cache, policy=policy, **timing)[policy].tpot_ms["mean"]


def buys(**timing):
    found = remoe_sim.verdict(TRACE, cache=8, policy="lru", **timing).on_device
    return found, {change.change: change for change in found.changes}


def test_changes_are_the_replays_that_one_would_ask_for():
    found, changes = buys(**BOARD)
    assert found.timed.mean_ms == mean(**BOARD)
    assert changes["cache 1.5 times as large"].tpot_ms == mean(cache=12, **BOARD)
    assert changes["best policy"].tpot_ms == mean("belady", **BOARD)
    assert changes["perfect prefetch"].tpot_ms == mean(**BOARD, overlap="prefetch")
    assert changes["storage twice as fast"].tpot_ms < found.timed.mean_ms
    assert changes["reuse +26 %"].tpot_ms < found.timed.mean_ms
    for change in changes.values():
        assert change.change_percent == pytest.approx(100 * (change.tpot_ms / found.timed.mean_ms - 1))
        assert change.tokens_per_second == pytest.approx(1e3 / change.tpot_ms)


def test_a_cpu_share_and_a_faster_host_where_there_is_a_host():
    machine = {"device": "rtx-3090", "host": "desktop-ddr4-3200"}
    _, changes = buys(**machine)
    assert changes["CPU share auto"].tpot_ms == mean(**machine, cpu_share="auto")
    assert "host twice as fast" not in changes
    _, by_cpu = buys(**machine, misses_from="cpu")
    assert {"host twice as fast", "CPU share auto"} <= set(by_cpu)
    assert "perfect prefetch" not in by_cpu


def test_a_measured_time_is_where_changes_start():
    found, changes = buys(**BOARD, measured_tpot="9ms")
    assert found.timed.mean_ms == pytest.approx(9)
    expected = remoe_sim.replay(TRACE, cache=8, policy="lru,belady", **BOARD, measured_tpot="9ms")["belady"]
    assert changes["best policy"].tpot_ms == pytest.approx(expected.tpot_ms["mean"], rel=1e-6)
    given_time, _ = buys(**BOARD, compute_ms=4)
    assert given_time.timed.mean_ms == mean(**BOARD, compute_ms=4)


def test_a_smaller_quantisation_of_a_model_with_a_card():
    trace = remoe_sim.synth(model="olmoe-1b-7b", tokens=200, request_tokens=100, prompt_tokens=10)
    timing = {"device": "rtx-3090", "model": "olmoe-1b-7b"}
    found = remoe_sim.verdict(trace, cache=16, policy="lru", quant="q8_0", **timing)
    smaller = remoe_sim.replay(trace, cache=16, policy="lru", quant="q6_k", **timing)["lru"]
    changes = {change.change: change for change in found.on_device.changes}
    assert changes["quantisation q6_k"].tpot_ms == smaller.tpot_ms["mean"]
    held = remoe_sim.verdict(trace, budget="2GiB", policy="lru", quant="q8_0", **timing).on_device
    again = remoe_sim.replay(trace, budget="2GiB", policy="lru", quant="q6_k", **timing)["lru"]
    assert {one.change: one for one in held.changes}["quantisation q6_k"].tpot_ms == again.tpot_ms["mean"]


def test_without_a_device_nothing_is_said_of_times():
    found = remoe_sim.verdict(TRACE, cache=8, policy="lru")
    assert found.on_device is None
    assert found.to_dict()["on_device"] is None
    with pytest.raises(ValueError, match="name one"):
        remoe_sim.verdict(TRACE, cache=8, policy="lru", overlap="none")


@examples(50)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_fewer_misses_by_points_of_the_hit_rate(seed, points):
    rng = np.random.default_rng(seed)
    needed = rng.integers(1, 9, (30, 3)).astype(np.uint16)
    missed = rng.binomial(needed, 0.4).astype(np.uint16)
    decode = rng.integers(0, 2, 30)
    left = fewer(missed, needed, decode, points)
    rows = decode > 0
    assert (left <= missed).all()
    assert (left[~rows] == missed[~rows]).all()
    gone = int(missed[rows].sum()) - int(left[rows].sum())
    assert abs(gone - min(points * needed[rows].sum(), missed[rows].sum())) <= 1


def test_the_command_says_what_would_help():
    words = ["verdict", TRACE, "--cache", "8", "--policy", "lru", "--device", "jetson-orin-nx-16gb"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output
    assert "Limited by storage" in " ".join(shown.output.split())
    assert "cache 1.5 times as large" in shown.output
    answer = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)["on_device"]
    assert answer["limited_by"] == "storage"
    assert answer["what_if"][0]["change"] == "storage twice as fast"
