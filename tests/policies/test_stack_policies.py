"""Policies with an order of their own, and those that only nearly have one, against their twins in naive_keys."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from numba import config

import remoe_sim
from remoe_sim.kernels.limits import ordered_replay
from remoe_sim.policy import Policy, Rules, StackPolicy
from remoe_sim.policy.find import find_policy
from remoe_sim.policy.stack import count, depths, replay_by_keys
from remoe_sim.trace.accesses import Stream
from remoe_sim.util.plugins import plugins
from tests.oracle import naive, naive_keys
from tests.oracle.naive import DECODE, Row
from tests.oracle.oracle import assert_equal, expected, observed
from tests.support.data import DEMO
from tests.support.replays import replay, replays
from tests.support.strategies import CHOICES, Case, Shape, cases, choices, examples, trace_of

STACK, SLOT, FIXED = (*naive_keys.STACK,), (*naive_keys.SLOT,), ("static", "static-oracle")


@examples(60)
@given(replays())
def test_every_count_equals_the_twin(drawn):
    assert_twins(*drawn)


@pytest.mark.heavy("numba")  # takes long
@examples(200)
@given(replays())
def test_every_count_of_more_cases_equals_the_twin(drawn):
    assert_twins(*drawn)


def assert_twins(case, arguments, limit):
    for result in replay(case, STACK + SLOT, arguments, limit) or ():
        assert_equal(result, expected(case, result.policy, arguments, **limit))


@examples(50)
@given(cases(sized=True, large=False), choices("admission", "order", "reset", "phase", "warmup"), st.integers(0, 60))
def test_unequal_sizes_in_one_cache(case, arguments, budget):
    arguments["scope"] = "global"
    for result in replay(case, "belady-size,mru,least-stale", arguments, {"budget": budget}) or ():
        assert_equal(result, expected(case, result.policy, arguments, budget=budget))


@pytest.mark.parametrize("admission", CHOICES["admission"])
def test_a_longer_trace(admission):
    """Counts beyond the first doublings, heaps that are rebuilt, rings that go round."""
    random, shape = np.random.default_rng(7), Shape((9, 12), (2, 3), (2, 3))
    weights = [np.arange(1, experts + 1) ** -1.5 for experts in shape.experts]
    rows = [
        Row(0, i, i, DECODE, [
            random.choice(w.size, k, False, w / w.sum()).tolist() for w, k in zip(weights, shape.top_k, strict=True)
        ])
        for i in range(30 if config.DISABLE_JIT else 200)
    ]  # fmt: skip
    case, arguments = Case(rows, trace_of(rows, shape), shape), {"scope": "global", "admission": admission}
    for budget in (13, 31):
        for result in replay(case, STACK + SLOT, arguments, {"budget": budget}):
            assert_equal(result, expected(case, result.policy, arguments, budget=budget))


@pytest.mark.parametrize("admission", CHOICES["admission"])
@pytest.mark.parametrize("name", ["lru", "belady"])
def test_the_quick_way_at_one_limit_equals_the_heap(name, admission):
    random, groups = np.random.default_rng(5), 200 if config.DISABLE_JIT else 3000  # levels of sets, slots reused
    weights = np.arange(1, 101) ** -1.0
    entries = np.concatenate([random.choice(100, 5, False, weights / weights.sum()) for _ in range(groups)])
    stream = Stream(
        np.arange(groups + 1) * 5, entries.astype(np.uint16), np.ones(entries.size, np.uint8),
        np.arange(groups, dtype=np.int32), np.array([0, groups // 3, groups]), random.integers(1, 10, 100), True, False,
    )  # fmt: skip
    policy, preload = find_policy(name), np.array([70, 3, 80], np.int32)
    for limit in (0, 7, 100, 300, 10_000):
        for rules in (Rules(admission == "mandatory"), Rules(admission == "mandatory", preload)):
            quick, heap = (
                policy.replay(stream, limit, rules),
                replay_by_keys(policy, ordered_replay, stream, limit, rules),
            )
            assert quick.evictions == heap.evictions
            for found, wanted in ((quick.hit, heap.hit), (quick.resting, heap.resting), (quick.running, heap.running)):
                assert (found == wanted).all()


@examples(60)
@given(
    st.lists(st.tuples(st.sampled_from((3, 40, 254, 300)), st.integers(0, 3), st.booleans()), max_size=5),
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
)
def test_several_caches_are_counted_as_each_of_them(caches, groups):
    """Alike or not (entries, groups, preload), an odd number of them, none at all."""
    check_counts(caches, groups)


@pytest.mark.parametrize("entries", [40, 254])
def test_two_that_go_together_count_as_different_things(entries):
    check_counts([(entries, 0, False), (entries, 1, False)], [3, 6, 5, 9, 1])


def check_counts(caches, groups):
    """caches: entries, seed, whether it starts with some."""
    policy, streams, rules = find_policy("lru"), [], []
    for n_entries, seed, preloaded in caches:
        random = np.random.default_rng(seed)
        members = [random.permutation(n_entries)[: min(count + seed // 3, n_entries)] for count in groups]
        offsets = np.cumsum([0, *map(len, members)])
        entries, steps = np.concatenate(members).astype(np.uint16), np.arange(len(groups), dtype=np.int32)
        epochs = np.unique([0, len(groups) // 2, len(groups)])
        kinds, sizes = random.integers(0, 3, entries.size).astype(np.uint8), np.ones(n_entries, np.int64)
        streams.append(Stream(offsets, entries, kinds, steps, epochs, sizes, True, True))
        rules.append(Rules(preload=np.array([1, 0], np.int32)) if preloaded else Rules())
    tables = [np.ones((3, stream.n_entries + 1), np.int64) for stream in streams]  # counts are added
    count(policy, streams, rules, tables)
    for found, stream, rule in zip(tables, streams, rules, strict=True):
        wanted = np.ones_like(found)
        np.add.at(wanted, (stream.kinds, depths(policy, stream, rule).before), 1)
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("order", CHOICES["order"])
@pytest.mark.parametrize("experts", [200, 300])
def test_few_capacities_of_large_caches_equal_the_curve(experts, order):
    tokens = 30 if config.DISABLE_JIT else 300
    trace = remoe_sim.synth(tokens=tokens, layers=5, experts=experts, top_k=6, prompt_tokens=0)
    at_one = remoe_sim.curve(trace, ["lru", "belady"], cache=40, order=order)
    of_all = remoe_sim.curve(trace, ["lru", "belady"], order=order)
    assert at_one.to_dict("records") == of_all[of_all["capacity"] == 40].to_dict("records")


# --- laws


@examples(40)
@given(cases(preload=True, layers=3, large=False), choices("admission", "order", "reset", "phase", "warmup"))
def test_one_pass_gives_the_curve_and_hits_never_fall(case, arguments):
    if replay(case, "lru", arguments, {"cache": 1}) is None:
        return
    train = None if case.preload is None else case.preload
    fixed = FIXED if train is not None and arguments["admission"] == "bypass" else ()
    names, given = STACK + fixed, {"preload": case.preload, "train": train, **arguments}
    frame = remoe_sim.curve(case.trace, policy=names, **given)
    for capacity in {1, (1 + max(case.shape.experts)) // 2}:
        for result in remoe_sim.replay(case.trace, cache=capacity, policy=names, **given):
            at = (frame["policy"] == result.policy) & (frame["layer"] == "all") & (frame["capacity"] == capacity)
            assert frame[at]["hits"].tolist() == [result.hits], (result.policy, capacity)
    for name in names:
        hits = frame[(frame["policy"] == name) & (frame["layer"] == "all")]["hits"].to_numpy()
        assert (np.diff(hits) >= 0).all(), name


@examples(25)
@given(cases(preload=False, layers=2, large=False), choices("scope", "admission", "order"), st.integers(0, 12))
def test_inclusion(case, arguments, capacity):
    """What lies in a cache lies in every larger one."""
    layers = len(case.shape.top_k)
    for name in STACK:
        contents = []
        for limit in (capacity, capacity + 1):
            limits = [limit] * layers if arguments["scope"] == "layer" else limit
            with observed() as groups:
                naive.replay(case.rows, name, limit=limits, **arguments)
            contents.append([after for _, _, after in groups])
        assert all(small <= large for small, large in zip(*contents, strict=True)), name


@examples(30)
@given(replays(large=False))
def test_belady_is_never_beaten_at_equal_sizes(drawn):
    case, arguments, limit = drawn
    fixed = ("static-oracle",) if arguments["admission"] == "bypass" else ()
    report = replay(case, (*STACK, *SLOT, *fixed, "belady"), arguments, limit)
    if report is not None and report["belady"].optimal:
        assert min(result.misses for result in report) == report["belady"].misses
        assert [result.policy for result in report if result.optimal] == ["belady"]


@examples(80)
@given(replays(large=False))
def test_what_some_policies_are_equal_to(drawn):
    case, arguments, limit = drawn
    pairs = [("lru-k:k=1", "lru")]
    if arguments["scope"] == "layer" or "cache" in limit:
        pairs.append(("belady-size", "belady"))
    if arguments["scope"] == "layer" and arguments["order"] == "sequential":
        pairs.append(("least-stale", "lru"))
    for mine, known in pairs:
        report = replay(case, (mine, known), arguments, limit)
        if report is not None:
            assert (report[mine].hits, report[mine].evictions) == (report[known].hits, report[known].evictions)


@pytest.mark.parametrize("admission", CHOICES["admission"])
@pytest.mark.parametrize("scope", CHOICES["scope"])
def test_all_policies_on_a_sample(scope, admission):
    found = plugins("remoe_sim.policies", Policy)
    names = [name for name, policy in found.items() if admission in policy.admissions]
    trace = remoe_sim.read_trace(DEMO)
    for cache in (0, 3, 8):  # three experts are less than one group
        cache *= trace.moe_layers if scope == "global" else 1
        report = remoe_sim.replay(
            trace, cache=cache, policy=names, scope=scope, admission=admission, train=trace,
            phase="prefill" if config.DISABLE_JIT else "all",
        )  # fmt: skip
        assert min(result.misses for result in report) == report["belady"].misses
        assert max(result.hits for result in report) > 0 or cache == 0
        assert len({result.lookups for result in report}) == 1


# --- by hand


def single(ids):
    """One expert per token, in one layer."""
    return trace_of([Row(0, i, i, DECODE, [[expert]]) for i, expert in enumerate(ids)], Shape((12,), (1,), None))


def hits(trace, policy, **arguments):
    return remoe_sim.replay(trace, policy=policy, **arguments).results[0].hits


def test_mru_keeps_a_part_of_a_loop():
    loop = single([0, 1, 2, 0, 1, 2, 0, 1, 2])
    assert [hits(loop, name, cache=2) for name in ("lru", "mru", "belady")] == [0, 3, 3]
    assert hits(loop, "mru", cache=2, admission="bypass") == 4  # 0 and 1 stay for good


def test_what_a_cache_starts_with_is_old_and_the_most_used_of_it_stays_longest():
    start = single([5, 5, 6])
    assert hits(single([0, 5]), "mru", cache=2, preload=start) == 1  # 0 took the place of 6
    assert hits(single([0, 1, 5]), "mru", cache=2, preload=start) == 1  # and 1 that of 0


def test_lru_2_is_not_flooded_by_experts_that_come_once():
    trace = single([0, 1, 0, 1, 2, 0, 1, 3, 4, 0, 1])
    assert [hits(trace, name, cache=2) for name in ("lru", "lru-k", "lru-k:k=3", "belady")] == [2, 4, 3, 4]


def test_a_use_fades():
    """0 was used four times, long ago for those who forget in a step."""
    trace = single([0, 0, 0, 0, 1, 2, 1, 2, 1, 2])
    names = ("lfu", "lfu-aged:half_life=1000", "lfu-aged:half_life=1")
    assert [hits(trace, name, cache=2) for name in names] == [3, 3, 7]


def aged_keys(steps, entries, half_life):
    n = len(steps)
    stream = Stream(
        np.arange(n + 1), np.array(entries, np.uint16), np.ones(n, np.uint8), np.array(steps, np.int32),
        np.array([0, n]), np.ones(max(entries) + 1, np.int64),
    )  # fmt: skip
    return find_policy(f"lfu-aged:half_life={half_life}").keys(stream)


@pytest.mark.parametrize("half_life", [1, 64, 1000])
def test_two_uses_are_one_use_a_half_life_later(half_life):
    """Also a hundred million steps from the start."""
    for begin in (0, 10**8):
        steps = [begin, begin, begin + half_life - 1, begin + half_life, begin + half_life + 1]
        _, two, sooner, one, later = aged_keys(steps, [0, 0, 1, 2, 3], half_life)
        assert later < two == one < sooner


def test_scores_stay_exact_however_long_the_trace():
    steps = np.arange(2_000 if config.DISABLE_JIT else 200_000)
    key = aged_keys(steps, np.zeros_like(steps), 64)[-1]
    forever = -np.log2(1 - 2 ** (-1 / 64))  # the score of an expert that every step uses
    assert key / 2**20 == pytest.approx(-(steps[-1] / 64 + forever), abs=2**-19)


@pytest.mark.parametrize(("newcomers", "stays"), [(2, True), (3, False)])
def test_lfru_weighs_age_against_count(newcomers, stays):
    """0 has 3 uses; against a newcomer's 1 / 1 that is 3 / 2, and after one more 3 / 3, when the older goes."""
    assert hits(single([0, 0, 0, *range(1, 1 + newcomers), 0]), "lfru", cache=2) == 2 + stays


