"""Devices and their links: every card loads, every number has a source, and links obey their laws."""

import json
import tomllib
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from remoe_sim import Link, cli
from remoe_sim.util.cards import STATUSES, Fact, card_names
from tests.oracle import naive_link

MIB = 2**20
NAMES = card_names("device")
FACT = '{{ value = {}, status = "verified", source = "a test" }}'
CARD = "\n".join(
    ['title = "Box"', "unified = true"]
    + [
        f"{name} = {FACT.format(value)}"
        for name, value in {
            **{"memory_bytes": 2**30, "bandwidth_bytes_per_s": 1e10, "efficiency": 0.5},
            **{"layer_s": 1e-5, "expert_s": 0, "step_s": 1e-3},
        }.items()
    ]
)
STORAGE = "\n[storage]\n" + "\n".join(
    f"{name} = {FACT.format(value)}"
    for name, value in {"latency_s": 1e-4, "bandwidth_bytes_per_s": 1e9, "lanes": 4, "block_bytes": 4096}.items()
)


def write(folder, text):
    path = folder / "box.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_sane(name):
    device = remoe_sim.device(name)
    assert device.name == name
    assert 2**30 <= device.memory_bytes <= 2**38
    assert 1e9 <= device.bandwidth_bytes_per_s <= 1e13
    assert 0 < device.efficiency <= 1
    assert 0 <= max(device.expert_s, device.layer_s) <= device.step_s < 0.1
    assert device.unified == (device.host is None)
    for link in (device.host, device.storage):
        assert link is None or 1e8 <= link.bandwidth_bytes_per_s < device.bandwidth_bytes_per_s
        assert link is None or 0 < link.latency_s < 1e-3
    assert device.host is None or device.storage is None or device.host.latency_s < device.storage.latency_s
    for fact in device.facts.values():
        assert fact.status in STATUSES
        assert fact.source.strip()
    assert (device.fitted_from is not None) == any(fact.status == "fitted" for fact in device.facts.values())


@pytest.mark.parametrize("name", NAMES)
def test_what_nobody_has_checked_is_said(name):
    device = remoe_sim.device(name)
    said = " ".join(device.unverified)
    for number, fact in device.facts.items():
        assert (f" {number} {fact.value:g}" in said) == (fact.status in ("assumed", "unverified")), number
    assert not device.unverified or f"device {name}: " in said


@pytest.mark.parametrize("name", NAMES)
def test_a_card_that_is_written_reads_as_the_same_device(name, tmp_path):
    device = remoe_sim.device(name)
    text = device.to_toml(tmp_path / f"{name}.toml")
    assert remoe_sim.device(tmp_path / f"{name}.toml") == device
    assert tomllib.loads(text)["title"] == device.title
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.toml"]


def test_names_that_people_look_for():
    assert {"jetson-orin-nx-16gb", "rtx-3060", "rtx-3090-pcie3", "rtx-5090", "oneplus-15r", "apple-m3-max"} <= set(
        NAMES
    )
    with pytest.raises(ValueError, match="unknown device 'rtx-4091'; did you mean 'rtx-4090'"):
        remoe_sim.device("rtx-4091")


def test_pcie_generations_differ():
    third, fourth, fifth = (remoe_sim.device(name).host for name in ("rtx-4090-pcie3", "rtx-4090", "rtx-5090"))
    assert 2 * third.bandwidth_bytes_per_s < 1.1 * fourth.bandwidth_bytes_per_s < fifth.bandwidth_bytes_per_s
    narrow = remoe_sim.device("rtx-4060-ti").host
    assert narrow.bandwidth_bytes_per_s < 0.6 * fourth.bandwidth_bytes_per_s


