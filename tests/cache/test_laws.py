"""What must hold of any trace and any policy, whatever the numbers are."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import remoe_sim
from remoe_sim.cache import caches as caches_module
from remoe_sim.cache.caches import Preload
from remoe_sim.policy import Policy, Rules, SlotPolicy, StackPolicy, find
from remoe_sim.policy.stack import depths as depths_of
from remoe_sim.trace.accesses import global_stream, layer_stream, select_tokens
from tests.oracle.naive import DECODE, Row, events, exhaustive_optimum
from tests.oracle.oracle import POLICIES
from tests.support.strategies import CHOICES, Shape, cases, choices, examples, shapes, token_rows, trace_of

STACK = ("lru", "lfu", "belady")
HOW = ("admission", "order", "phase", "warmup")  # any trace can be replayed like this


def streams(case, arguments, scope):
    """Pairs (stream, rules) of the case's caches."""
    tokens = select_tokens(case.trace, arguments["phase"], "never", arguments["warmup"])
    start, mandatory = Preload.of(case.trace, case.preload), arguments["admission"] == "mandatory"
    if scope == "global":
        stream = global_stream(case.trace, tokens, arguments["order"], False)
        return [(stream, Rules(mandatory, start.everywhere))]
    return [
        (
            layer_stream(case.trace, index, case.trace.decisions(index), tokens, arguments["order"]),
            Rules(mandatory, start.of_layer(index)),
        )
        for index in range(case.trace.moe_layers)
    ]


@examples(60)
@given(cases(large=False), choices(*HOW), st.sampled_from(CHOICES["scope"]))
def test_inclusion(case, arguments, scope):
    """A lookup that hits also hits in any larger cache, and its depth says in which."""
    for stream, rules in streams(case, arguments, scope):
        for name in STACK:
            policy = find.find_policy(name)
            depths = depths_of(policy, stream, rules).before.astype(int)
            for limit in range(min(stream.n_entries, 14) + 2):
                hit = policy.replay(stream, limit, rules).hit
                assert (hit == (depths < min(limit, stream.n_entries))).all()


def hits(case, arguments, policy=POLICIES, **limit):
    report = remoe_sim.replay(case.trace, policy=policy, preload=case.preload, **arguments, **limit)
    return {result.policy: result for result in report}


@examples(60)
@given(cases(large=False), choices("scope", *HOW), st.integers(0, 14))
def test_of_counts(case, arguments, cache):
    smaller, larger = hits(case, arguments, cache=cache), hits(case, arguments, cache=cache + 1)
    for name, result in smaller.items():
        assert result.cold_misses + result.capacity_misses == result.misses == result.lookups - result.hits
        assert min(result.cold_misses, result.capacity_misses, result.hits, result.evictions) >= 0
        assert result.lookups == smaller["lru"].lookups
        if name in STACK:
            assert result.hits <= larger[name].hits
        if case.shape.sizes is None:
            assert result.bytes_read is None
        elif len(set(case.shape.sizes)) == 1:
            assert result.bytes_read == result.misses * case.shape.sizes[0]


@examples(60)
@given(cases(large=False), choices("scope", "admission", "order", "phase"), st.integers(0, 14))
def test_belady_is_never_beaten(case, arguments, cache):
    results = hits(case, arguments, cache=cache)
    assert results["belady"].optimal
    assert not any(results[name].optimal for name in POLICIES if name != "belady")
    for result in results.values():
        assert result.misses >= results["belady"].misses
        assert result.regret == result.misses - results["belady"].misses
    assert hits(case, {**arguments, "admission": "bypass"}, "belady", cache=cache)["belady"].misses <= min(
        result.misses for result in results.values()
    )


@examples(40)
@given(cases(large=False), choices("scope", *HOW))
def test_of_no_cache_and_of_one_for_all(case, arguments):
    for result in hits(case, arguments, cache=0).values():
        assert (result.hits, result.evictions) == (0, 0)
        assert result.misses == result.lookups
    for result in hits(case, arguments, cache=sum(case.shape.experts)).values():
        assert (result.capacity_misses, result.evictions) == (0, 0)


def test_what_optimal_means():
    unequal, equal = Shape((4, 4), (1, 1), (3, 4)), Shape((4, 4), (1, 1), (3, 3))
    rows = [Row(0, i, i, DECODE, [[i % 3], [i % 4]]) for i in range(9)]
    for shape, arguments, optimal in (
        (unequal, {"cache": 2}, True),
        (unequal, {"budget": 12}, True),  # within a layer sizes are equal
        (unequal, {"cache": 2, "scope": "global"}, True),
        (unequal, {"budget": 12, "scope": "global"}, False),  # a heuristic
        (equal, {"budget": 12, "scope": "global"}, True),
        (equal, {"cache": 2, "warmup": 1}, False),  # it minimises what is not counted, too
    ):
        report = remoe_sim.replay(trace_of(rows, shape), **arguments)
        assert [result.optimal for result in report] == [False, False, optimal]


