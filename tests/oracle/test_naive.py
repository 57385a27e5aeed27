"""The oracle itself, against hard facts: hand cases, published counts, exhaustive search, libCacheSim."""

import csv
import random
import struct
from functools import cache

import pytest

from tests.oracle.naive import DECODE, PREFILL, WARMUP, Row, events, exhaustive_optimum, replay, reuse
from tests.support.data import SHARED, bigmoe_rows, needs_traces

bigmoe = cache(bigmoe_rows)  # rows are never changed


def tokens(*groups, request=0, step=0):
    """Decode tokens of one layer, a step each; "AB" wants A, then B."""
    decisions = [["ABC".index(expert) for expert in group] for group in groups]
    return [Row(request, i, step + i, DECODE, [decision]) for i, decision in enumerate(decisions)]


def random_rows(seed, layers, experts, length, most):
    rng = random.Random(seed)
    draws = [[rng.sample(range(experts), rng.randint(1, most)) for _ in range(layers)] for _ in range(length)]
    return [Row(0, i, i, DECODE, decisions) for i, decisions in enumerate(draws)]


HAND = [
    ("ABCABC", 2, "lru", "mandatory", 6),
    ("ABCABC", 2, "belady", "mandatory", 4),
    ("ABCABC", 0, "belady", "bypass", 6),
    ("ABA", 1, "belady", "mandatory", 3),
    ("ABA", 1, "belady", "bypass", 2),
    ("ABA", 1, "lru", "bypass", 3),
    ("AABCAC", 1, "lfu", "bypass", 4),  # A stays: its count is never reached
    ("ABB", 1, "lfu", "bypass", 2),  # the current use counts, and the more recent stays
    ("ABABACBCB", 2, "lfu", "mandatory", 5),  # the counts outlive evictions
    ("ABABACBCB", 2, "lfu-forget", "mandatory", 6),  # here they do not
    (("AB", "AB", "BA", "A"), 1, "lru", "mandatory", 4),  # the group exceeds the cache; its last stays
    (("AB", "AB"), 1, "fifo", "mandatory", 3),  # B hits, leaves for A, and is inserted again
    (("ABA", "C", "A"), 2, "fifo", "mandatory", 4),  # A came first, and leaves first
    (("AB", "AC", "A"), 2, "fifo", "mandatory", 3),  # A is protected, so B leaves
    (("AB", "AC", "A"), 2, "fifo", "bypass", 4),  # A is not: it is oldest, and leaves for C
]


@pytest.mark.parametrize(("groups", "limit", "policy", "admission", "misses"), HAND)
def test_by_hand(groups, limit, policy, admission, misses):
    assert replay(tokens(*groups), policy, limit=[limit], admission=admission)["misses"] == misses


def test_top_stops_at_the_first_that_does_not_fit():
    layers = [[[0], None, None], [None, [0], None], [None, None, [0]], [[0, None], None, None]]
    rows = [Row(0, i, i, DECODE, decisions) for i, decisions in enumerate(layers)]
    for admission, peak in (("mandatory", 4), ("bypass", 6)):
        got = replay(rows, "lru", scope="global", limit=4, sizes=[1, 3, 2], admission=admission)
        assert got["missed"] == [1, 1, 1, 1]  # 1 and 3 fit; 2 and 3 do not, and 1 stands behind 3
        assert (got["evictions"], got["peak_resident"], got["decode"]["bytes_read"]) == (2, peak, 7)


def test_kinds_of_lookups():
    prefill = [Row(0, 0, 0, PREFILL, [[1, 2]]), Row(0, 1, 0, PREFILL, [[2, 3]])]
    decode = [Row(1, 5, 0, DECODE, [[3, 1]]), Row(1, 6, 1, DECODE, [[4, None]]), Row(1, 7, 1, DECODE, [None])]
    first, second = events(rows := prefill + decode)
    assert (first.first, first.entries) == ([(0, 1), (0, 2), (0, 3)], [(0, 2), (0, 3), (0, 1)])
    assert (list(first.kind.values()), second.kind) == ([DECODE, PREFILL, DECODE], {(0, 4): DECODE})
    assert set(events(rows, warmup=1)[0].kind.values()) == {PREFILL}
    assert events(rows, warmup=2)[1].kind == {(0, 4): WARMUP}
    assert [event.first[0][1] for event in events(rows, order="sequential")] == [1, 2, 2, 3, 3, 1, 4]
    assert [event.entries for event in events(rows, phase=DECODE)] == [[(0, 3), (0, 1)], [(0, 4)]]
    with pytest.raises(ValueError, match="interleave"):
        events(rows, reset="request")


