"""Bands around predicted times: from the table of errors, and in what commands print."""

import json

import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim.cli import main
from remoe_sim.devices.band import ALL, LEAST_RUNS, all_of, band_of, class_of, errors
from remoe_sim.devices.machine import assembled
from tests.support.data import DEMO

PHONE = {"model": "qwen3-30b-a3b", "quant": "q4_k_m", "device": "oneplus-15r"}


def test_a_band_is_the_time_times_what_the_class_was_off():
    for of, known in errors().items():
        if of.startswith(ALL):
            continue
        band = band_of(50.0, of)
        used = known if known.runs >= LEAST_RUNS else errors()[all_of(of)]
        assert (band.low, band.high, band.runs) == (50.0 * used.low, 50.0 * used.high, used.runs)
        assert band.coverage == 0.8
        assert (band.remark is None) == (known.runs >= LEAST_RUNS)
        assert 0 < band.low < band.high


def test_a_class_that_nobody_measured_has_the_band_of_all_and_says_so():
    band = band_of(10.0, "mapped card")
    assert band.runs == errors()["all card"].runs
    assert "no run is known" in band.remark


def test_the_class_follows_from_numbers_and_place():
    phone, card = remoe_sim.device("oneplus-15r"), remoe_sim.device("rtx-4090")
    assert class_of(phone, "storage", False) == "storage fitted"
    assert class_of(phone, "storage", True) == "storage fitted compute time given"
    assert class_of(card, "host", False) == "host card"
    assert class_of(card, "cpu", False) == "cpu card host unknown"
    machine = assembled("rtx-4090", host="desktop-ddr5-6000", engine="llama.cpp")
    assert class_of(machine, "cpu", False) == "cpu fitted host known"
    assert class_of(machine, "resident", False) == "resident fitted"


def test_a_known_compute_time_narrows_the_band():
    def width(**more):
        band = remoe_sim.estimate(**PHONE, hit_rate=0.8, **more)[0].band
        return band.high / band.low

    assert width(compute_ms=150) < 0.8 * width()


def test_estimate_prints_the_band_and_its_json_has_it():
    arguments = [
        "estimate",
        *(word for key, value in PHONE.items() for word in (f"--{key}", value)),
        "--hit-rate",
        "0.8",
    ]
    one = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    band = one["tpot_ms"]["band"]
    assert set(band) == {"low", "high", "coverage", "runs", "class", "remark"}
    assert band["low"] < one["tpot_ms"]["mean"] < band["high"]
    assert f"80 % of comparable runs within {band['low']:,.0f} to {band['high']:,.0f} ms" in " ".join(
        CliRunner().invoke(main, arguments).stdout.split()
    )
    frame = remoe_sim.estimate(**PHONE, hit_rate=0.8).to_frame()
    assert frame["tpot_ms_low"][0] == pytest.approx(band["low"])


def test_nothing_missed_is_a_class_of_its_own():
    one = remoe_sim.estimate("qwen3-30b-a3b", "rtx-4090+generic", "q4_k_m", hit_rate=1)[0]
    assert one.band.of == "resident card"
    assert one.band.remark is None


def test_replay_and_plan_say_the_band_of_their_mean():
    trace = remoe_sim.read_trace(DEMO)
    result = remoe_sim.replay(trace, cache=16, policy="lru", device="rtx-4090+generic")["lru"]
    expected = band_of(result.tpot_ms["mean"], "host card")
    assert result.to_dict()["tpot_ms"]["band"] == expected.to_dict()
    assert (result.row()["tpot_ms_low"], result.row()["tpot_ms_high"]) == (expected.low, expected.high)
    assert expected.remark in result.timed.notes
    report = remoe_sim.plan(trace, memory="8GiB", policy="lru", device="rtx-4090+generic")
    planned = report[0]
    assert planned.curve[0].band == band_of(planned.curve[0].mean, "host card")
    assert planned.to_dict()["no_cache"]["tpot_ms"]["band"]["runs"] == expected.runs
    assert report.to_frame()["tpot_ms_low"].notna().all()
