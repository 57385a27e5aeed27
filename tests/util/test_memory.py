"""What is held at once: layers side by side as far as memory has room, and the arrays of a cache of all layers."""

import json
import tracemalloc
import weakref
from dataclasses import replace
from threading import Lock

import numpy as np
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli
from remoe_sim.cache.caches import Caches, replay_stream
from remoe_sim.cache.holdings import of_replay
from remoe_sim.cache.settings import Settings, find_policies
from remoe_sim.kernels import tallies
from remoe_sim.trace.accesses import select_tokens
from remoe_sim.trace.holdings import of_shared
from remoe_sim.util import memory, threads

once = pytest.mark.once  # kernels are tested elsewhere, and interpreted this takes minutes
TOKENS, LAYERS, MANY = 6000, 16, 26


class Counting:
    """A source that reads a layer whenever it is asked, and knows how many layers are in memory."""

    resident = False

    def __init__(self, layers):
        self._layers, self._lock, self.now, self.most = layers, Lock(), 0, 0

    def decisions(self, index):
        experts = self._layers[index].experts.copy()
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        weakref.finalize(experts, self._gone)
        return remoe_sim.Decisions(experts)

    def _gone(self):
        with self._lock:
            self.now -= 1

    def weights(self, index):
        return None

    def probs(self, index):
        return None


@pytest.fixture(scope="module")
def drawn():
    return remoe_sim.synth(model="olmoe-1b-7b", quant="q4_k_m", tokens=TOKENS, seed=3)


@pytest.fixture
def counting(drawn, monkeypatch):
    """A trace of 16 layers and a machine of 26 processors; afterwards memory has no limit."""
    monkeypatch.setenv("REMOE_SIM_THREADS", str(MANY))
    yield replace(drawn, source=Counting([drawn.decisions(index) for index in range(LAYERS)]))
    remoe_sim.limit_memory(None)


ASKED = {
    "replay": lambda t: remoe_sim.replay(t, 8, policy="lru,lfu,belady,fifo").to_dict(),
    "replay, one cache": lambda t: remoe_sim.replay(t, 90, policy="lru,lfu,belady,fifo", scope="global").to_dict(),
    "replay, timed": lambda t: remoe_sim.replay(t, 8, policy="lru,fifo", device="oneplus-15r").to_dict(),
    "curve": lambda t: remoe_sim.curve(t, "lru").to_dict(),
    "curve, in lanes": lambda t: remoe_sim.curve(t, "lru,lfu,belady").to_dict(),
    "curve, one cache": lambda t: remoe_sim.curve(t, "lru,lfu,belady", scope="global").to_dict(),
    "reuse": lambda t: remoe_sim.reuse(t).to_dict(),
    "info": lambda t: remoe_sim.info(t).to_dict(),
    "verdict": lambda t: remoe_sim.verdict(t, 8, policy="lru,fifo").to_dict(),
    "compare": lambda t: remoe_sim.compare(t, t, cache=8, policy="lru", resamples=200).to_dict(),
    "batches": lambda t: remoe_sim.batches(t, 1, cache=8, policy="lru").to_dict(),
    "plan": lambda t: remoe_sim.plan(t, device="oneplus-15r", policy="lru").to_dict(),
    "tiers": lambda t: remoe_sim.tiers(t, device_cache=4, host_cache=20, host_scope="layer").to_dict(),
    "prefetch": lambda t: remoe_sim.prefetch(t, cache=8, predictor="previous").to_dict(),
    "sweep": lambda t: remoe_sim.sweep(t, "lru,fifo", "4,8", scope="layer,global").to_dict(),
    "split": lambda t: remoe_sim.split(t, cache=8, policy="lru,fifo").to_dict(),
}
ALL_AT_ONCE = ("plan", "replay, one cache", "curve, one cache", "tiers", "prefetch", "sweep", "split", "replay, timed")


@once
@pytest.mark.parametrize("name", ASKED)
def test_a_limit_leaves_one_layer_at_a_time_and_the_same_answer(name, counting):
    wide = json.dumps(ASKED[name](counting), default=str)
    remoe_sim.limit_memory("1MiB")  # less than the process has, so that nothing is left
    counting.source.most = 0
    assert json.dumps(ASKED[name](counting), default=str) == wide
    if name in ("replay, one cache", "curve, one cache", "tiers", "prefetch", "sweep", "split", "plan"):
        return  # accesses of all layers are one array there, or kept for all limits
    assert counting.source.most == 1