@st.composite
def single_decode_tokens(draw, most=12):
    """One decode token per step, every slot there, one or several requests."""
    shape = draw(shapes(layers=3, large=False))
    rows = [
        replace(
            row,
            phase=DECODE,
            step=step,
            decisions=[
                full(decision, *layer)
                for decision, *layer in zip(row.decisions, shape.experts, shape.top_k, strict=True)
            ],
        )
        for step, row in enumerate(draw(token_rows(shape, most)))
    ]
    return rows, shape


def full(decision, experts, k):
    """The decision with its null slots filled."""
    chosen = [expert for expert in decision or [] if expert is not None]
    others = (expert for expert in range(experts) if expert not in chosen)
    return [*chosen, *itertools.islice(others, k - len(chosen))]


@examples(100)
@given(single_decode_tokens())
def test_a_cache_of_k_experts_hits_what_adjacent_tokens_share(drawn):
    rows, shape = drawn
    k = shape.top_k[0]
    rows = [replace(row, request=0, position=i, decisions=row.decisions[:1]) for i, row in enumerate(rows)]
    trace = trace_of(rows, Shape(shape.experts[:1], (k,), None))
    shared = sum(len(set(now.decisions[0]) & set(before.decisions[0])) for before, now in itertools.pairwise(rows))
    report = remoe_sim.replay(trace, cache=k, policy=STACK)
    assert [result.hits for result in report] == [shared] * 3
    if len(rows) > 1:
        assert report["lru"].reuse_rate == shared / (k * (len(rows) - 1))


@examples(100)
@given(single_decode_tokens(), choices("scope", "admission"), st.integers(0, 14))
def test_with_one_expert_per_token_both_orders_are_the_same(drawn, arguments, cache):
    rows, shape = drawn
    rows = [replace(row, decisions=[decision[:1] for decision in row.decisions]) for row in rows]
    trace = trace_of(rows, replace(shape, top_k=(1,) * len(shape.top_k)))
    both = [
        remoe_sim.replay(trace, cache=cache, policy=POLICIES, order=order, **arguments) for order in CHOICES["order"]
    ]
    assert [replace(result, order="set") for result in both[1]] == list(both[0])


