"""Slot policies against their twins, which are written from the papers and from libCacheSim's behaviour."""

import random

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from numba import config
from remoe_sim.policies.lecar import LeCar

import remoe_sim
from remoe_sim.policy import Rules, find
from remoe_sim.policy import slot as policies
from remoe_sim.trace.accesses import global_stream, select_tokens
from tests.oracle import naive_slots
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.oracle.naive_twin import scene
from tests.oracle.oracle import assert_equal, expected
from tests.support.strategies import CHOICES, Case, Shape, cases, choices, examples, most_used, trace_of

NAMES = ("fifo", "lfu-forget", *naive_slots.TWINS)
HOW = ("scope", "admission", "order", "reset", "phase", "warmup")


def assert_twins(case, arguments, limit, names=NAMES):
    """Every count of every policy is that of its twin; nothing to compare where requests interleave."""
    try:
        report = remoe_sim.replay(case.trace, policy=names, preload=case.preload, **arguments, **limit)
    except remoe_sim.TraceError:
        return
    with scene(case.shape.experts, arguments["scope"]):
        for result in report:
            assert_equal(result, expected(case, result.policy, arguments, **limit))


@st.composite
def limited(draw, **shape):
    """A case and a limit, from none to more than everything, also below the smallest group."""
    case = draw(cases(large=False, **shape))
    limits = st.fixed_dictionaries({"cache": st.integers(0, 14)})
    if case.shape.sizes is not None:
        total = sum(size * experts for size, experts in zip(case.shape.sizes, case.shape.experts, strict=True))
        limits |= st.fixed_dictionaries({"budget": st.integers(0, total + 2)})
    return case, draw(limits)


@examples(40, without_jit=15)
@given(limited(layers=3, most=30), choices(*HOW))
def test_every_count_equals_the_twin(drawn, arguments):
    assert_twins(*drawn[:1], arguments, drawn[1])


@pytest.mark.heavy("numba")  # takes long
@examples(120)
@given(limited(layers=3, most=30), choices(*HOW))
def test_every_count_of_more_cases_equals_the_twin(drawn, arguments):
    assert_twins(*drawn[:1], arguments, drawn[1])


def long_case(seed, tokens, experts=(3, 14), requests=0.03):
    """More tokens than hypothesis draws, with popular experts: ghosts fill, counts are halved, segments overflow."""
    rng = random.Random(seed)
    layers = [rng.randint(*experts) for _ in range(rng.randint(1, 3))]
    k = [rng.randint(1, 3) for _ in layers]
    sizes = tuple(rng.randint(1, 5) for _ in layers) if rng.random() < 0.6 else None
    popularity = [[rng.random() ** 3 for _ in range(n)] for n in layers]
    rows, step, request = [], 0, 0
    for position in range(tokens):
        leaves = rng.random() < requests
        step, request = step + (leaves or rng.random() < 0.7), request + leaves
        ranks = [[rng.random() ** (1 / weight) for weight in some] for some in popularity]
        chosen = [sorted(range(len(r)), key=r.__getitem__)[-some:] for r, some in zip(ranks, k, strict=True)]
        rows.append(Row(request, position, step, DECODE if rng.random() < 0.8 else PREFILL, chosen))
    shape = Shape(tuple(layers), tuple(k), sizes)
    preload = rows[: rng.choice((0, 3))]
    start = (trace_of(preload, shape), most_used(preload)) if preload else ()
    return Case(rows, trace_of(rows, shape), shape, *start)


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(more, marks=pytest.mark.heavy("numba")) for more in range(2, 8))]
)
def test_long_traces_equal_the_twin(seed):
    rng = random.Random(seed)
    case = long_case(seed, rng.choice((60, 120)))
    for scope in CHOICES["scope"]:
        entries = sum(case.shape.experts) if scope == "global" else max(case.shape.experts)
        for admission in CHOICES["admission"]:
            for order in CHOICES["order"]:
                arguments = {
                    "scope": scope,
                    "admission": admission,
                    "order": order,
                    "reset": rng.choice(CHOICES["reset"]),
                }
                limit = {"cache": rng.randint(1, entries + 1)}
                if case.shape.sizes and rng.random() < 0.6:
                    limit = {"budget": limit["cache"] * 3 * (1 if scope == "global" else len(case.shape.experts))}
                assert_twins(case, arguments, limit)


def assert_curves_are_replays(case, arguments, names):
    """All capacities in one call hit as a replay of each does."""
    counted = remoe_sim.curve(case.trace, names, **arguments, preload=case.preload)
    for name in names:
        for capacity, rows in counted[counted.policy == name].groupby("capacity"):
            result = remoe_sim.replay(case.trace, int(capacity), policy=name, preload=case.preload, **arguments)[name]
            assert rows[rows.layer == "all"].hits.item() == result.hits, (name, capacity)


