"""A sample of every kind of benchmarks.fidelity.differential, that it finds what is wrong, and what a long run kept."""

import json
from pathlib import Path

import pytest
from hypothesis import given

from benchmarks.fidelity import differential
from remoe_sim.policy import Policy, find
from remoe_sim.util.plugins import plugins
from tests.support.differential_kinds import EVERY, KINDS, Kind
from tests.support.strategies import CHOICES, examples

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results" / "differential.json"
LATER = KEPT.with_name("differential_later.json")
LEAST = {"replay": 100_000, "libcachesim": 10_000, "belady": 10_000}  # of the last, two are of one instance
HARDLY = 100  # times that every value of an axis has to be there in a long run of replays


@pytest.mark.parametrize("name", KINDS)
def test_a_sample(name):
    if name == "libcachesim":
        pytest.importorskip("libcachesim")
    compared = []

    @examples(12, without_jit=3)
    @given(KINDS[name].strategy)
    def check(drawn):
        compared.extend(KINDS[name].check(drawn))

    check()
    assert compared
    assert all(one.keys() == compared[0].keys() or name in ("replay", "reroute", "tiers") for one in compared)


def test_every_policy_is_among_them():
    installed = {
        name
        for name, policy in plugins("remoe_sim.policies", Policy).items()
        if policy.__module__.startswith("remoe_sim")
    }
    apart = {"ema", "hot+lru"}  # which need an admission or a training trace: tests/policies/test_ema_and_hot.py
    assert installed - apart <= {name.split(":")[0] for name in EVERY}


@pytest.mark.heavy("numba")  # takes long
def test_a_wrong_policy_is_found_and_the_case_made_small(monkeypatch):
    """LRU that forgets to be LRU: what differs first is a trace of two tokens or so."""
    known = find.find_policy
    monkeypatch.setattr(differential, "MOST_DIFFERENCES", 1)
    monkeypatch.setattr(find, "find_policy", lambda text: relabelled(known("mru" if text == "lru" else text), text))
    found = differential.run(KINDS["pinned"], 3, 200, 60)
    assert found.differences
    first = found.differences[0]
    assert first["error"].startswith("AssertionError")
    assert first["case"].count("Row(") <= 5
    assert 0 < first["seed"] - 3_000_000 + 1 <= 20


def relabelled(policy, label):
    policy.label = label
    return policy


def test_what_is_counted():
    kind = Kind(KINDS["belady"].strategy, lambda drawn: [{"a": 1, "b": "x"}, {"a": 2}])
    tally = differential.run(kind, 0, 60, 40)
    assert (tally.configurations, tally.cases, tally.differences) == (80, 40, [])
    assert 0 < len(tally.seen) <= 40
    assert differential.to_dict(tally, 0, 0)["axes"] == {"a": {"1": 40, "2": 40}, "b": {"x": 40}}


def test_a_long_run_was_kept_and_found_nothing():
    kept = json.loads(KEPT.read_text())["kinds"]
    assert set(kept) == set(KINDS)
    for name, found in kept.items():
        assert found["differences"] == [], name
        assert found["configurations"] >= LEAST.get(name, 1000), name
    replays = kept["replay"]["axes"]
    later = json.loads(LATER.read_text())["kinds"]["replay"]  # of policies and options that came after the long run
    assert later["differences"] == []
    assert set(replays["policy"]) | set(later["axes"]["policy"]) == set(EVERY)
    assert min(later["axes"]["policy"][name] for name in set(EVERY) - set(replays["policy"])) >= HARDLY
    for name, values in CHOICES.items():
        assert set(replays[name]) == {str(value) for value in values}
    assert {axis: counts for axis, counts in replays.items() if min(counts.values()) < HARDLY} == {}