def test_lfru_forgets_or_remembers_uses_before_it_entered():
    trace = single([0, 0, 0, 1, 2, 3, 0, 4, 5, 6, 0])
    assert [hits(trace, f"lfru:history={history}", cache=2) for history in (0, 1)] == [2, 3]


def test_least_stale_evicts_the_layers_behind_first():
    """In the third pass LRU takes expert 0 of the second layer, unused the longest but about to be used."""
    rows = [Row(0, i, i, DECODE, [[a], [b]]) for i, (a, b) in enumerate([(0, 0), (0, 1), (1, 0)])]
    trace = trace_of(rows, Shape((3, 3), (1, 1), None))
    assert [hits(trace, name, cache=3, scope="global") for name in ("lru", "least-stale")] == [1, 2]


def test_least_stale_keeps_the_layer_that_comes_next():
    """Three layers with an expert each in a cache of two: LRU always evicts what is needed next; here one stays."""
    rows = [Row(0, i, i, DECODE, [[0], [0], [0]]) for i in range(6)]
    trace = trace_of(rows, Shape((1, 1, 1), (1, 1, 1), None))
    names = ("lru", "least-stale", "belady")
    assert [hits(trace, name, cache=2, scope="global") for name in names] == [0, 5, 8]


def test_what_a_cache_starts_with_is_stale():
    """Under bypass expert 0 of the first layer, used in this pass, stays although its layer runs first."""
    rows = [Row(0, i, i, DECODE, [[0], None]) for i in range(2)]
    start = [Row(0, 0, 0, DECODE, [None, [2]])]
    shape = Shape((3, 3), (1, 1), None)
    arguments = {"cache": 1, "scope": "global", "admission": "bypass", "preload": trace_of(start, shape)}
    assert hits(trace_of(rows, shape), "least-stale", **arguments) == 1


