"""`verdict`: the rule by hand, every count against the oracle, who is a candidate, and real traces."""

import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, event, given
from numba import config

import remoe_sim
from remoe_sim.cache.caches import Caches
from remoe_sim.cache.settings import Settings
from remoe_sim.policy import Policy, Rules
from remoe_sim.policy.find import find_policy
from remoe_sim.studies.verdict import TARGETS, _decode_hits, _searched, _target
from remoe_sim.trace.accesses import select_tokens
from remoe_sim.util.plugins import plugins
from tests.oracle import naive
from tests.oracle.naive import DECODE, Row
from tests.oracle.oracle import expected
from tests.support.data import SHARED, needs_traces
from tests.support.strategies import Shape, cases, examples, trace_of
from tests.support.verdicts import one_layer, questions

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="takes minutes where kernels are interpreted")


def test_the_three_verdicts_by_hand():
    """Round three experts with room for two: LRU misses all 60, the optimum, which may not bypass, about half."""
    trace = one_layer([0, 1, 2] * 20)
    policy = remoe_sim.verdict(trace, cache=2, policy="lru")
    assert policy.verdict == "policy"
    assert (policy.best.misses, policy.best.cold_misses, policy.belady.misses) == (60, 3, 31)
    assert (policy.avoidable, policy.remaining) == (29, 28)
    tight = remoe_sim.verdict(one_layer([0, 1, 2, 3, 4, 5, 6, 7] * 8), cache=2, policy="lru")
    assert tight.verdict == "working set"
    assert tight.proven
    assert tight.best.misses == 64
    assert tight.avoidable * 2 < tight.best.capacity_misses
    fits = remoe_sim.verdict(trace, cache=3, policy="lru")
    assert fits.verdict == "fits"
    assert (fits.best.misses, fits.best.capacity_misses) == (3, 0)
    assert "Verdict: fits" in str(fits)


@pytest.mark.parametrize(("turns", "kind"), [(2, "fits"), (3, "working set")])
def test_one_per_cent_of_the_lookups_still_fits(turns, kind):
    found = remoe_sim.verdict(one_layer([0, 1] * turns + [2] * (200 - 2 * turns)), cache=1, policy="lru")
    assert (found.best.lookups, found.best.capacity_misses) == (200, 2 * turns - 2)
    assert found.verdict == kind


