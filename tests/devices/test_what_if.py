"""What bounds a token, what changes of a machine buy, and one measured time to which modelled times are scaled."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from remoe_sim.cli import main
from remoe_sim.devices.costs import costs_of
from remoe_sim.devices.machine import machine
from remoe_sim.devices.measured_tpot import scale_to
from remoe_sim.devices.what_if import TERMS, faster, step_down, without
from tests.support.strategies import examples

PHONE = {"model": "qwen3-30b-a3b", "device": "oneplus-15r", "quant": "q4_k_m", "hit_rate": 0.8}
CARD = {"model": "qwen3-30b-a3b", "device": "rtx-4090", "quant": "q8_0", "hit_rate": 0.8}
MACHINES = st.sampled_from(["oneplus-15r", "rtx-4090", "rtx-3090+desktop-ddr4-3200+llama.cpp", "jetson-orin-nx-16gb"])


def one(**arguments):
    return remoe_sim.estimate(**arguments)[0]


def buys(found):
    return {change.change: change for change in found.what_if}


def test_the_term_whose_removal_saves_most_bounds_a_token():
    assert one(**PHONE).limits[0] == "storage"
    assert one(**CARD).limits[0] == "link"
    assert one(**CARD, misses_from="cpu").limits[0] == "cpu"
    assert one(**{**CARD, "hit_rate": 1}, context=4096).limits[0] in ("memory_bandwidth", "fixed")
    far = one(**{**PHONE, "hit_rate": 1}, compute_ms=200)
    assert sum(far.limits[1].values()) == pytest.approx(200)


@pytest.mark.parametrize("machine_name", ["oneplus-15r", "rtx-4090", "rtx-3090+desktop-ddr4-3200+llama.cpp"])
def test_without_overlap_terms_add_up(machine_name):
    found = one(**{**CARD, "device": machine_name}, overlap="none")
    assert sum(found.limits[1].values()) == pytest.approx(found.tpot_ms, rel=1e-6)


def test_twice_as_fast_is_a_card_with_twice_the_rate():
    device = machine("rtx-4090")
    quick = remoe_sim.estimate(**{**CARD, "device": faster(device, "link")})[0]
    assert buys(one(**CARD))["link twice as fast"].tpot_ms == pytest.approx(quick.tpot_ms)
    assert faster(device, "link").host.bandwidth_bytes_per_s == 2 * device.host.bandwidth_bytes_per_s
    host = machine("rtx-3090", host="desktop-ddr4-3200")
    assert faster(host, "host").host_card.bandwidth_bytes_per_s == 2 * host.host_card.bandwidth_bytes_per_s


def test_changes_are_the_estimates_that_one_would_ask_for():
    found = buys(one(**CARD))
    assert found["perfect prefetch"].tpot_ms == one(**CARD, overlap="prefetch").tpot_ms
    assert found["CPU share auto"].tpot_ms == one(**CARD, cpu_share="auto").tpot_ms
    assert found["batch 2"].tpot_ms == one(**CARD, batch=2).tpot_ms
    assert found["quantisation q6_k"].tpot_ms == one(**{**CARD, "quant": "q6_k"}).tpot_ms
    assert "storage twice as fast" not in found
    assert "host twice as fast" in buys(one(**CARD, misses_from="cpu"))


def test_bytes_per_token_follow_the_quantisation_and_the_batch():
    given_rate = one(**PHONE)
    plain = {name: value for name, value in PHONE.items() if name != "hit_rate"}
    given_bytes = one(**plain, bytes_per_token=round(given_rate.bytes_per_token))
    for name, change in buys(given_rate).items():
        assert buys(given_bytes)[name].tpot_ms == pytest.approx(change.tpot_ms, rel=1e-6)


def test_a_given_computing_time_stays_a_factor():
    before, after = one(**CARD, overlap="none"), one(**CARD, overlap="none", compute_ms=50)
    computing = sum(before.times.parts_ms[part] for part in ("dense", "experts", "fixed"))
    saved = before.tpot_ms - buys(before)["quantisation q6_k"].tpot_ms
    smaller = one(**{**CARD, "quant": "q6_k"}, overlap="none")
    saved_computing = computing - sum(smaller.times.parts_ms[part] for part in ("dense", "experts", "fixed"))
    wanted = saved + (50 / computing - 1) * saved_computing
    assert after.tpot_ms - buys(after)["quantisation q6_k"].tpot_ms == pytest.approx(wanted, rel=1e-4)


def test_steps_of_quantisation():
    assert [step_down(name) for name in ("bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "mxfp4")] == [
        "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", None, None,
    ]  # fmt: skip
    assert not any("quantisation" in name for name in buys(one(**{**PHONE, "quant": "q3_k_m"})))


@examples(6)
@given(name=MACHINES, hits=st.floats(0, 1), overlap=st.sampled_from(["none", "layer", "prefetch"]))
def test_no_faster_part_and_no_missing_term_makes_a_token_slower(name, hits, overlap):
    found = one(**{**CARD, "device": name, "hit_rate": hits}, overlap=overlap)
    for change in found.what_if:
        if change.change.endswith("as fast") or change.change in ("perfect prefetch", "CPU share auto"):
            assert change.tpot_ms <= found.tpot_ms * (1 + 1e-9), change
    assert set(found.limits[1]) == set(TERMS)
    assert all(0 <= saved <= found.tpot_ms * (1 + 1e-9) for saved in found.limits[1].values())


def test_without_all_terms_nothing_takes_time():
    costs = costs_of(remoe_sim.model("qwen3-30b-a3b", quant="q4_k_m"), machine("rtx-4090"))
    for term in TERMS:
        costs = without(costs, term)
    assert not any(np.any(part) for part in (costs.layer_costs, costs.head_costs, costs.expert_costs, costs.link))


@pytest.mark.parametrize(("milliseconds", "scaled"), [("400ms", "computing"), ("0.25s", "computing"), (20, "reading")])
def test_a_measured_time_is_reached_by_the_terms_that_are_free(milliseconds, scaled):
    asked = {**PHONE, "overlap": "none"} if scaled == "computing" else {**CARD, "hit_rate": 0.5, "overlap": "none"}
    before, after = one(**asked), one(**asked, measured_tpot=milliseconds)
    wanted = {"400ms": 400, "0.25s": 250}.get(milliseconds, milliseconds)
    assert after.tpot_ms == pytest.approx(wanted, rel=1e-6)
    kept = {"computing": ("storage_wait", "pcie_wait"), "reading": ("dense", "experts", "fixed")}[scaled]
    for part in kept:
        assert after.times.parts_ms[part] == pytest.approx(before.times.parts_ms[part])
    assert getattr(after.scale, scaled) != 1
    assert after.band.high / after.band.low < before.band.high / before.band.low
    assert any(f"{scaled} times by" in sentence for sentence in after.notes)


def test_what_computing_alone_exceeds_is_scaled_as_a_whole():
    found = one(**{**PHONE, "hit_rate": 0.5}, measured_tpot=1)
    assert found.tpot_ms == pytest.approx(1)
    assert found.scale.computing == found.scale.reading < 1


@examples(20)
@given(fixed=st.floats(0, 100), slope=st.floats(0.01, 100), flat=st.floats(0, 100), wanted=st.floats(0.01, 1000))
def test_factors_reach_the_time_of_any_overlap(fixed, slope, flat, wanted):
    """Reads hidden behind computing: the time is the longer of both, and a part beside."""
    costs = costs_of(remoe_sim.model("qwen3-30b-a3b", quant="q4_k_m"), machine("rtx-4090"))

    def tpot(one):
        computing = one.layer_costs[0, 3] / costs.layer_costs[0, 3]
        reading = one.link[1, 2] / costs.link[1, 2]
        return computing * fixed + max(slope * computing, flat * reading)

    found = scale_to(wanted, costs, tpot)
    assert tpot(found.silent(costs)) == pytest.approx(wanted, rel=1e-6)
    assert found.computing >= 0
    assert found.reading >= 0


def test_replay_scales_all_policies_as_the_first():
    asked = {"trace": "sample:qwen-original", "cache": 8, "policy": "lru,belady", "device": "jetson-orin-nx-16gb"}
    plain, fitted = remoe_sim.replay(**asked), remoe_sim.replay(**asked, measured_tpot="9ms")
    assert fitted["lru"].tpot_ms["mean"] == pytest.approx(9)
    assert fitted["belady"].timed.scale == fitted["lru"].timed.scale
    assert fitted["belady"].tpot_ms["mean"] < 9
    assert fitted["lru"].timed.to_dict()["scaled"]["measured_tpot_ms"] == 9
    assert plain["lru"].timed.to_dict()["limited_by"] in TERMS


def test_faults_of_a_mapped_file_are_waits_for_storage():
    asked = {"trace": "sample:qwen-original", "cache": 0, "policy": "lru", "device": "laptop", "residency": "mapped"}
    timed = remoe_sim.replay(**asked, page_memory="12MiB")["lru"].timed
    assert timed.limits[1]["storage"] == pytest.approx(timed.times.parts_ms["storage_wait"])
    assert timed.limits[1]["fixed"] == pytest.approx(timed.times.parts_ms["fixed"])


def test_the_first_steps_tell_what_limits_a_long_run(monkeypatch):
    timed = remoe_sim.replay("sample:qwen-original", cache=8, policy="lru", device="rtx-4090")["lru"].timed
    whole = timed.limits
    monkeypatch.setattr("remoe_sim.devices.run.MOST_PAIRS", timed.steps.needed.size // 2)
    half = replace(timed)
    assert half.limits[0] == whole[0]
    assert half.limits[1] != whole[1]
    assert half.limits[1][whole[0]] == pytest.approx(whole[1][whole[0]], rel=0.5)


def test_plan_takes_the_measured_time_at_the_largest_cache_that_fits():
    found = remoe_sim.plan("sample:qwen-original", device="rtx-4090", memory="30MiB", measured_tpot="3ms")
    assert found[0].memory.mean == pytest.approx(3)
    assert any("measured 3 ms" in note for note in found.notes)


def test_what_is_not_possible_with_a_measured_time():
    with pytest.raises(ValueError, match="give one of them"):
        one(**PHONE, measured_tpot=55, compute_ms=20)
    with pytest.raises(ValueError, match="one machine"):
        remoe_sim.estimate(**{**PHONE, "device": ["oneplus-15r", "rtx-4090"]}, measured_tpot=55)
    with pytest.raises(ValueError, match="150ms"):
        one(**PHONE, measured_tpot="soon")
    with pytest.raises(ValueError, match="one machine"):
        remoe_sim.plan("sample:qwen-original", device="rtx-4090,rtx-3090", measured_tpot=3)


def test_estimate_prints_what_bounds_it_and_what_would_help():
    words = [word for name, value in CARD.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    shown = CliRunner().invoke(main, ["estimate", *words])
    assert shown.exit_code == 0, shown.output
    assert "limited by link" in shown.output
    assert "link twice as fast" in shown.output
    answer = json.loads(CliRunner().invoke(main, ["estimate", *words, "--json", "--measured-tpot", "55ms"]).stdout)
    assert answer["scaled"]["measured_tpot_ms"] == 55
    assert answer["limited_by"] in TERMS
    assert {"change", "tpot_ms", "change_percent", "tokens_per_second", "note"} == set(answer["what_if"][0])