@once
def test_without_a_limit_more_layers_are_held(counting, monkeypatch):
    """So that the test above counts something."""
    monkeypatch.setattr(memory, "SHARE", 1e6)  # however little this machine has
    remoe_sim.replay(counting, 8, policy="fifo")
    assert counting.source.most > 1


@once
def test_as_many_layers_are_held_as_fit(counting, monkeypatch):
    caches = Caches(counting, Settings(), select_tokens(counting))
    monkeypatch.setattr(threads, "room", lambda: 4 * of_replay(caches))  # what a process has changes while it runs
    monkeypatch.setattr("remoe_sim.cache.replay.adjacent_reuse", lambda trace: None)  # reads a little of all layers
    remoe_sim.replay(counting, 8, policy="lru,fifo")
    assert counting.source.most <= 4


@pytest.mark.parametrize(
    ("many", "each", "beside", "room", "fit"),
    [
        (26, 0, 0, 0, 26),  # nothing to ask for
        (26, 2**20, 0, 10 * 2**20, 10),
        (26, 2**20, 2**21, 10 * 2**20, 8),
        (4, 2**20, 0, 10 * 2**20, 4),
        (26, 2**30, 0, 10 * 2**20, 1),
        (26, 2**30, 0, -5, 1),  # more is taken than is allowed
        (26, 2**30, 0, float("inf"), 26),
        (1, 2**40, 0, 0, 1),
    ],
)
def test_how_many_fit(many, each, beside, room, fit, monkeypatch):
    monkeypatch.setattr(threads, "room", lambda: room)
    assert threads.fewer(many, each, beside) == fit


@pytest.mark.parametrize("fit", [1, 2, 5])
def test_calls_and_answers_that_are_held_at_once(fit, monkeypatch):
    """Calls that run take 10 MiB, their answers 4, of which one waits and the caller has one."""
    mib = 2**20
    monkeypatch.setenv("REMOE_SIM_THREADS", str(MANY))
    monkeypatch.setattr(threads, "room", lambda: (10 * fit + 8) * mib)
    lock, running, most = Lock(), 0, 0

    def work(index):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        total = sum(range(20_000))
        with lock:
            running -= 1
        return total

    assert len(list(threads.map_layers(work, 60, 10 * mib, 4 * mib))) == 60
    assert most <= fit