@pytest.mark.parametrize("policy", ["lru", "lfu", "belady", "fifo", "lfu-forget"])
def test_reset_warmup_and_preload(policy):
    rows = [*tokens("AB", "BC"), *tokens("AB", request=1, step=2)]
    preload, reset = [(0, 0), (0, 1), (0, 2)], "request"
    cold = replay(rows, policy, limit=[2], reset=reset)
    warm = replay(rows, policy, limit=[2], reset=reset, preload=preload)
    assert (cold["missed"], cold["cold_misses"], cold["evictions"]) == ([2, 1, 2], 5, 1)
    assert (warm["missed"], warm["cold_misses"], warm["evictions"]) == ([0, 1, 0], 1, 1)
    assert replay(rows, policy, limit=[2], warmup=2)["lookups"] == 2
    assert replay(rows, policy, limit=[2], warmup=2, reset=reset)["lookups"] == 0
    # B, the less used, makes room for C
    assert replay(tokens("C", "A", "B"), policy, limit=[2], preload=preload)["missed"] == [1, 0, 1]


@pytest.mark.parametrize("admission", ["mandatory", "bypass"])
@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_belady_is_the_optimum(limit, admission):
    for seed in range(150):
        rows = random_rows(seed, layers=1, experts=5, length=7, most=3)
        optimum = exhaustive_optimum(events(rows), limit, admission)
        assert replay(rows, "belady", limit=[limit], admission=admission)["misses"] == optimum, seed


@pytest.mark.parametrize("twin", ["LRU", "FIFO", "Belady", "LFU"])
def test_agrees_with_libcachesim(twin, tmp_path):
    lcs = pytest.importorskip("libcachesim")
    policy, option = {"LFU": "lfu-forget"}.get(twin, twin.lower()), lcs.ReaderInitParam(ignore_obj_size=True)
    for seed in range(12):
        rows = random_rows(seed, layers=3, experts=8, length=60, most=4)
        accesses = [event.entries[0] for event in events(rows, order="sequential")]
        with (tmp_path / f"{seed}.oracleGeneral").open("wb") as file:
            for now, entry in enumerate(accesses):
                next_use = accesses.index(entry, now + 1) if entry in accesses[now + 1 :] else -1
                file.write(struct.pack("<IQIq", now, entry[0] * 8 + entry[1], 1, next_use))
        for limit in (1, 2, 3, 5, 8, 13, 20):
            reader = lcs.TraceReader(file.name, lcs.TraceType.ORACLE_GENERAL_TRACE, option)
            ratio, _ = getattr(lcs, twin)(limit, hashpower=8).process_trace(reader)
            got = replay(rows, policy, scope="global", limit=limit, order="sequential")
            assert got["misses"] == round(ratio * len(accesses)), (seed, limit)


@needs_traces
def test_toy():
    records = list(csv.DictReader((SHARED / "toy" / "events.csv").read_text().splitlines()))
    wanted = [[int(expert) for expert in record["requested_experts"].split()] for record in records]
    rows = [Row(0, step, step, DECODE, wanted[3 * step : 3 * step + 3]) for step in range(5)]
    got = replay(rows, "lru", limit=[2, 2, 2])
    assert (got["lookups"], got["hits"], got["misses"], got["evictions"]) == (30, 12, 18, 12)
    assert (got["cold_misses"], got["capacity_misses"], got["peak_resident"]) == (12, 6, 6)
    assert got["missed"] == [int(record["misses"]) for record in records]


BUDGETS = [("qwen", "lru", 4000, 29597, 39526, 27213.7), ("gptoss", "lru", 3000, 2066, 6375, 54322.8)]
BUDGETS += [("gptoss", "lfu", 1000, 1072, 6375, 66853.9), ("gptoss", "belady", 1000, 2004, 6375, 55104.4)]
CAPACITIES = {"qwen": [(6, 13881, 13881), (12, 19107, 24574)]}
CAPACITIES["gptoss"] = [(2, 811, 811), (8, 2309, 2898), (24, 3198, 3316), (64, 3316, 3316)]


@pytest.mark.heavy("numba")  # takes long
@needs_traces
@pytest.mark.parametrize(("name", "policy", "mib", "hits", "lookups", "read_mib"), BUDGETS)
def test_published_byte_budgets(name, policy, mib, hits, lookups, read_mib):
    rows, sizes = bigmoe(name)
    got = replay(rows, policy, scope="global", limit=mib << 20, sizes=sizes)
    assert (got["hits"], got["decode"]["hits"], got["lookups"]) == (hits, hits, lookups)
    assert round((got["decode"]["bytes_read"] + got["prefill"]["bytes_read"]) / 2**20, 1) == read_mib


@needs_traces
@pytest.mark.parametrize(("name", "lookups", "reused"), [("qwen", 36864, 36576), ("gptoss", 4608, 4536)])
def test_published_capacities(name, lookups, reused):
    rows, sizes = bigmoe(name)
    for capacity, lru, belady in CAPACITIES[name]:
        for policy, hits in (("lru", lru), ("belady", belady)):
            got = replay(rows, policy, limit=[capacity] * len(sizes), phase="decode")
            assert (got["hits"], got["lookups"]) == (hits, lookups)
    shared, wanted = map(sum, zip(*reuse(rows), strict=True))
    assert (shared, wanted) == (CAPACITIES[name][0][1], reused)  # the law of a cache of k experts
