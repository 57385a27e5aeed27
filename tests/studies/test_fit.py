"""Fits: what is kept where, which placements there are, times next to those of `estimate`, targets, what is refused."""

import json

import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim.cli import main
from remoe_sim.devices.expected import SYSTEM, WORKSPACE

QWEN = "qwen3-30b-a3b"


def by_placement(*arguments, quant="q4_k_m", **more):
    return {row.placement: row for row in remoe_sim.fit(*arguments, quant=quant, **more).results}


def test_all_on_the_device_if_that_fits():
    (row,) = remoe_sim.fit(QWEN, "rtx-4090", quant="q4_k_m", context=512).results
    given = remoe_sim.estimate(QWEN, "rtx-4090", "q4_k_m", hit_rate=1)[0]
    assert (row.placement, row.fits) == ("device", True)
    assert row.tpot_ms == pytest.approx(given.tpot_ms)
    band = row.to_dict()["tpot_ms"]["band"]
    assert (band["class"], band["high"]) == (given.band.of, pytest.approx(given.band.high))


def test_what_does_not_fit_says_by_how_much():
    model, device = remoe_sim.model(QWEN, "q4_k_m"), remoe_sim.device("rtx-3060")
    row = by_placement(QWEN, "rtx-3060")["device"]
    kv = 4096 * sum(model.kv_bytes_per_token)
    assert row.missing_bytes == pytest.approx(model.total_bytes + kv + WORKSPACE - device.usable_bytes, abs=2)
    assert (row.to_dict()["fits"], row.to_dict()["tpot_ms"], row.flags is None) == (False, None, False)
    shared = remoe_sim.fit(QWEN, "jetson-orin-nx-16gb", quant="q4_k_m").results
    assert {one.placement for one in shared} == {"device", "cache-storage", "mapped"}  # one memory for both
    device = remoe_sim.device("jetson-orin-nx-16gb")
    alone = next(one for one in shared if not one.fits)
    assert alone.missing_bytes == pytest.approx(
        model.total_bytes + kv + WORKSPACE + (device.system_bytes or SYSTEM) - device.usable_bytes, abs=2
    )


def test_the_device_has_as_many_layers_as_it_holds():
    rows = by_placement(QWEN, "rtx-3060", context=512)
    row, model = rows["layers"], rows["layers"].model
    room = remoe_sim.device("rtx-3060").usable_bytes - row.kept.total
    each = [size * model.experts for size in model.expert_bytes]
    most = max(n for n in range(len(each) + 1) if sum(each[len(each) - n :]) <= room)
    assert row.device_bytes == sum(each[len(each) - most :])
    assert row.host_bytes == model.routed_bytes - row.device_bytes
    given = remoe_sim.estimate(QWEN, "rtx-3060", "q4_k_m", cpu_moe_layers=row.cpu_moe_layers)[0]
    assert row.tpot_ms == pytest.approx(given.tpot_ms)
    assert f"--n-cpu-moe {row.cpu_moe_layers} -c 512" in row.flags[0]["flags"]


@pytest.mark.parametrize(("placement", "place"), [("cache-cpu", "cpu"), ("cache-link", "host")])
def test_a_cache_has_the_hit_rate_of_its_slots(placement, place):
    row = by_placement(QWEN, "rtx-3060", context=512)[placement]
    given = remoe_sim.estimate(QWEN, "rtx-3060", "q4_k_m", cache=row.slots, misses_from=place)[0]
    found = row.to_dict()
    assert (found["hit_rate"], found["hit_rate_band"]) == (given.hit_rate, given.expected.to_dict())
    assert row.tpot_ms == pytest.approx(given.tpot_ms, rel=0.02)  # of fewer steps
    assert row.run.band.high == pytest.approx(given.band.high, rel=0.1)


def test_a_small_host_holds_no_experts():
    small = by_placement("gpt-oss-120b", "rtx-3060", host_memory="32GiB")
    assert not small["layers"].fits
    assert "its host lacks" in small["layers"].short[0]
    assert small["cache-storage"].fits
    large = by_placement("gpt-oss-120b", "rtx-3060", host_memory="128GiB")
    assert large["layers"].fits
    assert "cache-storage" not in large
    assert large["cache-cpu"].tokens_per_second > small["cache-storage"].tokens_per_second


def test_quantisations_that_are_tried():
    tried = {row.model.quant for row in remoe_sim.fit(QWEN, "rtx-3060").results}
    assert tried == {"q8_0", "q6_k", "q5_k_m", "q4_k_m"}
    assert {row.model.quant for row in remoe_sim.fit("gpt-oss-120b", "rtx-3060").results} == {"mxfp4_moe"}
    few = remoe_sim.fit("glm-4.5-air", "rtx-3060", memory="3GiB", host_memory="8GiB").results
    assert "q2_k" in {row.model.quant for row in few}


