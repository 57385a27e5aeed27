"""Hit rates that estimates take from curves, and the table where nothing says what hits."""

import json

import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim.cli import main
from remoe_sim.devices.band import Band
from remoe_sim.devices.expected import WORKSPACE

CARD = {"model": "qwen3-30b-a3b", "device": "rtx-3060", "quant": "q4_k_m"}


def test_a_memory_gives_the_hit_rate_of_what_is_left():
    model, curve = remoe_sim.model("qwen3-30b-a3b", "q4_k_m"), remoe_sim.hit_rate_curve("qwen3-30b-a3b")
    rest = model.total_bytes - model.routed_bytes + 512 * sum(model.kv_bytes_per_token) + WORKSPACE
    one = remoe_sim.estimate(**CARD, memory="9GiB")[0]
    hits = curve.at((9 * 2**30 - rest) / model.routed_bytes)
    assert one.hit_rate == pytest.approx(hits.rate)
    assert one.to_dict()["hit_rate_band"] == {
        "low": pytest.approx(hits.low), "high": pytest.approx(hits.high), "source": hits.source
    }  # fmt: skip
    assert any(hits.source in note for note in one.notes)
    longer = remoe_sim.estimate(**CARD, memory="9GiB", context=16384)[0]
    assert longer.hit_rate < one.hit_rate
    assert remoe_sim.estimate(**CARD, memory="80GiB")[0].hit_rate == 1


def test_slots_are_a_share_of_the_experts():
    one = remoe_sim.estimate(**CARD, cache=32)[0]
    assert one.hit_rate == pytest.approx(remoe_sim.hit_rate_curve("qwen3-30b-a3b").at(0.25).rate)
    given = remoe_sim.estimate(**CARD, hit_rate=one.hit_rate)[0]
    assert one.tpot_ms == pytest.approx(given.tpot_ms)
    assert one.band.low < given.band.low  # what is not known of the hit rate is added
    assert one.band.high > given.band.high
    assert given.to_dict()["hit_rate_band"] is None


def test_a_band_grows_with_what_is_not_known_of_its_time():
    band = Band(8.0, 12.5, 20, "of", None)
    same = band.widened(10.0, 10.0, 10.0)
    assert (same.low, same.high) == (pytest.approx(8.0), pytest.approx(12.5))
    wide = band.widened(10.0, 9.0, 20.0)
    assert wide.low < 8.0
    assert 20.0 < wide.high < 25.0


def test_a_table_where_nothing_says_what_hits():
    report = remoe_sim.estimate(**CARD)
    assert [one.hit_rate for one in report.results] == [0, 0.5, 0.8, 0.9, 0.95, 1]
    placed = remoe_sim.estimate(**CARD, cpu_moe_layers=20)  # what hits is said by the placement
    assert len(placed) == 1
    words = ["estimate", "--model", "qwen3-30b-a3b", "--device", "rtx-3060", "--quant", "q4_k_m"]
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, done.stdout.count(" % hit:")) == (0, 6)
    done = CliRunner().invoke(main, [*words, "--cache", "32", "--json"])
    assert json.loads(done.stdout)["results"][0]["hit_rate_band"]["low"] > 0.5


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"memory": "1GiB"}, "is too small for qwen3-30b-a3b in q4_k_m: what is no routed expert takes"),
        ({"cache": 129}, "give 0 to 128"),
        ({"cache": 8, "memory": "8GiB"}, "memory and cache both say what is missed; give one of them"),
        ({"cache": 8, "hit_rate": 0.5}, "hit rate and cache both say what is missed; give one of them"),
    ],
)
def test_refused(given, says):
    with pytest.raises(ValueError, match=says):
        remoe_sim.estimate(**CARD, **given)