@pytest.mark.parametrize(
    ("size", "lanes", "measured"),
    [
        *[(4 * MIB, 1, 1810), (4 * MIB, 2, 2460), (4 * MIB, 4, 2458), (4 * MIB, 8, 2420), (4 * MIB, 32, 2255)],
        *[(MIB // 8, 2, 954), (MIB, 2, 2085)],
    ],
)
def test_the_phone_reads_as_it_was_measured(size, lanes, measured):
    """BigMoeOnEdge, iobench-ceiling.md, MiB/s of direct random reads."""
    flash = remoe_sim.device("snapdragon-8-gen-3-phone").storage  # the OnePlus's card has what its engine reaches
    assert flash.throughput(size, lanes) / MIB == pytest.approx(measured, rel=0.07)


# --- links

LINKS = st.builds(
    Link,
    name=st.just("link"),
    latency_s=st.floats(0, 1e-2),
    bandwidth_bytes_per_s=st.floats(1e6, 1e11),
    lanes=st.integers(1, 64),
    lane_bandwidth_bytes_per_s=st.none() | st.floats(1e6, 1e11),
    block_bytes=st.sampled_from([1, 512, 4096]),
    overhead_s=st.just(0.0) | st.floats(0, 1e-2),
)
SIZES = st.integers(1, 2**32)


@given(LINKS, SIZES, st.integers(1, 64))
def test_throughput_rises_with_lanes_and_size_up_to_the_bandwidth(link, size, lanes):
    reached = link.throughput(size, lanes)
    assert reached <= link.bandwidth_bytes_per_s * (1 + 1e-12)
    assert reached <= link.throughput(size, lanes + 1) * (1 + 1e-12)
    assert reached <= link.throughput(2 * size, lanes) * (1 + 1e-12)
    assert link.read_seconds(size) == link.read_seconds(size, link.lanes)
    assert link.lane_seconds(size) == pytest.approx(link.read_seconds(size, 1))


@given(LINKS, SIZES, st.floats(1, 100))
def test_a_read_takes_no_longer_on_a_faster_link(link, size, factor):
    faster = replace(link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * factor)
    quicker = replace(link, latency_s=link.latency_s / factor)
    assert max(faster.read_seconds(size), quicker.read_seconds(size)) <= link.read_seconds(size) * (1 + 1e-12)


@given(LINKS, SIZES)
def test_the_closed_form_is_what_reads_in_turn_reach(link, size):
    """The long run of the rules in `Link`'s docstring, read by read."""
    early, late = (naive_link.finish(link, [size] * (link.lanes * rounds)) for rounds in (40, 80))
    assert (late - early) / (40 * link.lanes) == pytest.approx(link.read_seconds(size), rel=0.03)


def test_no_bytes_are_read_at_no_rate():
    assert Link("link", 0, 1e9, 1).throughput(0) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bandwidth_bytes_per_s": 0}, "above 0"),
        ({"latency_s": -1}, "0 or more"),
        ({"overhead_s": -1e-6}, "0 or more"),
        ({"lane_bandwidth_bytes_per_s": 0}, "above 0"),
        ({"lanes": 0}, "whole numbers from 1"),
        ({"lanes": 1.5}, "whole numbers from 1"),
        ({"block_bytes": True}, "whole numbers from 1"),
    ],
)
def test_impossible_links_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Link(**{"name": "link", "latency_s": 1e-4, "bandwidth_bytes_per_s": 1e9, "lanes": 2, **change})
    with pytest.raises(ValueError, match="0 lanes are not possible"):
        Link("link", 1e-4, 1e9, 2).read_seconds(4096, 0)


# --- cards of users


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CARD.replace('title = "Box"', ""), 'give title = "…" and unified'),
        (CARD.replace("unified = true", "unified = 1"), 'give title = "…" and unified'),
        (CARD.replace('title = "Box"', 'title = "Box"\nnote = 3'), "have to be texts"),
        (CARD.replace("efficiency", "eficiency"), "did you mean 'efficiency'"),
        (CARD.replace("value = 0.5", "value = 1.5"), "a share of at most 1"),
        (CARD.replace("value = 0.5", "value = 0"), "'efficiency' is 0; give a number above 0"),
        (CARD.replace("value = 0.5", 'value = "half"'), "'efficiency' is 'half'; give a number"),
        (CARD + STORAGE.replace("[storage]", "[host]"), "unified memory has no link from host memory"),
        (CARD + STORAGE.replace("lanes", "depth"), r"\[storage\].*'depth'"),
        (CARD + STORAGE.replace("value = 4,", "value = 0.5,"), "lanes and block_bytes"),
        (CARD.replace('title = "Box"', 'title = "Box"\nstorage = 3'), r"\[storage\] is no table"),
    ],
)
def test_a_wrong_card_is_refused_in_one_sentence(text, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        remoe_sim.device(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "box" in str(caught.value) or "storage" in str(caught.value)


def test_a_card_of_ones_own(tmp_path):
    device = remoe_sim.device(write(tmp_path, CARD))
    assert (device.name, device.host, device.storage, device.overlap_efficiency) == ("box", None, None, 1)
    assert device.flops_per_s is None
    assert device.unverified == ()
    device = remoe_sim.device(str(write(tmp_path, CARD + STORAGE)))
    assert device.storage == Link("storage", 1e-4, 1e9, 4, None, 4096)
    assert device.to_dict()["storage"]["lanes"] == 4
    assert "storage.latency_s" in device._repr_html_()


def test_a_device_with_other_facts(tmp_path):
    device = remoe_sim.device(write(tmp_path, CARD))
    with_storage = remoe_sim.device(write(tmp_path, CARD + STORAGE))
    facts = {name: fact for name, fact in with_storage.facts.items() if name.startswith("storage.")}
    facts["layer_s"] = Fact(2e-5, "fitted", "three rows")
    changed = device.changed(facts, name="mine", fitted_from='three "rows" of 1 µs\\')
    assert (changed.name, changed.layer_s, changed.storage) == ("mine", 2e-5, with_storage.storage)
    changed.to_toml(tmp_path / "mine.toml")
    assert remoe_sim.device(tmp_path / "mine.toml") == changed
    assert device.layer_s == 1e-5
    with pytest.raises(ValueError, match="did you mean 'layer_s'"):
        device.changed({"layers_s": Fact(1, "fitted", "x")})


# --- remoe-sim list devices


def test_list_devices():
    text = CliRunner().invoke(cli.main, ["list", "devices"]).stdout
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert set(NAMES) < set(lines)
    assert max(map(len, text.splitlines())) <= 80
    assert lines["rtx-4090"].split() == ["rtx-4090", "24.0", "1,008.0", "25.6", "7.2?", "7", "of", "16"]
    assert lines["apple-m3-max"].split()[2:4] == ["400.0?", "unified"]
    answer = json.loads(CliRunner().invoke(cli.main, ["list", "devices", "--json"]).stdout)
    assert answer["schema"] == "remoe-sim.list.v1"
    assert [item["name"] for item in answer["items"]] == NAMES
    assert answer["items"] == [json.loads(json.dumps(remoe_sim.device(name).to_dict())) for name in NAMES]