def test_forced_admission_is_named_where_it_is_to_blame():
    """One expert in every other step, and in between nothing that comes again: it stays only if others may bypass."""
    experts = [0 if i % 2 == 0 else 1 + i // 2 for i in range(60)]
    found = remoe_sim.verdict(one_layer(experts, 40), cache=1, policy="lru")
    assert (found.verdict, found.belady.misses, found.bounds["bypass"].misses) == ("working set", 60, 31)
    assert "prefetching or experts that need not enter the cache, not another policy" in found.paragraph
    assert "need not enter" not in remoe_sim.verdict(one_layer(range(8), 8), cache=1, policy="lru").paragraph


@examples(80)
@given(questions(large=False))
def test_every_count_is_the_oracles(drawn):
    case, arguments, limit = drawn
    found = remoe_sim.verdict(case.trace, policy="lru,lfu,fifo", preload=case.preload, **arguments, **limit)
    event(str(found.verdict))

    def misses(policy, admission=arguments["admission"]):
        return expected(case, policy, {**arguments, "admission": admission}, **limit)["misses"]

    online = {policy: misses(policy) for policy in ("lru", "lfu", "fifo")}
    assert {result.policy: result.misses for result in found.online} == online
    assert found.best.misses == min(online.values())
    if online["lru"] == found.best.misses:
        assert found.best.policy == "lru"
    belady = {admission: misses("belady", admission) for admission in ("mandatory", "bypass")}
    assert {name: bound.misses for name, bound in found.bounds.items()} == belady
    lookups, cold = found.best.lookups, found.best.cold_misses
    capacity = found.best.misses - cold
    avoided = min(max(found.best.misses - belady[arguments["admission"]], 0), capacity)
    if not lookups:
        assert found.verdict is None
        assert "no verdict" in found.paragraph
    elif capacity <= lookups / 100:
        assert found.verdict == "fits"
    else:
        assert found.verdict == ("policy" if 2 * avoided >= capacity else "working set")
    gap = found.gap
    if gap["note"] is None:
        assert gap["misses"] == found.best.misses - belady["bypass"] == gap["admission"] + gap["future_knowledge"]
        assert gap["admission"] == belady[arguments["admission"]] - belady["bypass"] >= 0
        assert gap["future_knowledge"] >= 0
    else:
        sizes = case.shape.sizes
        assert arguments["warmup"] or (arguments["scope"] == "global" and "budget" in limit and len(set(sizes)) > 1)
    if found.least_misses is not None:
        assert found.least_misses <= min(*online.values(), belady[arguments["admission"]])
    json.dumps(found.to_dict(), allow_nan=False)


def exhaustive(events, limit, sizes):
    """The fewest misses of any rule in one cache of `limit` bytes that may bypass, by trying all contents."""
    fewest = {frozenset(): 0}
    for happened in events:
        group, after = set(happened.entries), {}
        for content, misses in fewest.items():
            misses += len(group - content)
            for kept in naive.subsets(group | content, len(group | content)):
                if sum(sizes[layer] for layer, _ in kept) <= limit:
                    after[kept] = min(misses, after.get(kept, misses))
        fewest = after
    return min(fewest.values())


@examples(40)
@given(cases(preload=False, layers=2, large=False, sized=True, most=5), st.integers(1, 12))
def test_no_rule_misses_less_than_the_least(case, budget):
    """Also where sizes are unequal, and Belady is no bound; `working set` is said to be proven only if it is true."""
    assume(len({(layer, e) for row in case.rows for layer, d in enumerate(row.decisions) for e in d or []}) <= 8)
    found = remoe_sim.verdict(case.trace, budget=budget, scope="global", admission="bypass", policy="lru")
    optimum = exhaustive(naive.events(case.rows), budget, case.shape.sizes)
    assert found.least_misses <= optimum <= found.belady.misses
    if found.verdict == "working set" and found.proven:
        assert 2 * (found.best.misses - optimum) < found.best.capacity_misses
    if found.verdict == "policy":
        assert 2 * (found.best.misses - optimum) >= found.best.capacity_misses


def test_memory_is_a_budget_less_its_reserve():
    found = remoe_sim.verdict(one_layer([0, 1] * 4), memory="1KiB", reserve="1004", policy="lru")
    assert found.capacity == {"bytes": 20}


def hits_whatever_comes(policy, admission, limit):
    """After the same tokens: how many of 12 experts hit if they come next, and go on coming."""
    random = np.random.default_rng(11)
    same = [sorted(random.choice(12, 3, replace=False).tolist()) for _ in range(60)]
    hits = 0
    for expert in range(12):
        decisions = [*same, *[[expert, None, None]] * 40]
        rows = [Row(0, i, i // 2 if i < 60 else i, DECODE, [decision]) for i, decision in enumerate(decisions)]
        trace = trace_of(rows, Shape((12,), (3,), (10,)))
        stream = Caches(trace, Settings(), select_tokens(trace)).layer_views(0).get(policy.by_last)
        rules = Rules(admission == "mandatory", popularity=np.arange(12))
        hits += int(policy.replay(stream, limit, rules).hit[-40])
    return hits


@examples(25, without_jit=6)
@given(cases(large=False, layers=3, most=25), st.sampled_from(("class-lru", "least-stale", "class-lru:half_life=2.0")),
       st.sampled_from(("mandatory", "bypass")), st.sampled_from(("set", "sequential")))  # fmt: skip
def test_experts_needed_are_found_without_trying_all(case, name, admission, order):
    """A policy of which a larger cache never hits less: its curve says so, and the answer is that of the curve."""
    settings = Settings(admission=admission, order=order)
    caches, policy = Caches(case.trace, settings, select_tokens(case.trace)), find_policy(name)
    whole = _decode_hits(caches, [policy])[0]
    assert (np.diff(whole[1]) >= 0).all()
    for guess in (None, _decode_hits(caches, [find_policy("mru")])[0]):
        lookups, hits = _searched(caches, policy, guess)
        assert (lookups, hits.max()) == (whole[0], whole[1].max())
        for percent in TARGETS:
            assert _target(case.trace, percent, lookups, hits) == _target(case.trace, percent, *whole)


@pytest.mark.parametrize("name", plugins("remoe_sim.policies", Policy))
def test_policies_that_call_themselves_online_do_not_know_the_future(name):
    """Who does not know what comes cannot have more experts ready than fit into the cache."""
    policy = find_policy(name)
    for admission in policy.admissions:
        for limit in (2, 4, 7):
            assert (hits_whatever_comes(policy, admission, limit) <= limit) is policy.online


def test_candidates_are_all_that_can_be():
    trace = one_layer([0, 1, 2] * 4)
    found = remoe_sim.verdict(trace, cache=2)
    known = plugins("remoe_sim.policies", Policy)
    assert {result.policy for result in found.online} | set(found.left_out) == set(known)
    for name, policy in known.items():
        online = policy.online and "mandatory" in policy.admissions and not policy.needs_training
        assert (name not in found.left_out) == online
    assert found.left_out["belady"] == "knows the future"
    trained = remoe_sim.verdict(trace, cache=2, admission="bypass", train=trace)
    assert all(not known[name].online for name in trained.left_out)


def test_json():
    found = remoe_sim.verdict(one_layer([0, 1, 2] * 20), cache=2, policy="lru,fifo")
    answer = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert list(answer) == [
        "schema", "version", "trace", "scope", "admission", "order", "reset", "phase", "warmup", "capacity", "verdict",
        "proven", "paragraph", "rule", "thresholds", "lookups", "cold_misses", "capacity_misses", "avoidable_misses",
        "avoidable_share", "remaining_misses", "best_online", "ties", "regret", "belady", "least_misses", "gap",
        "regime", "token_cycle", "working_set", "experts_needed", "online", "on_device", "left_out",
    ]  # fmt: skip
    assert answer["schema"] == "remoe-sim.verdict.v1"
    assert answer["capacity"] == {"experts_per_layer": 2}
    assert (answer["verdict"], answer["proven"], answer["best_online"], answer["ties"]) == (
        "policy", True, "lru", ["fifo"],
    )  # fmt: skip
    assert answer["thresholds"] == {"capacity_misses_per_lookup": 0.01, "avoidable_share": 0.5}
    assert (answer["avoidable_misses"], answer["capacity_misses"], answer["regret"]) == (29, 57, 29)
    bypass = answer["belady"]["bypass"]["misses"]
    assert answer["gap"] == {
        "misses": 60 - bypass, "admission": 31 - bypass, "future_knowledge": 29,
        "admission_share": (31 - bypass) / (60 - bypass), "note": None,
    }  # fmt: skip
    assert answer["belady"]["mandatory"]["optimal"] is True
    assert answer["online"][0]["regret"] == 29
    assert answer["regime"]["decode"] == {
        "groups": 60, "mean": 0.5, "p95": 0.5, "above_one": 0, "share_above_one": 0.0,
    }  # fmt: skip
    assert answer["working_set"][0] == {"window": 16, "windows": 3, "mean_experts": 3.0, "mean_bytes": 30.0}
    assert answer["left_out"] == []
    frame = found.to_frame()
    assert frame["policy"].tolist() == ["lru", "fifo", "belady", "belady"]
    assert "Verdict: policy. With" in found._repr_html_()


@pytest.fixture(scope="module")
def qwen():
    return remoe_sim.import_trace(SHARED / "bigmoe" / "qwen.route.csv")


@compiled
@needs_traces
@pytest.mark.parametrize(
    ("cache", "kind", "lru", "belady"),
    [(8, "working set", 15732, 19165), (32, "policy", 29687, 32484), (64, "fits", 33621, 33771)],
)
def test_a_real_trace(qwen, cache, kind, lru, belady):
    """Decode only: the hits are those that are published with the trace."""
    found = remoe_sim.verdict(qwen, cache=cache, policy="lru", phase="decode")
    assert (found.best.lookups, found.best.hits, found.belady.hits) == (36864, lru, belady)
    assert (found.verdict, found.proven) == (kind, True)
    assert found.regime["decode"]["mean"] == pytest.approx(6 / cache)
    assert found.token_cycle["token_cycle"] / 2**20 == pytest.approx(784.7, abs=0.05)
    needed = {one["policy"]: [target["experts_per_layer"] for target in one["targets"]] for one in found.experts_needed}
    assert needed == {"lru": [12, 32, 53, None], "belady": [8, 20, 39, None]}


@compiled
@needs_traces
@pytest.mark.parametrize(("budget", "floods", "hits"), [("770MiB", True, 0), ("773MiB", False, 1706)])
def test_where_global_lru_floods(qwen, budget, floods, hits):
    found = remoe_sim.verdict(qwen, budget=budget, scope="global", phase="decode", policy="lru,lfu")
    assert found.token_cycle["floods"] is floods
    assert ("LRU floods" in found.paragraph) is floods
    assert found.to_frame().set_index("policy").loc["lru", "hits"] == hits
    assert found.gap["misses"] is found.gap["admission"] is None
    assert found.gap["note"] == "Belady is no bound because experts differ in size"
    assert found.least_misses < found.belady.misses


def test_the_readme_and_the_verdict_say_the_same_of_what_is_left():
    """What Belady misses under mandatory admission is no bound for a cache that may be bypassed."""
    sample, given = "sample:qwen-original", {"cache": 8, "policy": "lru,lfu"}
    found = remoe_sim.verdict(sample, **given)
    assert found.bounds["bypass"].misses < found.bounds["mandatory"].misses
    readme = " ".join((Path(__file__).parents[2] / "README.md").read_text().split())
    lru = next(one for one in found.online if one.policy == "lru")
    assert f"LRU misses {lru.misses} times" in readme
    assert f"could miss less than {found.bounds['mandatory'].misses} times" in readme
    assert f"{lru.misses - found.bounds['mandatory'].misses} misses" in readme
    assert "need more memory, smaller experts, prefetching or experts that need not enter the cache" in readme
    assert "only be bought" not in readme
    assert "entering the cache" in found.paragraph
    report = remoe_sim.verdict(sample, **given, admission="bypass")
    assert "forced admission" not in report.paragraph
