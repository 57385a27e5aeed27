"""The best division of a cache among layers, beside the equal one, the convex hull's, and one cache for all layers."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from remoe_sim.caches import Caches
from remoe_sim.curves import layer_curves
from remoe_sim.engine import BYTES, HITS, LOOKUPS, describe, replay_stream
from remoe_sim.errors import unknown
from remoe_sim.kernels.tallies import DECODE, PREFILL
from remoe_sim.knapsack import Knapsack
from remoe_sim.policy import Policy
from remoe_sim.preload import Preload
from remoe_sim.settings import Limit, Settings, check_policies, find_policies, known_sizes
from remoe_sim.split_report import Division, PolicySplit, SplitReport
from remoe_sim.streams import Longs, select_tokens
from remoe_sim.trace import MOST_IN_ALL, Trace
from remoe_sim.trace_reader import read_trace

COUNTED = [PREFILL, DECODE]
GOALS = ("misses", "bytes")


def split(
    trace: Trace | str | os.PathLike[str],
    budget: int | str | None = None,
    cache: int | None = None,
    policy: str | Sequence[str] = "lru",
    minimise: str = "misses",
    admission: str = "mandatory",
    order: str = "set",
    reset: str = "never",
    phase: str = "all",
    warmup: int = 0,
    preload: Trace | str | os.PathLike[str] | None = None,
    expert_bytes: int | str | Sequence[int] | None = None,
    memory: int | str | None = None,
    reserve: int | str | Sequence[int | str] = (),
    train: Trace | str | os.PathLike[str] | None = None,
) -> SplitReport:
    """Divide a cache among the layers so that misses (or the bytes of the misses) are the fewest.

    budget: bytes in all; cache: experts per layer on average, so that N times the MoE layers are divided; memory and
    reserve as in `replay`. Counted are the misses of both phases, from the exact curve of every layer. `best` is the
    optimum, by dynamic programming, and so never worse than `equal`, which gives every layer the same bytes (or
    experts), rounded down to whole experts; `greedy` follows the convex hulls; `shared` is one cache of all layers.

    Raises ValueError and TraceError like `replay`.
    """
    settings = Settings("layer", admission, order, reset, phase, warmup)
    if minimise not in GOALS:
        raise unknown("minimise", str(minimise), GOALS)
    policies = find_policies(policy)
    check_policies(policies, settings, train is not None)
    limit = Limit.of(cache, budget, memory)
    trace = trace if isinstance(trace, Trace) else read_trace(trace)
    needed_for = "minimising bytes" if minimise == "bytes" else "" if limit.budget is None else "a byte budget"
    trace = known_sizes(trace, expert_bytes, needed_for)
    limit = limit.without_reserve(trace, reserve)
    total = _total(trace, limit)
    tokens = select_tokens(trace, phase, reset, settings.warmup)
    caches = Caches(trace, settings, tokens, Preload.of(trace, preload), training=Preload.of(trace, train))
    curves = list(layer_curves(caches, policies))
    shared = _shared(caches, policies, limit)
    of_policies = zip(policies, zip(*curves, strict=True), shared, strict=True)
    return SplitReport(
        trace=describe(trace),
        settings={name: getattr(settings, name) for name in ("admission", "order", "reset", "phase", "warmup")},
        capacity={"experts" if limit.budget is None else "bytes": total},
        minimise=minimise,
        layers=trace.layer_numbers,
        expert_bytes=trace.model.expert_bytes,
        results=tuple(_divide(trace, limit, minimise, *one) for one in of_policies),
    )


def _total(trace: Trace, limit: Limit) -> int:
    """The limit of all layers together, in bytes or experts; ValueError for one that no cache counts to."""
    total = limit.budget if limit.budget is not None else limit.in_all * trace.moe_layers
    if total > MOST_IN_ALL:
        raise ValueError(
            f"a cache of {limit.in_all} experts in each of {trace.moe_layers} MoE layers is more than {MOST_IN_ALL} in "
            f"all; give at most {max(trace.model.experts)}, which is every expert"
        )
    return total


def _shared(caches: Caches, policies: Sequence[Policy], limit: Limit) -> list[tuple[Longs, bool]]:
    """Of each policy in one cache of all layers: its table of counts, and whether it is the optimum there."""
    in_bytes = limit.budget is not None
    views, rules = caches.global_views(in_bytes), caches.global_rules()
    total, found = _total(caches.trace, limit), {}
    for policy in sorted(policies, key=lambda one: one.by_last):  # one order of members at a time
        stream = views.only(policy.by_last)
        optimal = policy.optimal and stream.equal_sizes and not caches.settings.warmup
        found[policy.label] = replay_stream(policy, stream, total, rules)[2].table, optimal
    return [found[policy.label] for policy in policies]


def _divide(
    trace: Trace,
    limit: Limit,
    minimise: str,
    policy: Policy,
    curves: Sequence[tuple[Longs, Longs]],
    shared: tuple[Longs, bool],
) -> PolicySplit:
    sizes = trace.model.expert_bytes or (1,) * trace.moe_layers
    lookups = [int(of_kind[COUNTED].sum()) for of_kind, _ in curves]
    misses = [total - hits[COUNTED].sum(axis=0) for total, (_, hits) in zip(lookups, curves, strict=True)]
    unit = int(np.gcd.reduce(sizes))
    prices = [size // unit if minimise == "bytes" else 1 for size in sizes]
    problem = Knapsack(
        costs=[table * price for table, price in zip(misses, prices, strict=True)],
        weights=(1,) * trace.moe_layers if limit.budget is None else sizes,
        limit=_total(trace, limit),
    )
    equal = tuple(min(limit.for_layer(trace, index), most) for index, most in enumerate(trace.model.experts))
    greedy = problem.greedy()

    def division(experts: Sequence[int]) -> Division:
        own = tuple(int(table[n]) for table, n in zip(misses, experts, strict=True))
        read = None if trace.model.expert_bytes is None else sum(m * size for m, size in zip(own, sizes, strict=True))
        return Division(sum(lookups), sum(own), read, tuple(experts), own, problem.held(experts))

    table, optimal = shared
    counts = table[COUNTED].sum(axis=0)
    read = None if trace.model.expert_bytes is None else int(counts[BYTES])
    return PolicySplit(
        policy=policy.label,
        lookups=tuple(lookups),
        equal=division(equal),
        greedy=division(greedy),
        best=division(problem.best(greedy, equal)),
        shared=Division(int(counts[LOOKUPS]), int(counts[LOOKUPS] - counts[HITS]), read),
        shared_is_optimal=optimal,
    )