SOME = ("fifo", "sieve", "clock", "slru")  # without a verb for hits, with a mark, with a queue, with surplus


@pytest.mark.parametrize(
    "names", [SOME, pytest.param((*NAMES, "ema", "least-stale", "class-lru", "lfru"), marks=pytest.mark.heavy("numba"))]
)
@pytest.mark.parametrize("seed", range(3))
def test_hits_at_all_capacities_are_those_of_replays(names, seed):
    case = long_case(seed, 40)
    for admission in CHOICES["admission"]:
        for order in CHOICES["order"]:
            arguments = {"admission": admission, "order": order, "reset": CHOICES["reset"][seed % 2], "warmup": seed}
            usable = [name for name in dict.fromkeys(names) if admission in find.find_policy(name).admissions]
            assert_curves_are_replays(case, arguments, usable)


@pytest.mark.parametrize("cache", [100, 107, 130])
def test_a_cache_of_a_hundred_entries_equals_the_twin(cache):
    """From there on the window of W-TinyLFU has a hundredth, and S3-FIFO's small queue several entries."""
    case = long_case(3, 60 if config.DISABLE_JIT else 250, (60, 70))
    for order in CHOICES["order"]:
        assert_twins(case, {"scope": "global", "order": order}, {"cache": cache}, ("w-tinylfu", "s3fifo", "lecar"))


@examples(60, without_jit=8)
@given(cases(large=False, layers=3, most=20), choices("scope", "admission", "order", "reset"), st.integers(0, 14))
def test_belady_is_never_beaten(case, arguments, cache):
    try:
        report = remoe_sim.replay(case.trace, cache, policy=("belady", *NAMES), **arguments)
    except remoe_sim.TraceError:
        return
    for result in report:
        assert result.misses >= report["belady"].misses
        assert result.misses == result.cold_misses + result.capacity_misses
        if cache == 0:
            assert (result.hits, result.evictions) == (0, 0)


