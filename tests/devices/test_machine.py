"""Machines put together from cards: whose numbers stand, what goes together, and names of machines."""

import pytest

import remoe_sim
from remoe_sim.devices.engine import engine, make_engine
from remoe_sim.devices.host import host, make_host
from remoe_sim.devices.storage import make_storage, storage
from remoe_sim.util.cards import card_names

FACT = {"value": 0.5, "status": "measured", "source": "a test"}


@pytest.mark.parametrize("name", card_names("device"))
def test_every_device_has_its_parts(name):
    made = remoe_sim.machine(name)
    assert made.name == name
    assert made.engine is not None
    assert made.storage is not None
    assert (made.host_card is None) == made.unified
    assert made.unified or made.host_bandwidth_bytes_per_s


@pytest.mark.parametrize("kind", ["host", "storage", "engine"])
def test_every_card_is_read(kind):
    find = {"host": host, "storage": storage, "engine": engine}[kind]
    for name in card_names(kind):
        one = find(name)
        assert one.name == name
        assert one.title
        assert all(fact.source for fact in one.facts.values())
        assert repr(one).startswith(f"<{kind.title()} {name}")
        assert one.to_dict()["name"] == name


def test_what_is_named_goes_before_what_the_device_says():
    usual = remoe_sim.machine("rtx-5090-pcie4")
    assert usual.host_bandwidth_bytes_per_s == 1.1e11  # of the device's own card
    other = remoe_sim.machine("rtx-5090-pcie4", host="desktop-ddr4-3200", storage="sata-ssd")
    assert other.host_bandwidth_bytes_per_s == host("desktop-ddr4-3200").bandwidth_bytes_per_s
    assert other.storage == storage("sata-ssd").link
    assert other.name == "rtx-5090-pcie4+desktop-ddr4-3200+sata-ssd"


def test_a_name_may_bring_its_parts():
    one = remoe_sim.machine("rtx-4090+desktop-ddr4-3200+vllm")
    assert one.parts == {"host": "desktop-ddr4-3200", "storage": "nvme-pcie4", "engine": "vllm"}
    assert remoe_sim.machine("rtx-4090", host="desktop-ddr4-3200", engine="vllm") == one
    answer = remoe_sim.estimate("mixtral-8x7b", one.name, hit_rate=0.5, quant="q4_k_m")[0].to_dict()
    assert (answer["device"], answer["host"]) == (one.name, "desktop-ddr4-3200")


def test_a_slower_host_is_never_faster():
    fast, slow = (
        remoe_sim.estimate(
            "mixtral-8x7b", "rtx-4090", "q4_k_m", hit_rate=0.5, misses_from="cpu", host=name, engine="generic"
        )[0].tpot_ms
        for name in ("threadripper-7960x", "desktop-ddr4-3200")
    )
    assert fast < slow


@pytest.mark.parametrize(
    ("make", "card", "says"),
    [
        (make_host, {"title": "a"}, "'bandwidth_bytes_per_s' is missing"),
        (make_host, {"bandwidth_bytes_per_s": FACT}, 'give title = "…"'),
        (make_host, {"title": "a", "bandwidth_bytes_per_s": FACT | {"value": 0}}, "give a number above 0"),
        (make_storage, {"title": "a"}, "'latency_s' is missing"),
        (make_engine, {}, 'give title = "…"'),
        (make_engine, {"title": "a", "kinds": ["abacus"]}, "unknown kind of device"),
        (make_engine, {"title": "a", "share": {"cuda": {"any": FACT | {"value": 2}}}}, "give a share above 0"),
        (make_engine, {"title": "a", "share": {"abacus": {}}}, "unknown kind of device"),
        (make_engine, {"title": "a", "share": 1}, "give a table"),
        (make_engine, {"title": "a", "layer_s": 3}, "says nothing of where it comes from"),
        (make_engine, {"title": "a", "cache": {"colour": FACT}}, "unknown entry"),
    ],
)
def test_a_card_that_is_not_possible_is_refused_in_a_sentence(make, card, says):
    with pytest.raises(ValueError, match=says) as error:
        make("mine", card)
    assert "\n" not in str(error.value)


def test_shares_are_the_nearest_that_the_card_says():
    share = {"cuda": {"q4": FACT | {"value": 0.7}, "any": FACT | {"value": 0.6}}, "any": {"any": FACT}}
    one = make_engine("mine", {"title": "mine", "share": share})
    assert [one.share_of(*given) for given in (("cuda", "q4"), ("cuda", "q8"), ("metal", "q4"))] == [0.7, 0.6, 0.5]
    assert make_engine("mine", {"title": "mine"}).share_of("cuda", "q4") is None
