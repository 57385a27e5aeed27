"""Estimates: bytes follow from hit rates, laws, overlaps, batches, files for Perfetto, what is refused."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from remoe_sim.cli import main
from remoe_sim.devices.costs import costs_of
from remoe_sim.devices.draws import distinct_experts, draw
from remoe_sim.util.cards import Fact
from tests.support.strategies import examples

PHONE = {"model": "qwen3-30b-a3b", "device": "oneplus-15r", "quant": "q4_k_m"}


def tpot(**arguments):
    return remoe_sim.estimate(**{**PHONE, **arguments})[0].tpot_ms


def test_bytes_follow_from_the_hit_rate():
    sized = remoe_sim.model("qwen3-30b-a3b", quant="q4_k_m")
    one = remoe_sim.estimate(**PHONE, hit_rate=0.8)[0]
    assert one.bytes_per_token == pytest.approx(0.2 * 8 * sum(sized.expert_bytes))
    same = remoe_sim.estimate(**PHONE, bytes_per_token=round(one.bytes_per_token))[0]
    assert same.hit_rate == pytest.approx(0.8)
    assert same.tpot_ms == pytest.approx(one.tpot_ms)


@pytest.mark.heavy("numba")  # takes long
@pytest.mark.parametrize("device", ["apple-m3-max", "rtx-3090-pcie3", "jetson-orin-nx-16gb", "rtx-5090"])
def test_order_of_overlaps_and_of_hit_rates(device):
    for rate in (0.0, 0.5, 0.9, 1.0):
        modes = ("none", "layer", "prefetch")
        none, layer, ahead = (tpot(device=device, hit_rate=rate, overlap=mode) for mode in modes)
        assert none >= layer * (1 - 1e-9)
        assert layer >= ahead * (1 - 1e-9)
    times = [tpot(device=device, hit_rate=rate) for rate in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert times == sorted(times, reverse=True)


def test_all_hits_wait_for_nothing_and_more_than_everything_can_be_read():
    parts = remoe_sim.estimate(**PHONE, hit_rate=1)[0].times.parts_ms
    assert parts["storage_wait"] == parts["pcie_wait"] == 0
    all_bytes = remoe_sim.estimate(**PHONE)[0].bytes_per_token
    once, twice = (
        remoe_sim.estimate(**PHONE, overlap="none", bytes_per_token=round(factor * all_bytes))[0] for factor in (1, 2)
    )
    assert twice.hit_rate == 0
    assert twice.times.parts_ms["storage_wait"] > 1.5 * once.times.parts_ms["storage_wait"]


def test_a_batch_shares_experts():
    assert distinct_experts(128, 8, 1) == pytest.approx(8)
    assert distinct_experts(16, 16, 5) == 16
    one, eight = remoe_sim.estimate(**PHONE)[0], remoe_sim.estimate(**PHONE, batch=8)[0]
    assert eight.bytes_per_token < one.bytes_per_token
    assert one.tpot_ms < eight.tpot_ms < 8 * one.tpot_ms


def test_draws_have_the_mean_that_was_asked_for():
    needed, missing = draw(20, 7.3, 0.31)
    assert needed.mean() == pytest.approx(7.3, abs=0.01)
    assert missing.mean() == pytest.approx(7.3 * 0.31, rel=0.01)
    assert (missing <= needed).all()
    assert draw(3, 4, 0.0)[1].sum() == 0
    assert (draw(3, 4, 1.0)[1] == 4).all()


def test_compute_time_replaces_the_modelled_one():
    one = remoe_sim.estimate(**PHONE, hit_rate=0.5, overlap="none", compute_ms=181)[0]
    parts = one.times.parts_ms
    assert parts["dense"] + parts["experts"] + parts["fixed"] == pytest.approx(181)


def test_misses_on_the_cpu_move_nothing():
    parts = remoe_sim.estimate(**{**PHONE, "device": "rtx-4090"}, hit_rate=0.5, misses_from="cpu")[0].times.parts_ms
    assert parts["storage_wait"] == parts["pcie_wait"] == 0


def test_json_table_and_timeline(tmp_path):
    arguments = ["estimate", "--model", "qwen3-30b-a3b", "--quant", "q4_k_m", "--hit-rate", "0.9", "--json"]
    one = json.loads(CliRunner().invoke(main, [*arguments, "--device", "rtx-3090"]).stdout)
    assert one["schema"] == "remoe-sim.estimate.v1"
    assert one["tokens_per_second"] == pytest.approx(1000 / one["tpot_ms"]["mean"])
    assert sum(one["parts_ms"].values()) == pytest.approx(one["tpot_ms"]["mean"])
    two = json.loads(CliRunner().invoke(main, [*arguments, "--device", "rtx-3090,rtx-4090"]).stdout)
    assert [row["device"] for row in two["results"]] == ["rtx-3090", "rtx-4090"]
    assert two["results"][0]["tpot_ms"] == one["tpot_ms"]
    path = tmp_path / "t.json"
    answer = CliRunner().invoke(main, [*arguments, "--device", "rtx-3090", "--timeline", str(path)])
    assert answer.exit_code == 0
    events = json.loads(path.read_text())["traceEvents"]
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names == {"device", "PCIe lane 0"}
    assert all(event["dur"] > 0 for event in events if event["ph"] == "X")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"hit_rate": 1.2}, "hit rate"),
        ({"hit_rate": 0.5, "bytes_per_token": 1}, "one of them"),
        ({"batch": 0}, "batch"),
        ({"lanes": 0}, "lanes"),
        ({"overlap": "all"}, "overlap"),
        ({"misses_from": "cloud"}, "misses from"),
        ({"model": "qwen9"}, "model"),
        ({"quant": "q1"}, "q1"),
        ({"top_k": 500}, "top_k"),
    ],
)
def test_what_is_not_possible_is_said_in_a_sentence(arguments, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        remoe_sim.estimate(**{**PHONE, **arguments})


EXACT = remoe_sim.device("rtx-4090").changed(
    {
        name: Fact(value, "assumed", "test")
        for name, value in {
            "host.latency_s": 0, "host.overhead_s": 0, "host.bandwidth_bytes_per_s": 1e10, "host.lanes": 1
        }.items()
    }
)  # fmt: skip


def bytes_waited_for(**arguments):
    """What the only link carries per token, told from the waiting alone: every read takes its bytes / bandwidth."""
    one = remoe_sim.estimate(**{**PHONE, "device": EXACT, "overlap": "none", **arguments})[0]
    return one.times.parts_ms["pcie_wait"] / 1e3 * 1e10 / one.said["batch"], one


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("rate", [0, 0.3, 0.8, 0.99, 0.998, 0.999, 0.9995, 0.9999, 0.99999, 1 - 1e-9, 1])
def test_the_bytes_that_are_read_are_those_that_are_said(rate, batch):
    carried, one = bytes_waited_for(hit_rate=rate, batch=batch)
    assert carried == pytest.approx(one.bytes_per_token, rel=1e-6, abs=1e-6)
    assert one.bytes_per_token == pytest.approx(
        (1 - rate) * remoe_sim.estimate(**PHONE, batch=batch)[0].bytes_per_token
    )


@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v2-lite"])
@given(st.floats(0, 1) | st.floats(0, 0.01))
@examples(20)
def test_so_are_bytes_that_are_asked_for_and_reads_are_as_large_as_experts(model, share):
    most = remoe_sim.estimate(model, EXACT, "q8_0")[0].bytes_per_token
    asked = round(share * most)
    carried, one = bytes_waited_for(model=model, quant="q8_0", bytes_per_token=asked)
    assert carried == pytest.approx(asked, rel=1e-6, abs=1e-3)
    whole = costs_of(one.model, EXACT).near_sizes
    assert one.costs.near_sizes / whole == pytest.approx(1, rel=0.02) or not asked


def test_time_rises_with_every_miss():
    rates = [1 - 10.0**-n for n in range(12)] + [1]
    times = [tpot(hit_rate=rate) for rate in rates]
    assert times == sorted(times, reverse=True)
    assert times[-2] > times[-1]


@pytest.mark.parametrize(("lookups", "rate"), [(8, 0.3), (1, 0.01), (64, 0.9), (5, 0.0), (5, 1.0)])
def test_means_of_parts_are_those_of_many_quantiles(lookups, rate):
    from scipy.stats import binom

    from remoe_sim.devices.draws import _means

    many = binom.ppf((np.arange(16 * 4000) + 0.5) / (16 * 4000), lookups, rate).clip(0).reshape(16, 4000)
    assert _means(lookups, rate, 16) == pytest.approx(many.mean(axis=1), abs=2e-3)