def test_a_large_expert_has_to_be_worth_its_room():
    small, large = [[expert] for expert in range(5)], [[0]]
    decisions = [*((one, None) for one in small), (None, large[0]), (None, large[0]), *((one, None) for one in small)]
    rows = [Row(0, i, i, DECODE, list(decision)) for i, decision in enumerate(decisions)]
    trace = trace_of(rows, Shape((5, 1), (1, 1), (1, 4)))
    report = remoe_sim.replay(trace, budget=5, scope="global", admission="bypass", policy="belady,belady-size")
    assert [result.hits for result in report] == [2, 3]
    assert not any(result.optimal for result in report)


# --- what is not possible


@pytest.mark.parametrize("given", ["lfu-aged:half_life=0", "lfu-aged:half_life=nan", "lru-k:k=0", "lfru:history=2"])
def test_options_that_are_not_possible(given):
    name = given.partition(":")[0]
    with pytest.raises(ValueError, match=rf"of policy '{name}' is not possible; give \S+"):
        find_policy(given)


def few_requests():
    """Too few to learn from some and count the others."""
    trace = remoe_sim.read_trace(DEMO)
    return trace.select(requests=[int(trace.request[0])])


def test_a_policy_says_what_it_needs():
    for name in FIXED:
        with pytest.raises(ValueError, match=f"'{name}' does not exist under admission mandatory; use .* bypass"):
            remoe_sim.replay(DEMO, cache=2, policy=name, train=DEMO)
    with pytest.raises(ValueError, match="'static' learns from another trace; name it with --train"):
        remoe_sim.replay(few_requests(), cache=2, policy="static", admission="bypass")
    assert isinstance(find_policy("static"), StackPolicy)