def test_rows_are_sorted_and_targets_are_said():
    report = remoe_sim.fit(f"{QWEN},olmoe-1b-7b", "rtx-3060,jetson-orin-nx-16gb", min_tps=30)
    fitting = [row for row in report.results if row.fits]
    assert [row.tpot_ms for row in fitting] == sorted(row.tpot_ms for row in fitting)
    assert all(row.reaches == (row.tokens_per_second >= 30) for row in fitting)
    assert not any(row.reaches for row in report.results if not row.fits)
    assert len(report.leading) == 4
    assert "of 4 pairs of model and device reach 30 tokens/s" in report.sentence
    same = remoe_sim.fit(f"{QWEN},olmoe-1b-7b", "rtx-3060,jetson-orin-nx-16gb", target_tpot="33.333333ms")
    assert [row.reaches for row in same.results] == [row.reaches for row in report.results]
    assert len(report.to_frame()) == len(report)


def test_the_command():
    words = ["fit", QWEN, "--device", "rtx-3060", "--quant", "q4_k_m"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0
    assert shown.stdout.startswith("Qwen3-30B-A3B in q4_k_m on rtx-3060")
    assert "untested" in shown.stdout
    given = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert given["schema"] == "remoe-sim.fit.v1"
    assert given["results"][0]["limited_by"] in {*given["results"][0]["parts_ms"], "cpu"}
    nothing = CliRunner().invoke(main, ["fit", "deepseek-v3", "--device", "rtx-3060", "--memory", "2GiB"])
    assert nothing.stdout.startswith("Nothing fits. DeepSeek-V3")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"min_tps": 0}, "give a number above 0"),
        ({"min_tps": 3, "target_tpot": 3}, "give one of them"),
        ({"device": "rtx-2"}, "unknown device 'rtx-2'"),
        ({"device": []}, "name at least one of each"),
    ],
)
def test_refused(given, says):
    with pytest.raises(ValueError, match=says):
        remoe_sim.fit(**{"model": QWEN, "device": "rtx-3060", **given})


def test_the_first_token_takes_a_prompt_as_one_step():
    short, long = (remoe_sim.fit(QWEN, "rtx-4090", quant="q4_k_m", prompt=many)[0] for many in (64, 4096))
    given = remoe_sim.estimate(QWEN, "rtx-4090", "q4_k_m", hit_rate=1, batch=64, context=32)[0]
    assert short.first_ms == pytest.approx(given.tpot_ms, rel=0.02)
    assert long.first_ms > short.first_ms > short.tpot_ms
    assert long.to_dict()["ttft_ms"] == {"mean": long.first_ms, "prompt_tokens": 4096}
    rows = by_placement(QWEN, "rtx-3060")
    assert rows["layers"].to_dict()["ttft_ms"] is None  # nothing says how fast the CPU reads prompts
    assert rows["cache-link"].first_ms > rows["cache-link"].tpot_ms


def test_a_mapped_file_is_a_placement_where_memory_is_one():
    rows = by_placement(QWEN, "jetson-orin-nx-16gb")
    given = remoe_sim.estimate(QWEN, "jetson-orin-nx-16gb", "q4_k_m", residency="mapped", context=4096)[0]
    assert rows["mapped"].tpot_ms == given.tpot_ms
    assert rows["mapped"].to_dict()["hit_rate"] == given.hit_rate
    assert "mapped" not in by_placement(QWEN, "rtx-3060")


def test_cheapest_only_with_prices():
    report = remoe_sim.fit(QWEN, "rtx-3060=280, rtx-4090=1600", quant="q4_k_m", min_tps=60)
    assert report.cheapest.device.name == "rtx-3060"
    assert report.to_dict()["cheapest"] == "rtx-3060"
    assert "The cheapest of these by the prices given is rtx-3060, at 280." in report.sentence
    assert remoe_sim.fit(QWEN, "rtx-3060,rtx-4090", quant="q4_k_m", min_tps=60).cheapest is None
    assert remoe_sim.fit(QWEN, "rtx-3060=280,rtx-4090=1600", quant="q4_k_m", min_tps=140).cheapest.price == 1600
    with pytest.raises(ValueError, match="some devices have a price and some have none"):
        remoe_sim.fit(QWEN, "rtx-3060=280,rtx-4090", min_tps=60)
    with pytest.raises(ValueError, match="prices tell the cheapest device that reaches a target"):
        remoe_sim.fit(QWEN, "rtx-3060=280")
