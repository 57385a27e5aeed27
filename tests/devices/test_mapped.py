"""Weights of a mapped file: where one page cache holds all of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import remoe_sim
from remoe_sim.devices.mapped import Pages, most_active, page_faults

DEVICE = "jetson-orin-nx-16gb"


def replayed(residency: str = "mapped", cache: int = 0, phase: str = "decode", **given: Any) -> Any:
    return remoe_sim.replay(
        "sample:qwen-original", cache, policy="lru", phase=phase, device=DEVICE, residency=residency, **given
    )["lru"]


def test_with_enough_memory_a_mapped_file_takes_as_long_as_resident_weights() -> None:
    for rule in ("lru", "two-list"):
        mapped = replayed(page_rule=rule, page_memory="1GiB")
        assert mapped.tpot_ms == replayed("resident").tpot_ms
        assert mapped.timed.to_dict()["pages"]["faults_per_token"] == 0


def test_more_memory_never_faults_more_and_what_is_left_out_falls_off_a_cliff() -> None:
    results = [replayed(page_memory=f"{size}MiB") for size in (0, 4, 8, 12, 16, 20, 24)]
    pieces = [result.timed.faults.pieces.sum() for result in results]
    assert all(more <= less for less, more in pairwise(pieces))
    assert pieces[0] > 3 * pieces[3] > 0 == pieces[-1]


def test_resident_weights_are_a_cache_of_all_experts() -> None:
    assert replayed("resident").tpot_ms["mean"] == pytest.approx(replayed("cached", cache=32).tpot_ms["mean"], rel=0.05)
    assert replayed("resident", phase="all").tpot_ms == replayed("resident", cache=8, phase="all").tpot_ms


def test_a_cache_on_top_steals_its_memory_from_the_pages() -> None:
    own = replayed(cache=8, page_memory="16MiB").timed.faults
    assert own.memory_bytes == 16 * 2**20 - 4 * 8 * 147456
    assert own.pieces.sum() > 0


def test_threads_share_the_latency_and_the_drive() -> None:
    times = [replayed(page_memory="12MiB", fault_threads=count).timed.faults.seconds.sum() for count in (1, 4, 64)]
    assert times[0] > times[1] >= times[2] > 0


def test_faults_of_a_step_are_those_of_a_hand_made_cache() -> None:
    """Two steps of one expert each, in a page cache that holds all but two pieces: the pieces are looked for one by one
    in a list that starts with the file as it was read."""
    trace = remoe_sim.read_trace("sample:qwen-original")
    from remoe_sim.devices.run import model_of_trace

    model = model_of_trace(trace)
    assert model is not None
    ahead, held, found = 131072, [], []
    routed = [(at, e) for at in range(len(model.moe_layers)) for e in range(model.experts)]
    wholes = {("expert", *one): -(-model.expert_bytes[one[0]] // ahead) for one in routed}
    wholes |= {("dense", at): -(-size // ahead) for at, size in enumerate(model.dense_bytes)}

    def step(experts: list[tuple[int, int]]) -> int:
        faults = 0
        for layer in range(model.layers):
            names = [("dense", layer)]
            if layer in model.moe_layers:
                at = model.moe_layers.index(layer)
                names += [("expert", *one) for one in sorted(experts) if one[0] == at]
            for name in names:
                for piece in range(wholes[name]):
                    one = (name, piece)
                    faults += one not in held
                    held[:] = ([other for other in held if other != one] + [one])[-room:]
        return faults

    room = sum(wholes.values()) - 2
    step(routed)
    found = [step([(0, 0)]), step([(0, 0), (3, 5)])]
    device = remoe_sim.machine(DEVICE)
    whole = sum(model.expert_bytes) * model.experts + sum(model.dense_bytes)
    memory = -(-room * whole // sum(wholes.values()))
    numbers = np.array([0, 1, 1]), np.array([0, 0, 3 * model.experts + 5])
    faults = page_faults(Pages(), device, model, memory, 2, *numbers)
    assert faults.pieces.tolist() == found
    assert found[0] > 0


def test_linux_leaves_the_active_list_a_share_that_grows_with_memory() -> None:
    assert [most_active(4000, gib * 2**30) for gib in (0, 1, 10)] == [2000, 3000, 3636]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"device": "rtx-4090", "residency": "mapped"}, "has a memory of its own"),
        ({"device": DEVICE, "residency": "mapped", "misses_from": "cpu"}, "read from storage"),
        ({"device": DEVICE, "page_memory": "1GiB"}, "give --residency mapped"),
        ({"device": DEVICE, "residency": "paged"}, "resident"),
        ({"device": DEVICE, "residency": "mapped", "page_rule": "clock"}, "two-list"),
        ({"device": DEVICE, "residency": "mapped", "fault_threads": 0}, "whole number from 1"),
    ],
)
def test_what_is_not_possible_is_said(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        remoe_sim.replay("sample:qwen-original", 0, **given)


ESTIMATED = {"model": "deepseek-v2-lite", "quant": "q8_0", "device": DEVICE}


def estimated(**given: Any) -> Any:
    return remoe_sim.estimate(**{**ESTIMATED, "residency": "mapped", **given})[0]


def test_an_estimate_falls_off_the_cliff_where_what_a_step_reads_no_longer_fits() -> None:
    sizes = (0.5, 1.0, 4.0, 8.0, 12.0, 15.0, 16.0)
    times = [estimated(page_memory=f"{size}GiB").tpot_ms for size in sizes]
    assert times == sorted(times, reverse=True)
    everything = estimated(page_memory="0.5GiB").faults
    sized = remoe_sim.model("deepseek-v2-lite", "q8_0")
    assert everything.bytes == pytest.approx(
        sum(sized.dense_bytes) + sized.head_bytes + sized.top_k * sum(sized.expert_bytes)
    )
    resident = remoe_sim.estimate(**ESTIMATED, residency="resident")[0]
    assert everything.bytes == estimated(page_memory=round(everything.bytes) - 2**20).faults.bytes
    assert everything.bytes > 1.3 * estimated(page_memory=round(everything.bytes) + 2**20).faults.bytes
    assert times[-1] == resident.tpot_ms == remoe_sim.estimate(**ESTIMATED, hit_rate=1)[0].tpot_ms


def test_an_estimate_takes_the_curve_at_the_share_that_is_left_and_says_so() -> None:
    sized = remoe_sim.model("deepseek-v2-lite", "q8_0")
    one = estimated(page_memory="8GiB")
    share = (8 * 2**30 - sum(sized.dense_bytes) - sized.head_bytes) / sized.routed_bytes
    assert one.hit_rate == remoe_sim.hit_rate_curve("deepseek-v2-lite").at(share).rate
    assert one.to_dict()["pages"]["experts_share"] == pytest.approx(share)
    assert any("approximate" in note for note in one.notes)
    assert estimated(page_memory="8GiB", hit_rate=0.5).hit_rate == 0.5
    assert estimated(page_memory="8GiB", fault_threads=8).tpot_ms < one.tpot_ms


def test_an_estimate_is_near_a_replay_with_the_hit_rate_that_it_had() -> None:
    """Dense weights and half of the experts in memory: a replay of a trace faults about as an LRU of those experts."""
    trace = remoe_sim.synth(tokens=600, reuse=0.4, seed=3, model="deepseek-v2-lite")
    given = {"device": DEVICE, "model": "deepseek-v2-lite", "quant": "q8_0"}
    replayed = remoe_sim.replay(
        trace, 0, policy="lru", phase="decode", residency="mapped", page_memory="8GiB", **given
    )["lru"]
    hits = remoe_sim.replay(trace, 28, policy="lru", phase="decode", **given)["lru"].hit_rate
    assert estimated(page_memory="8GiB", hit_rate=hits).tpot_ms == pytest.approx(replayed.tpot_ms["mean"], rel=0.15)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"page_rule": "two-list"}, "takes a trace"),
        ({"bytes_per_token": "1GiB"}, "leave out --bytes-per-token"),
        ({"residency": "resident", "hit_rate": 0.5}, "leave out --hit-rate"),
        ({"residency": None, "page_memory": "1GiB"}, "give --residency mapped"),
        ({"device": "rtx-4090"}, "has a memory of its own"),
    ],
)
def test_what_an_estimate_cannot_do_is_said(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        estimated(**given)


@pytest.mark.parametrize("rule", ["lru", "two-list"])
def test_a_plan_has_the_times_of_replays_with_its_page_caches(rule: str) -> None:
    given = {"device": DEVICE, "residency": "mapped", "page_rule": rule, "phase": "decode"}
    one = remoe_sim.plan("sample:qwen-original", target_tpot="1ms", **given)[0]
    assert one.policy == rule
    assert one.target is not None
    assert one.knee is not None
    for point in (one.no_cache, one.knee, one.target, one.all_experts):
        size = point.capacity["page_bytes"]
        assert replayed(page_rule=rule, page_memory=size).tpot_ms == point.tpot_ms
    left = replayed(page_rule=rule).timed.faults.memory_bytes
    assert one.all_experts.memory_bytes - one.all_experts.cache_bytes == one.memory_bytes - left
    smaller = one.target.capacity["page_bytes"] - one.curve[1].capacity["page_bytes"] // 32
    assert rule != "lru" or replayed(page_memory=smaller).tpot_ms["mean"] > 1 >= one.target.mean
    assert "a page cache of" in one.sentence


@pytest.mark.parametrize(
    ("given", "said"),
    [({"residency": "resident"}, "all experts"), ({"page_rule": "lru"}, "give --residency mapped")],
)
def test_what_a_plan_cannot_do_is_said(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        remoe_sim.plan("sample:qwen-original", DEVICE, **given)


def test_the_command_shows_pages_and_takes_one_memory() -> None:
    from click.testing import CliRunner

    from remoe_sim.cli import main

    asked = ["plan", "sample:qwen-original", "--device", DEVICE, "--residency", "mapped"]
    shown = CliRunner().invoke(main, asked)
    assert "whole file" in shown.stdout
    refused = CliRunner().invoke(main, [*asked, "--page-memory", "1MiB"])
    assert "give --memory" in str(refused.exception)