@pytest.mark.parametrize("admission", CHOICES["admission"])
def test_belady_is_the_exhaustive_optimum(admission):
    rng = np.random.default_rng(20)
    for case in range(300 if admission == "mandatory" else 200):
        experts, length = int(rng.integers(2, 6)), int(rng.integers(2, 8))
        k = int(rng.integers(1, min(experts, 3) + 1))
        width = int(rng.integers(1, 3))  # tokens per step
        drawn = [rng.permutation(experts)[:k].tolist() for _ in range(length * width)]
        rows = [Row(0, i, i // width, DECODE, [decision]) for i, decision in enumerate(drawn)]
        trace = trace_of(rows, Shape((experts,), (k,), None))
        groups = events(rows)
        frame = remoe_sim.curve(trace, "belady", cache=range(experts + 1), admission=admission)
        mine = frame[frame["layer"] == "all"]
        optimum = [exhaustive_optimum(groups, limit, admission) for limit in range(experts + 1)]
        assert (mine["lookups"] - mine["hits"]).tolist() == optimum, case


ROWS = [Row(0, i, i, DECODE, [[i % 4, (i + 1) % 4], [i % 3]]) for i in range(8)]
CONSTANT = {"name": "constant", "label": "constant"}
LRU = find.find_policy("lru")
TRACE = trace_of(ROWS, Shape((4, 4), (2, 1), (5, 5)))


class Greedy(StackPolicy):
    """Keeps everything, whatever the limit."""

    name = label = "greedy"

    def keys(self, stream):
        return np.arange(stream.entries.size)

    def replay(self, stream, limit, rules):
        return super().replay(stream, int(stream.sizes.sum()), rules)


class Ungrateful(Policy):
    """Counts what cannot be."""

    name = label = "ungrateful"

    def replay(self, stream, limit, rules):
        return replace(LRU.replay(stream, limit, rules), evictions=-1)


def choosing(what):
    """A slot policy that always evicts the same, even if that is not there."""

    class Stubborn(SlotPolicy):
        name = label = "stubborn"

        def victim(self, protected):
            return what

    return Stubborn


@pytest.fixture
def policy(monkeypatch):
    """Makes `replay` use this policy."""

    def use(policy):
        monkeypatch.setattr(find, "find_policy", lambda name: policy())

    return use


@pytest.mark.parametrize("scope", CHOICES["scope"])
def test_residents_above_the_limit_are_noticed(scope, policy):
    policy(Greedy)
    for limit in ({"cache": 2}, {"budget": "20B"}):
        with pytest.raises(RuntimeError, match=r"^residents take .* where .* are allowed; please report this$"):
            remoe_sim.replay(TRACE, policy="greedy", scope=scope, **limit)
    assert remoe_sim.replay(TRACE, 8, policy="greedy", scope=scope)["greedy"].capacity_misses == 0


def test_evictions_below_zero_are_noticed(policy):
    policy(Ungrateful)
    with pytest.raises(RuntimeError, match=r"^-1 evictions; please report this$"):
        remoe_sim.replay(TRACE, 2, policy="ungrateful")


@pytest.mark.parametrize("admission", CHOICES["admission"])
@pytest.mark.parametrize("order", CHOICES["order"])
@pytest.mark.parametrize("victim", [-1, 3, 4, 10**6])
def test_a_victim_that_is_not_resident_is_refused(victim, order, admission, policy):
    policy(choosing(victim))
    pairs = trace_of([replace(row, decisions=row.decisions[:1]) for row in ROWS], Shape((4,), (2,), None))
    with pytest.raises(
        ValueError, match=r"^policy 'stubborn' chose a victim that is not resident, or is protected; correct its victim"
    ):
        remoe_sim.replay(pairs, 1, policy="stubborn", admission=admission, order=order)


class Ruthless(SlotPolicy):
    """Evicts the latest resident, whether the running step needs it or not."""

    name = label = "ruthless"

    def setup(self, limit, sizes):
        self.residents = []

    def insert(self, entry):
        self.residents.append(entry)

    def victim(self, protected):
        return self.residents.pop() if self.residents else -1


def test_a_victim_that_the_running_step_needs_is_refused_while_there_are_others(policy):
    policy(Ruthless)
    rows = [replace(ROWS[0], step=0, decisions=[[0, 1]]), replace(ROWS[0], position=1, step=1, decisions=[[2, 3]])]
    pairs = trace_of(rows, Shape((4,), (2,), None))
    assert remoe_sim.replay(pairs, 2, policy="ruthless", admission="bypass")["ruthless"].misses == 4
    with pytest.raises(ValueError, match=r"^policy 'ruthless' chose a victim that is not resident, or is protected"):
        remoe_sim.replay(pairs, 2, policy="ruthless")


@pytest.mark.parametrize("key", [np.inf, -np.inf, np.nan, 2**63 - 1, np.uint64(2**63)])
def test_a_key_that_has_another_meaning_is_refused(key, policy):
    policy(
        type("Constant", (StackPolicy,), CONSTANT | {"keys": lambda self, stream: np.full(stream.entries.size, key)})
    )
    for scope in CHOICES["scope"]:
        with pytest.raises(
            ValueError, match=r"^policy 'constant' gave keys that are no array of .* finite numbers below"
        ):
            remoe_sim.replay(TRACE, 2, policy="constant", scope=scope)


def test_what_a_policy_must_define(policy):
    for base in (Policy, StackPolicy, SlotPolicy):
        policy(type("Empty", (base,), {"name": "empty", "label": "empty"}))
        with pytest.raises(NotImplementedError, match=r"must (define|be)"):
            remoe_sim.replay(TRACE, 1, policy="empty")


def test_the_check_is_made_on_every_replay(monkeypatch):
    seen = []
    monkeypatch.setattr(caches_module, "check_outcome", lambda stream, outcome, limit: seen.append(outcome))
    remoe_sim.replay(TRACE, 2, policy=POLICIES)
    remoe_sim.replay(TRACE, 2, policy=POLICIES, scope="global")
    assert len(seen) == 5 * 2 + 5


@pytest.mark.parametrize(("in_bytes", "limit", "most"), [(True, 7, 7), (False, 2, 9 + 4), (False, 5, 9 + 4 + 1)])
def test_the_check_knows_what_a_cache_can_hold(in_bytes, limit, most):
    """Under a limit in experts of unequal sizes that is what the largest of them take."""
    stream = SimpleNamespace(in_bytes=in_bytes, weights=np.array([4, 1, 9]))
    for resting in (0, most):
        caches_module.check_outcome(stream, SimpleNamespace(resting=np.array([resting]), evictions=0), limit)
    with pytest.raises(RuntimeError, match=f"residents take {most + 1} where {most} are allowed"):
        caches_module.check_outcome(stream, SimpleNamespace(resting=np.array([0, most + 1]), evictions=0), limit)