@once
@pytest.mark.parametrize("policy", ["lru", "lfu", "belady", "fifo", "lru-k", "static-oracle", "s3fifo"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_estimates_are_not_below_what_is_held(policy, scope, drawn):
    """Arrays that numpy makes, which are all large ones; a warm run, so that no compiler takes part."""
    admission = "bypass" if policy == "static-oracle" else "mandatory"
    caches, one = (
        Caches(drawn, Settings(scope=scope, admission=admission), select_tokens(drawn)),
        find_policies(policy)[0],
    )

    def work():
        views = caches.layer_views(0) if scope == "layer" else shared
        rules = caches.layer_rules(0) if scope == "layer" else caches.global_rules()
        return replay_stream(one, views.get(one.by_last), 12, rules)

    shared = caches.global_views(False)
    shared.get(one.by_last)
    work()
    tracemalloc.start()
    try:
        work()
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    estimate = of_replay(caches) if scope == "layer" else of_shared(shared.get(one.by_last))
    assert held <= estimate


@once
@pytest.mark.parametrize(("policy", "most"), [("lru", 10), ("lfu", 14), ("belady", 16)])
def test_a_cache_of_all_layers_takes_few_bytes_per_lookup(policy, most, drawn):
    """Entry 2, kind 1, first use 1, hit 1; of a group 12 and 16, shared by eight; keys 4, and for places 2 more."""
    trace = replace(drawn, step=np.arange(TOKENS, dtype=np.int32))  # so that the groups are of eight
    remoe_sim.replay(trace, 200, policy=policy, scope="global")
    tracemalloc.start()
    try:
        report = remoe_sim.replay(trace, 200, policy=policy, scope="global")
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held / report[policy].lookups < most


@pytest.mark.parametrize("seed", range(3))
def test_counts_by_layer(seed):
    chance = np.random.default_rng(seed)
    entries, kinds = chance.integers(0, 10, 60).astype(np.uint16), chance.integers(0, 3, 60).astype(np.uint8)
    hit, first = chance.random(60) < 0.5, chance.random(60) < 0.3
    layer_of, table = np.repeat(np.arange(2), 5), np.zeros((2, 3, 3), np.int64)
    tallies.tally_layers(entries, kinds, hit, first, layer_of, table)
    for layer in range(2):
        for kind in range(3):
            mine = [at for at in range(60) if layer_of[entries[at]] == layer and kinds[at] == kind]
            cold = sum(first[at] and not hit[at] for at in mine)
            assert table[layer, kind].tolist() == [len(mine), sum(hit[mine]), cold]


def files(folder, **texts):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)


MEMINFO = "MemTotal: 9000 kB\nMemAvailable: 4000 kB\n"


def test_what_is_available_is_the_least_of_machine_and_groups(tmp_path):
    meminfo, groups, own = tmp_path / "meminfo", tmp_path / "cgroup", tmp_path / "own"
    meminfo.write_text(MEMINFO)
    own.write_text("0::/job/step\n")
    assert memory.available(meminfo, groups, own) == 4000 * 1024
    files(groups / "job" / "step", memory__max="max\n", memory__current="7\n")
    assert memory.available(meminfo, groups, own) == 4000 * 1024
    files(groups / "job", memory__max="3000000\n", memory__current="2500000\n",
          memory__stat="anon 5\ninactive_file 1000\nactive_file 24\n")  # fmt: skip
    assert memory.available(meminfo, groups, own) == 501_024
    files(groups, memory__max="1000\n", memory__current="2500000\n")
    assert memory.available(meminfo, groups, own) == 0


def test_version_1_of_control_groups(tmp_path):
    meminfo, groups, own = tmp_path / "meminfo", tmp_path / "cgroup", tmp_path / "own"
    meminfo.write_text(MEMINFO)
    own.write_text("5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/\n")
    files(groups / "memory", memory__limit_in_bytes=f"{2**63 - 4096}\n", memory__usage_in_bytes="5\n")
    assert memory.available(meminfo, groups, own) == 4000 * 1024
    files(groups / "memory", memory__limit_in_bytes="9000\n", memory__usage_in_bytes="5000\n")  # a container's own
    assert memory.available(meminfo, groups, own) == 4000


@pytest.mark.parametrize("text", ["", "MemAvailable: none kB\n", "MemTotal: 5 kB\n"])
def test_where_the_system_says_nothing_there_is_no_bound(text, tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(text)
    assert memory.available(meminfo, tmp_path / "none", tmp_path / "none") is None
    assert memory.available(tmp_path / "none", tmp_path / "none", tmp_path / "none") is None


def test_a_limit_counts_what_is_taken_already(monkeypatch):
    monkeypatch.setenv("REMOE_SIM_MEMORY_LIMIT", "1TiB")
    assert memory.memory_limit() == 2**40
    assert memory.room() <= 2**40 - 2**20
    monkeypatch.setenv("REMOE_SIM_MEMORY_LIMIT", "1MiB")
    assert memory.room() < 0
    remoe_sim.limit_memory("2TiB")
    assert memory.memory_limit() == 2**41  # what is said here goes before what is said to all
    remoe_sim.limit_memory(None)


def test_bad_limits_and_threads_are_one_sentence(monkeypatch):
    with pytest.raises(ValueError, match="'much' is not a size"):
        remoe_sim.limit_memory("much")
    monkeypatch.setenv("REMOE_SIM_MEMORY_LIMIT", "much")
    with pytest.raises(ValueError, match="REMOE_SIM_MEMORY_LIMIT: 'much' is not a size"):
        memory.room()
    for given in ("0", "-1", "two"):
        monkeypatch.setenv("REMOE_SIM_THREADS", given)
        with pytest.raises(ValueError, match=f"REMOE_SIM_THREADS '{given}' is not possible"):
            threads.most_threads()


def test_the_option_limits_the_process():
    done = CliRunner().invoke(cli.main, ["replay", "sample:qwen-original", "--cache", "8", "--memory-limit", "2GiB"])
    assert done.exit_code == 0, done.output
    assert memory.memory_limit() == 2**31
    remoe_sim.limit_memory(None)
    done = CliRunner().invoke(cli.main, ["curve", "sample:qwen-original", "--memory-limit", "much"])
    assert done.exit_code
    assert "'much' is not a size" in str(done.exception)