@pytest.mark.parametrize("scope", CHOICES["scope"])
@pytest.mark.parametrize("admission", CHOICES["admission"])
@pytest.mark.parametrize("limit", [{"cache": 0}, {"cache": 1}, {"cache": 2}, {"budget": 1}, {"budget": 9}])
def test_limits_below_one_group(limit, admission, scope):
    rows = [Row(0, i, i // 3, DECODE, [[i % 7, (3 * i + 1) % 7 + 7], [i % 3, 3 + i % 2]]) for i in range(30)]
    case = Case(rows, trace_of(rows, shape := Shape((14, 5), (2, 2), (3, 4))), shape)
    assert_twins(case, {"scope": scope, "admission": admission}, limit)


@examples(60, without_jit=8)
@given(limited(layers=2, most=20), choices("admission"), st.sampled_from(NAMES))
def test_both_loops_are_one(drawn, arguments, name):
    """The loop for single accesses says what the loop for groups says."""
    case, limit = drawn
    stream = global_stream(case.trace, select_tokens(case.trace), "sequential", "budget" in limit)
    start = np.array(sorted({layer * case.shape.experts[0] + expert for layer, expert in case.entries}), np.int32)
    rules, most = Rules(arguments["admission"] == "mandatory", start), next(iter(limit.values()))
    with pytest.MonkeyPatch.context() as patch:
        from remoe_sim.kernels.slots import slot_replay

        alone = find.find_policy(name).replay(stream, most, rules)
        patch.setattr(policies, "loop_for", lambda stream: slot_replay)
        grouped = find.find_policy(name).replay(stream, most, rules)
    assert alone.evictions == grouped.evictions
    for one, other in zip(vars(alone).values(), vars(grouped).values(), strict=True):
        np.testing.assert_array_equal(one, other)


# --- libCacheSim; smaller caches are in test_libcachesim.py


@pytest.fixture(scope="module")
def agreement():
    """The benchmark, as a module."""
    pytest.importorskip("libcachesim")
    from benchmarks.fidelity import agreement

    return agreement


@pytest.mark.skipif(config.DISABLE_JIT, reason="takes minutes where kernels are interpreted")
def test_a_thousand_entries_and_more_agree_with_libcachesim(agreement, tmp_path):
    trace = agreement.synthetic(2500, layers=4, experts=400, k=8, seed=5)
    rows = list(agreement.compare(trace, "global", [1000, 1001, 1222], list(agreement.TWINS), tmp_path))
    assert len(rows) == 3 * len(agreement.TWINS)
    assert [row for row in rows if row["difference"]] == []
    assert all(row["misses"] > 1600 for row in rows)  # not just the first uses


def test_caches_larger_than_their_layer_agree_with_libcachesim(agreement, tmp_path):
    """A hit in SLRU may evict even where everything would fit."""
    trace, names, sizes = agreement.synthetic(60, layers=1, experts=9, k=3), ["slru", "2q", "arc", "sieve"], [9, 11, 13]
    theirs = agreement.misses(agreement.accesses(trace)[1], names, sizes, tmp_path)
    for i, size in enumerate(sizes):
        report = remoe_sim.replay(trace, size, policy=names, order="sequential")
        assert {result.policy: result.misses for result in report} == {name: theirs[name][i] for name in names}


# --- chance, learning


def test_seeds():
    case = long_case(1, 80)
    report = remoe_sim.replay(
        case.trace, 5, policy="random,random:seed=0,random:seed=1,random:seed=-3,lecar,lecar:seed=9"
    )
    hits = {result.policy: result.hits for result in report}
    assert hits["random"] == hits["random:seed=0"]
    assert len({hits[name] for name in ("random", "random:seed=1", "random:seed=-3")}) > 1
    again = remoe_sim.replay(case.trace, 5, policy="random:seed=1,lecar:seed=9")
    assert [result.hits for result in again] == [hits["random:seed=1"], hits["lecar:seed=9"]]
    with pytest.raises(ValueError, match="option 'seed=x' of policy 'random' is not possible; seed takes int"):
        remoe_sim.replay(case.trace, 5, policy="random:seed=x")


def test_segments_are_those_of_a_paper():
    for text in ("slru:segments=3", "slru:protected=0.5", "slru:segments=2:protected=1.5"):
        with pytest.raises(ValueError, match=r"of policy 'slru' is not possible; give (2 or 4|0 to 1, and segments=2)"):
            find.find_policy(text)


def test_random_chooses_evenly():
    """Of n residents each leaves as often as any other, and n = 5 divides no power of two."""
    rng = random.Random(4)
    rows = [Row(0, i, i, DECODE, [[rng.randrange(10)]]) for i in range(600 if config.DISABLE_JIT else 20000)]
    result = remoe_sim.replay(trace_of(rows, Shape((10,), (1,), None)), 5, policy="random")["random"]
    assert abs(result.hit_rate - 0.5) < (0.08 if config.DISABLE_JIT else 0.015)


def test_what_lecar_learns_by_hand():
    """A cache of 4: evicted by LRU and wanted 2 accesses later, the regret is 0.005^(2/4); then the same for LFU."""
    state = np.zeros((LeCar.state_rows, 10), np.int64)
    state[0, :8] = 1
    state[0, 8] = LeCar().parameter
    LeCar.setup(state, 4)
    odds = state[8].view(np.float64)
    for entry in range(4):
        LeCar.admit(state, entry)
        LeCar.insert(state, entry)
    for entry in (0, 0, 1):
        LeCar.hit(state, entry)
    odds[8] = 1.0  # so that LRU is drawn: the least recently used is 2, as is the least often used
    nobody = np.zeros(8, np.uint8)
    assert LeCar.victim(state, nobody) == 2  # in neither history
    LeCar.admit(state, 2)
    LeCar.insert(state, 2)
    assert odds[8] == 1.0
    LeCar.hit(state, 3)
    LeCar.hit(state, 3)  # now 0 is the oldest, and 2 was used least
    assert LeCar.victim(state, nobody) == 0
    odds[8] = 0.5
    LeCar.admit(state, 4)
    LeCar.insert(state, 4)
    LeCar.admit(state, 0)  # two accesses after it was evicted
    regret = np.exp(0.45 * 0.005 ** (2 / 4))
    assert odds[8] == pytest.approx(1 / (1 + regret))
    LeCar.insert(state, 0)
    odds[8] = 0.0  # so that LFU is drawn: 2 and 4 were used once, 2 earlier, and 1 is the oldest
    assert LeCar.victim(state, nobody) == 2
    odds[8] = 0.5
    LeCar.admit(state, 2)  # none after it was evicted but this
    assert odds[8] == pytest.approx(1 - 1 / (1 + np.exp(0.45 * 0.005 ** (1 / 4))))


# --- compiled loops

MINE = """
from remoe_sim.kernels.lists import remove
from remoe_sim.policies.fifo import Fifo

class Mine(Fifo):
    name = "mine"

    @staticmethod
    def victim(state, protected):
        entry = state[ROW, state.shape[1] - 2]
        remove(state, 1, entry)
        return entry
"""


def test_an_edited_policy_is_compiled_anew(tmp_path):
    """The machine code of a loop is kept, but not beyond an edit of the file that its verbs are in."""
    path, misses = tmp_path / "mine.py", []
    trace = trace_of([Row(0, i, i, DECODE, [[i % 3]]) for i in range(12)], Shape((3,), (1,), None))
    for row in ("2", "1"):
        path.write_text(MINE.replace("ROW", row))
        misses += [result.misses for result in remoe_sim.replay(trace, 2, policy=str(path))]
    assert misses == [12, 9]  # the oldest goes, and the newest
