"""Replay against the oracle, with our policies and with those of other people."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import remoe_sim
from remoe_sim.policy import SlotPolicy, StackPolicy, find
from remoe_sim.trace.schema import content_hash
from tests.oracle import naive
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.oracle.oracle import POLICIES, assert_equal, expected
from tests.support.replays import replay, replays
from tests.support.strategies import CHOICES, Case, Shape, examples, trace_of


@examples(350)
@given(replays())
def test_every_count_equals_the_oracle(drawn):
    case, arguments, limit = drawn
    report = replay(case, POLICIES, arguments, limit)
    for result in report or ():
        assert_equal(result, expected(case, result.policy, arguments, **limit))


@examples(50)
@given(replays(layers=2, preload=False, large=False), st.sampled_from(POLICIES))
def test_one_policy_equals_several(drawn, policy):
    case, arguments, limit = drawn
    report = replay(case, POLICIES, arguments, limit)
    alone = replay(case, policy, arguments, limit)
    if report is not None:
        assert alone[policy] == replace(report[policy], belady_misses=alone[policy].belady_misses)
        assert [result.policy for result in report] == list(POLICIES)
        assert [result.regret for result in report] == [result.misses - report["belady"].misses for result in report]
        assert alone[policy].regret == (0 if policy == "belady" else None)


def test_what_a_report_says():
    rows = [Row(3, 0, 0, PREFILL, [[0, 1]]), Row(3, 1, 1, DECODE, [[1, 2]]), Row(3, 2, 2, DECODE, [[1, 0]])]
    trace = trace_of(rows, Shape((4,), (2,), (10,)))
    report = remoe_sim.replay(trace, budget="20B", policy="lru,belady")
    assert report.to_dict() == {
        "schema": "remoe-sim.replay.v1", "version": remoe_sim.__version__,
        "warmup": 0, "preload": None, "train": None, "pin": None,
        "trace": {
            "path": None, "model": "random", "moe_layers": 1, "experts": 4, "top_k": 2, "tokens": 3, "requests": 1,
            "trace_hash": content_hash(trace), "schedule": None, "reroute": None,
        },
        "results": [
            {
                "policy": policy, "scope": "layer", "admission": "mandatory", "order": "set", "reset": "never",
                "phase": "all", "capacity": {"bytes": 20}, "lookups": 6, "hits": 2, "misses": 4, "cold_misses": 3,
                "capacity_misses": 1, "evictions": 2, "hit_rate": 2 / 6, "optimal": policy == "belady",
                "gap_to_belady": 0.0, "regret": 0, "bytes_read": 40, "bytes_read_per_token": 10.0,
                "peak_resident_bytes": 20,
                "prefill": {"tokens": 1, "lookups": 2, "hits": 0, "hit_rate": 0.0, "bytes_read": 20},
                "decode": {"tokens": 2, "lookups": 4, "hits": 2, "hit_rate": 0.5, "bytes_read": 20},
                "reuse_rate": 0.5, "tpot_ms": None, "tokens_per_second": None, "ttft_ms": None,
                    "parts_ms": None, "device_run": None,
            }
            for policy in ("lru", "belady")
        ],
    }  # fmt: skip
    assert remoe_sim.replay(trace, cache=2)["lru"].capacity == {"experts_per_layer": 2}
    assert remoe_sim.replay(trace, cache=2, scope="global")["lru"].capacity == {"experts": 2}
    frame = report.to_frame()
    assert frame["policy"].tolist() == ["lru", "belady"]
    assert frame["decode_hit_rate"].tolist() == [0.5, 0.5]
    assert "<td>belady</td>" in report._repr_html_()


def test_sizes_can_be_given():
    rows = [Row(0, 0, 0, DECODE, [[0], [1]]), Row(0, 1, 1, DECODE, [[2], [1]])]
    trace = trace_of(rows, Shape((4, 4), (1, 1), None))
    unknown = remoe_sim.replay(trace, cache=1)["lru"]
    assert unknown.bytes_read is unknown.bytes_read_per_token is unknown.peak_resident_bytes is None
    for sizes in ((1024, 2048), ["1KiB", "2KiB"], "1KiB,2KiB", np.array([1024, 2048])):
        assert remoe_sim.replay(trace, cache=1, expert_bytes=sizes)["lru"].bytes_read == 4096
    for size in ("1KiB", 1024, np.int64(1024)):
        assert remoe_sim.replay(trace, cache=1, expert_bytes=size)["lru"].bytes_read == 3072


@pytest.mark.parametrize("scope", CHOICES["scope"])
@pytest.mark.parametrize("order", CHOICES["order"])
@pytest.mark.parametrize("tokens", [0, 3])
def test_nothing_to_look_up(scope, order, tokens):
    shape = Shape((4, 3), (2, 1), (5, 7))
    trace = trace_of([Row(0, i, i, DECODE, [None, [None]]) for i in range(tokens)], shape)
    other = trace_of([Row(0, 0, 0, DECODE, [[3, 1], [2]])], shape)
    for preload in (None, other):
        for result in remoe_sim.replay(trace, 2, policy=POLICIES, scope=scope, order=order, preload=preload):
            assert (result.lookups, result.evictions, result.bytes_read, result.peak_resident_bytes) == (0, 0, 0, 0)
            assert result.hit_rate is result.reuse_rate is result.gap_to_belady is None
            assert result.bytes_read_per_token == (0 if tokens else None)


@pytest.mark.parametrize("scope", CHOICES["scope"])
@pytest.mark.parametrize("experts", [255, 256, 257, 4000])
def test_ids_at_the_upper_end(experts, scope):
    ids = [experts - 1, experts - 2, 0, experts - 1, 1, 2, 0, experts - 2, experts - 1, 128, 127, 0]
    rows = [Row(0, i, i, DECODE, [[expert]]) for i, expert in enumerate(ids)]
    case = Case(rows, trace_of(rows, shape := Shape((experts,), (1,), (3,))), shape)
    for cache in (2, 4, experts):
        for result in remoe_sim.replay(case.trace, cache=cache, policy=POLICIES, scope=scope):
            assert_equal(result, expected(case, result.policy, {"scope": scope}, cache=cache))


class Newest(SlotPolicy):
    """Most recently used goes first, in plain Python: what somebody writes who read the documentation."""

    name = label = "newest"

    def setup(self, limit, sizes):
        self.order = []

    def hit(self, entry):
        self.order.remove(entry)
        self.order.append(entry)

    def victim(self, protected):
        for entry in reversed(self.order):
            if not protected[entry]:
                self.order.remove(entry)
                return entry
        return -1

    def insert(self, entry):
        self.order.append(entry)


class NaiveNewest(naive.SlotPolicy):
    def hit(self, entry):
        self.queue[entry] = self.queue.pop(entry)

    def victim(self, protected):
        newest = next((entry for entry in reversed(self.queue) if entry not in protected), None)
        self.queue.pop(newest, None)
        return newest


class Thirds(StackPolicy):
    """Keys that are fractions, with many ties: the uses so far modulo 3."""

    name = label = "thirds"

    def keys(self, stream):
        keys = np.empty(stream.entries.size)
        for begin, end in zip(stream.epochs, stream.epochs[1:], strict=False):
            uses = np.zeros(stream.n_entries, np.int64)
            for i in range(stream.offsets[begin], stream.offsets[end]):
                uses[stream.entries[i]] += 1
                keys[i] = uses[stream.entries[i]] % 3 / 3
        return keys


def naive_thirds(history, entry):
    uses = len(history.past(entry))
    return uses % 3 / 3 if uses else float("inf")


@pytest.fixture(scope="module")
def strangers():
    """Two policies that the package does not know, and their oracles."""
    known, mine = find.find_policy, {"newest": Newest, "thirds": Thirds}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(find, "find_policy", lambda name: mine[name]() if name in mine else known(name))
        patch.setitem(naive.SLOT, "newest", NaiveNewest)
        patch.setitem(naive.STACK, "thirds", naive_thirds)
        yield


@pytest.mark.usefixtures("strangers")
@examples(100)
@given(replays(large=False))
def test_policies_of_other_people(drawn):
    case, arguments, limit = drawn
    report = replay(case, "newest,thirds", arguments, limit)
    for result in report or ():
        assert_equal(result, expected(case, result.policy, arguments, **limit))
