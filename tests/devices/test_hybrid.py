"""Experts on the CPU: shares of misses, placed layers, and what engines and hosts say of both."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import remoe_sim
from remoe_sim.devices.costs import costs_of
from remoe_sim.devices.terms import family_of, terms_of

MODEL = {"model": "mixtral-8x7b", "quant": "q4_k_m", "device": "rtx-4090"}
HOSTS = ("desktop-ddr4-3200", "desktop-ddr5-6000", "threadripper-7960x", "epyc-9554")


def tpot(**given):
    return remoe_sim.estimate(**{**MODEL, **given})[0].tpot_ms


@given(st.sampled_from(HOSTS), st.sampled_from((0.0, 0.3, 0.7, 0.95)), st.sampled_from(("none", "layer")))
@settings(max_examples=24, deadline=None)
def test_auto_is_never_slower_than_any_share(host, hit_rate, overlap):
    same = {"host": host, "hit_rate": hit_rate, "overlap": overlap}
    auto = tpot(cpu_share="auto", **same)
    for share in (0, 0.25, 0.5, 1):
        assert auto <= tpot(cpu_share=share, **same) * (1 + 1e-9), share


@given(st.sampled_from((0.0, 0.5, 0.9)), st.integers(0, 32))
@settings(max_examples=20, deadline=None)
def test_one_more_layer_on_the_cpu_is_never_faster_on_a_slow_host(hit_rate, layers):
    same = {"host": "desktop-ddr4-3200", "hit_rate": hit_rate}
    fewer, more = (tpot(cpu_moe_layers=n, **same) for n in (max(layers - 1, 0), layers))
    assert fewer <= more * (1 + 1e-9)


def test_no_layer_on_the_cpu_is_resident_and_all_are_the_cpu():
    resident = tpot(hit_rate=1)
    assert tpot(hit_rate=0, cpu_moe_layers=0) == pytest.approx(resident)
    assert tpot(hit_rate=0, cpu_moe_layers=32) == pytest.approx(tpot(hit_rate=0, misses_from="cpu"))
    assert tpot(hit_rate=0, gpu_moe_layers=32) == pytest.approx(resident)
    assert tpot(hit_rate=0, gpu_moe_layers=12) == pytest.approx(tpot(hit_rate=0, cpu_moe_layers=20))


def test_the_share_that_was_taken_is_said():
    said = remoe_sim.estimate(**MODEL, hit_rate=0.2, cpu_share="auto")[0].to_dict()
    assert 0 < said["cpu_share"] < 1
    replayed = remoe_sim.replay(
        "sample:qwen-original", cache=8, policy="lru", device="rtx-4090", cpu_share=0.5
    ).to_dict()["results"][0]
    assert replayed["tpot_ms"]["mean"] > 0


def test_hand_over_costs():
    model, fast = remoe_sim.model("mixtral-8x7b", "q4_k_m"), remoe_sim.machine("rtx-4090")
    costs = costs_of(model, fast, misses_from="cpu")
    assert costs.expert_costs[:, 5] == pytest.approx(fast.host_card.handover_s)
    assert costs.expert_costs[0, 3] == pytest.approx(model.expert_bytes[0] / terms_of(fast, "q4_k_m").cpu_bytes_per_s)


def test_terms_of_an_engine():
    plain, named = remoe_sim.machine("rtx-4090", engine="generic"), remoe_sim.machine("rtx-4090", engine="llama.cpp")
    ours, theirs = terms_of(plain, "q4_k_m"), terms_of(named, "q4_k_m")
    assert ours.bytes_per_s == pytest.approx(plain.bandwidth_bytes_per_s * plain.efficiency)
    share = named.engine.share_of("cuda", "q4")
    assert theirs.bytes_per_s == pytest.approx(named.bandwidth_bytes_per_s * share)
    assert (theirs.layer_s, ours.layer_s) == (named.engine.layer_s, plain.layer_s)


@pytest.mark.parametrize(
    ("quant", "family"),
    [("q4_k_m", "q4"), ("Q8_0", "q8"), ("fp8", "q8"), ("mxfp4_moe", "mxfp4"), ("bf16", "16bit"), ("iq2_xs", "q4")],
)
def test_families(quant, family):
    assert family_of(quant) == family


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cpu_share": 2}, "give 0 to 1, or auto"),
        ({"cpu_share": "half"}, "give 0 to 1, or auto"),
        ({"cpu_share": 0.5, "overlap": "prefetch"}, "overlap none or layer"),
        ({"cpu_share": 0.5, "misses_from": "storage"}, "no CPU share with misses from storage"),
        ({"cpu_moe_layers": 33}, "so give 0 to 32"),
        ({"cpu_moe_layers": 3, "gpu_moe_layers": 3}, "give one of them"),
        ({"device": "jetson-orin-nx-16gb", "cpu_share": 0.5}, "jetson-orin-nx-16gb"),
    ],
)
def test_what_is_not_possible_is_said(given, says):
    with pytest.raises(ValueError, match=says) as error:
        tpot(hit_rate=0.5, **given)
    assert "\n" not in str(error.value)
