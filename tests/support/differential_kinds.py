"""What `benchmarks/fidelity/differential.py` draws and compares, kind by kind: compiled code against a slow twin of it.

A check raises where the two differ, and otherwise says what it compared: for each configuration what it had on each
axis. `tests/benchmarks/test_differential.py` takes a sample of every kind.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
from hypothesis import assume

import remoe_sim
from tests.oracle import naive, naive_keys, naive_slots
from tests.oracle.naive import DECODE, Row, exhaustive_optimum
from tests.oracle.naive_twin import scene
from tests.oracle.oracle import POLICIES, assert_equal, expected
from tests.support.curves import assert_curve_of_layers, assert_curve_of_one_cache, curves
from tests.support.fixed_sets import FIXED, members
from tests.support.hierarchies import assert_tiers, hierarchies
from tests.support.pinnings import assert_pinned, pinnings
from tests.support.prefetches import assert_prefetch, situations
from tests.support.replays import replay
from tests.support.reroutes import RULES, assert_reroute, routed
from tests.support.schedules import both
from tests.support.strategies import CHOICES, LARGE, Shape, cases, most_used, token_rows, trace_of
from tests.support.timelines import CPU, assert_timeline
from tests.support.timelines import cases as timelines

EVERY = (*dict.fromkeys((*POLICIES, *naive_keys.STACK, *naive_keys.SLOT, *naive_slots.TWINS)), *FIXED)
PER_CASE = 12  # settings of a replay that are compared on one case
Axes = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """strategy: what is drawn; check: compares, and says what it had on each axis, configuration by configuration."""

    strategy: Any
    check: Callable[[Any], list[Axes]]


# --- replays: every policy, every setting, every kind of limit, also of steps that are scheduled anew


@st.composite
def replays(draw):
    """A case, rows to learn from, and a seed of settings."""
    case = draw(cases(most=16).filter(lambda case: case.rows))
    return case, draw(token_rows(case.shape, 6)), draw(st.integers(0, 2**32))


def settings_of(case, seed):
    """(arguments, limit, policies, whether it starts with what the preload says, schedule or None), again and again;
    by chance, as to draw a case takes hypothesis longer than to replay it."""
    chance = Random(seed)
    total = sum(size * experts for size, experts in zip(case.shape.sizes or (), case.shape.experts, strict=False))
    for _ in range(PER_CASE):
        arguments = {name: chance.choice(values) for name, values in CHOICES.items()}
        most = chance.choice((2, 5, 14, 14, total // 3 if total else 40))
        limit = {chance.choice(("cache", "budget")) if total else "cache": chance.choice((0, 5000, *range(1, most)))}
        names = EVERY if arguments["admission"] == "bypass" else EVERY[: -len(FIXED)]
        schedule = None
        if chance.random() < 0.3:
            schedule = {
                "size": chance.randint(1, 5), "chunk": chance.choice((None, 1, 2, 4)),
                "draft": chance.choice((0, 0, 1, 3)), "accept": chance.choice((None, 0.0, 0.3, 0.8)),
                "seed": chance.randint(0, 3), "random": chance.random() < 0.5,
            }  # fmt: skip
        yield arguments, limit, chance.sample(names, 4), chance.random() < 0.5, schedule


def check_replay(drawn):
    case, training, seed = drawn
    compared = []
    for given in settings_of(case, seed):
        try:
            compared += compared_replays(case, training, *given)
        except Exception as error:
            error.add_note(f"with {given}")
            raise
    return compared


def compared_replays(case, training, arguments, limit, policies, preloaded, schedule):
    if not preloaded:
        case = replace(case, preload=None, entries=())
    if schedule is not None:
        rows, scheduled = both(case, schedule)
        case = replace(case, rows=rows, trace=scheduled)
    train = trace_of(training, case.shape) if set(policies) & set(FIXED) else None
    try:
        report = remoe_sim.replay(case.trace, policy=policies, train=train, preload=case.preload, **arguments, **limit)
    except remoe_sim.TraceError:  # both refuse to empty a cache between requests that interleave
        assert replay(case, "lru", arguments, limit) is None
        return []
    with scene(case.shape.experts, arguments["scope"]):
        for result in report:
            with patch.dict(naive.STACK, fixed_twin(result.policy, case, arguments, limit, training)):
                assert_equal(result, expected(case, result.policy, arguments, **limit))
    axes = {**arguments, **limit_axes(case, arguments, limit), **case_axes(case), **schedule_axes(schedule)}
    return [{"policy": result.policy, **axes} for result in report]


def fixed_twin(policy, case, arguments, limit, training):
    """The key of a fixed set of experts, which is another one for every case."""
    if policy not in FIXED:
        return {}
    grouping = {name: value for name, value in arguments.items() if name not in ("scope", "admission")}
    ranked = most_used(training) if policy == "static" else naive_keys.reuses(case.rows, **grouping)
    return {policy: naive_keys.static(members(ranked, case, arguments["scope"], **limit))}


def limit_axes(case, arguments, limit):
    """The unit of a limit, and how it compares with the largest group and with all experts."""
    (unit, most), layers = next(iter(limit.items())), len(case.shape.experts)
    sizes = case.shape.sizes if unit == "budget" else (1,) * layers
    per_layer = arguments["scope"] == "layer"
    share = most // layers if per_layer and unit == "budget" else most
    groups = naive.events(case.rows, order=arguments["order"], phase=arguments["phase"])
    largest = max((sum(sizes[layer] for layer, _ in event.entries) for event in groups), default=0)
    weights = [size * experts for size, experts in zip(sizes, case.shape.experts, strict=True)]
    everything = max(weights) if per_layer else sum(weights)
    size = (
        "none" if most == 0
        else "below a group" if share < largest
        else "all experts" if share >= everything
        else "a part"
    )  # fmt: skip
    return {"unit": unit, "limit": size}


def case_axes(case):
    requests = [row.request for row in case.rows]
    turns = sum(one != other for one, other in pairwise(requests)) + bool(requests)
    slots = [decision for row in case.rows for decision in row.decisions]
    return {
        "sizes": "unknown" if case.shape.sizes is None
        else "equal" if len(set(case.shape.sizes)) == 1
        else "unequal",
        "layers": len(case.shape.experts),
        "experts": "255 and more" if max(case.shape.experts) >= min(LARGE) else "few",
        "preload": bool(case.entries),
        "requests": "mixed" if turns > len(set(requests)) else min(len(set(requests)), 2),
        "tokens per step": "several" if len({row.step for row in case.rows}) < len(case.rows) else "one",
        "null": "decisions" if None in slots else "slots" if any(None in one for one in slots if one) else "none",
    }  # fmt: skip


def schedule_axes(schedule):
    if schedule is None:
        return {"batch": "as recorded"}
    drafts = None if not schedule["draft"] else "all accepted" if schedule["accept"] is None else "by chance"
    return {
        "batch": schedule["size"], "chunk": schedule["chunk"] or "whole prompts", "drafts": drafts,
        "arrival": "random" if schedule["random"] else "trace",
    }  # fmt: skip


# --- what has tests of its own, which draw and compare


def check_pinned(drawn):
    case, arguments, pinned, free, by_bytes = drawn
    policies = assert_pinned(drawn)
    axes = {**arguments, **case_axes(case), "pinned": min(len(pinned), 3), "free": "none" if not free else "some"}
    return [{"policy": policy, **axes, "unit": "budget" if by_bytes else "cache"} for policy in policies]


def check_curve_of_layers(drawn):
    (case, arguments), together = drawn
    assert_curve_of_layers(case, arguments, together)
    return [{"policy": policy, **arguments, **case_axes(case), "side by side": together} for policy in POLICIES]


def check_curve_of_one_cache(drawn):
    case, arguments = drawn
    assert_curve_of_one_cache(case, arguments)
    return [{"policy": policy, **arguments, **case_axes(case)} for policy in POLICIES]


def check_tiers(drawn):
    case, _, arguments = drawn
    if not assert_tiers(drawn):
        return []
    limited = [name for name in arguments if name.endswith(("_cache", "_budget"))]
    axes = {name: value for name, value in arguments.items() if name not in limited}
    units = {f"{name.split('_')[0]} unit": name.split("_")[1] for name in limited}
    none = {f"{name.split('_')[0]} limit": "none" if arguments[name] == 0 else "some" for name in limited}
    return [{**axes, **units, **none, **case_axes(case)}]


def check_prefetch(drawn):
    case, _, training, arguments = drawn
    if not assert_prefetch(drawn):
        return []
    names = ("scope", "admission", "phase", "warmup", "reset", "depth", "predictor", "policy", "guesses")
    learns = "another trace" if training is not None else "a share" if "train_share" in arguments else "nothing"
    cap = "none" if arguments.get("cap") is None else "some"
    return [{**{name: arguments[name] for name in names}, "cap": cap, "learns from": learns, **case_axes(case)}]


def check_reroute(drawn):
    assert_reroute(*drawn)
    _, (method, name, amount), cache, keep = drawn
    return [{"method": method, name: amount, "cache": cache, "keep": keep}]


def check_timeline(drawn):
    case, cpu = drawn
    assert_timeline(case, cpu)
    lanes = "both" if case["lanes"].all() else "storage" if case["lanes"][0] else "host"
    return [{"overlap": case["overlap"], "guessed": case["guessed"], "on cpu": any(cpu), "links": lanes}]


# --- Belady against all that any rule could do


@st.composite
def tiny(draw):
    """Rows of one layer with few experts, and how many experts there are."""
    experts, width = draw(st.integers(2, 5)), draw(st.integers(1, 2))
    wanted = st.lists(st.integers(0, experts - 1), min_size=1, max_size=min(experts, 3), unique=True)
    drawn = draw(st.lists(wanted, min_size=2, max_size=7 * width))
    k = max(map(len, drawn))
    padded = [one + [None] * (k - len(one)) for one in drawn]
    return [Row(0, at, at // width, DECODE, [one]) for at, one in enumerate(padded)], Shape((experts,), (k,), None)


def check_belady(drawn):
    rows, shape = drawn
    trace, groups, (experts,) = trace_of(rows, shape), naive.events(rows), shape.experts
    found = []
    for admission in CHOICES["admission"]:
        frame = remoe_sim.curve(trace, "belady", cache=range(experts + 1), admission=admission)
        mine = frame[frame["layer"] == "all"]
        optimum = [exhaustive_optimum(groups, limit, admission) for limit in range(experts + 1)]
        assert (mine["lookups"] - mine["hits"]).tolist() == optimum
        found.append({
            "admission": admission, "experts": experts, "groups": len(groups),
            "largest group": max(len(event.entries) for event in groups),
        })  # fmt: skip
    return found


# --- libCacheSim, where both apply


@cache
def agreement():
    """The benchmark that knows what may be compared, as a module."""
    from benchmarks.fidelity import agreement as module

    return module


@cache
def scratch():
    return tempfile.TemporaryDirectory(prefix="remoe-sim-accesses-")


@st.composite
def accesses(draw):
    """A trace, a scope, policies and sizes of caches."""
    if draw(st.booleans()):
        trace = draw(cases(preload=False, large=False)).trace
    else:
        shape = draw(st.integers(1, 150)), draw(st.integers(1, 3)), draw(st.integers(4, 60)), draw(st.integers(1, 4))
        trace = agreement().synthetic(*shape, draw(st.integers(0, 2**20)))
    scope, experts = draw(st.sampled_from(CHOICES["scope"])), trace.model.experts
    most = sum(experts) if scope == "global" else max(experts)
    policies = draw(st.lists(st.sampled_from(tuple(agreement().TWINS)), min_size=1, max_size=4, unique=True))
    return trace, scope, policies, draw(st.lists(st.integers(1, most), min_size=1, max_size=3, unique=True))


def check_libcachesim(drawn):
    trace, scope, policies, sizes = drawn
    layers, _ = agreement().accesses(trace)
    assume(len(set(layers.tolist())) == trace.moe_layers)  # theirs wants at least one access
    rows = list(agreement().compare(trace, scope, sorted(sizes), policies, Path(scratch().name)))
    differing = [row for row in rows if row["difference"]]
    assert not differing, differing
    return [{"policy": row["policy"], "scope": row["scope"], "size": size_class(row["size"])} for row in rows]


def size_class(size):
    return next((f"up to {most}" for most in (3, 9, 30, 99) if size <= most), "100 and more")


KINDS = {
    "replay": Kind(replays(), check_replay),
    "pinned": Kind(pinnings(), check_pinned),
    "curve": Kind(st.tuples(curves("layer", layers=3, large=False, most=10), st.booleans()), check_curve_of_layers),
    "curve-global": Kind(curves("global", large=False), check_curve_of_one_cache),
    "tiers": Kind(hierarchies(), check_tiers),
    "prefetch": Kind(situations(), check_prefetch),
    "reroute": Kind(st.tuples(routed(), RULES, st.integers(0, 5), st.integers(0, 2)), check_reroute),
    "timeline": Kind(st.tuples(timelines(), CPU), check_timeline),
    "belady": Kind(tiny(), check_belady),
    "libcachesim": Kind(accesses(), check_libcachesim),
}
