"""`split`: divide one budget among the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.cache.caches import BYTES, HITS, LOOKUPS, Caches, replay_stream
from remoe_sim.cache.call import Call
from remoe_sim.cache.curve import layer_curves
from remoe_sim.cache.learning import DEFAULT_SHARE, FEWEST_TO_PART, division_of, drawn_requests
from remoe_sim.cache.results import describe
from remoe_sim.cache.settings import Limit, Settings, policies_for
from remoe_sim.devices.step_counts import StepCounts
from remoe_sim.studies.bootstrap import Ratios, differences
from remoe_sim.studies.split_result import Division, HeldOut, PolicySplit, SplitReport
from remoe_sim.trace.accesses import DECODE_LOOKUP, PREFILL_LOOKUP, WARMUP_LOOKUP, select_tokens
from remoe_sim.trace.trace import MOST_IN_ALL, Trace, TraceLike
from remoe_sim.util.errors import unknown

if TYPE_CHECKING:
    from remoe_sim.policy.base import Policy
    from remoe_sim.util.arrays import Longs, Reals


@dataclass(frozen=True)
class Knapsack:
    """costs: int64[E + 1] of each layer, with 0 to E experts; weights: what one expert of it takes of `limit`."""

    costs: Sequence[Longs]
    weights: Sequence[int]
    limit: int

    def cost(self, experts: Sequence[int]) -> int:
        """What a division costs."""
        return sum(int(costs[n]) for costs, n in zip(self.costs, experts, strict=True))

    def held(self, experts: Sequence[int]) -> int:
        """What a division takes of the limit."""
        return sum(weight * int(n) for weight, n in zip(self.weights, experts, strict=True))

    def greedy(self) -> tuple[int, ...]:
        """Steps along the lower convex hulls of all curves, the steepest first, while they fit; then what still fits.

        The sorted steps are the linear relaxation of the problem; the result is the best division where the last step
        uses up the limit, and close to it otherwise.
        """
        experts, stopped, room = [0] * len(self.costs), dict[int, None](), self.limit
        for layer, after, taken in zip(*(column.tolist() for column in self._steps[:3]), strict=True):
            if layer in stopped or taken > room:
                stopped[layer] = None
            else:
                experts[layer], room = after, room - taken
        for layer in stopped:
            now = experts[layer]
            reachable = self.costs[layer][now : now + room // self.weights[layer] + 1]
            more = int(reachable.argmin())
            experts[layer], room = now + more, room - more * self.weights[layer]
        return tuple(experts)

    def best(self, *known: Sequence[int]) -> tuple[int, ...]:
        """The division of the least cost, proven; one of the `known` where nothing costs less.

        Takes at most O(L · E · F) steps for L layers of E experts and F states of a front (see `extend`), where
        F ≤ limit / (greatest common divisor of the weights) + 1: with equal sizes the textbook's O(L² · E²).
        """
        from remoe_sim.kernels.knapsack import extend

        start = min(known, key=self.cost)
        least = self.cost(start)
        most = least - 1 + 1e-6 + 1e-9 * least  # costs are whole; what rounding may add only keeps more states
        held, cost = np.zeros(1, np.int64), np.zeros(1, np.int64)
        came_from = []
        for layer, (costs, weight) in enumerate(zip(self.costs, self.weights, strict=True)):
            useful = _useful(costs)
            rest = self._hull_after(layer)
            held, cost, origin, choice = extend(held, cost, useful, costs[useful], weight, self.limit, *rest, most)
            came_from.append((origin, choice))
        if not cost.size or cost[-1] >= least:
            return tuple(int(n) for n in start)
        at, experts = cost.size - 1, []
        for origin, choice in reversed(came_from):
            experts.append(int(choice[at]))
            at = origin[at]
        return tuple(reversed(experts))

    @cached_property
    def _steps(self) -> tuple[Longs, Longs, Longs, Longs]:
        """Steps of all hulls, the steepest first: layer, experts after it, what it takes, how much the cost falls."""
        steps = [
            (layer, after, (after - before) * weight, int(costs[before] - costs[after]))
            for layer, (costs, weight) in enumerate(zip(self.costs, self.weights, strict=True))
            for before, after in pairwise(_lower_hull(costs))
        ]
        table = np.array(steps, np.int64).reshape(-1, 4)
        table = table[np.argsort(-(table[:, 3] / table[:, 2]), kind="stable")]
        return table[:, 0], table[:, 1], table[:, 2], table[:, 3]

    def _hull_after(self, layer: int) -> tuple[Longs, Longs]:
        """Corners of the lower convex hull of all layers behind `layer`: what they hold, what they cost."""
        layers, _, taken, drop = self._steps
        behind = layers > layer
        empty = sum(int(costs[0]) for costs in self.costs[layer + 1 :])
        held, saved = (np.append(0, np.cumsum(column[behind])) for column in (taken, drop))
        return held, empty - saved


def _useful(costs: Longs) -> Longs:
    """Numbers of experts that cost less than all smaller ones."""
    least = np.minimum.accumulate(costs)
    return np.append(0, np.flatnonzero(least[1:] < least[:-1]) + 1)


def _lower_hull(costs: Longs) -> list[int]:
    """Corners of the lower convex hull of the falling part of a curve, from 0 experts on."""
    corners: list[int] = []
    for n in _useful(costs).tolist():
        while len(corners) > 1 and _above(costs, corners[-2], corners[-1], n):
            corners.pop()
        corners.append(n)
    return corners


def _above(costs: Longs, left: int, middle: int, right: int) -> bool:
    """Whether the middle point lies on or above the line from the left to the right one."""
    return int(costs[left] - costs[middle]) * (right - left) <= int(costs[left] - costs[right]) * (middle - left)


COUNTED = [PREFILL_LOOKUP, DECODE_LOOKUP]
GOALS = ("misses", "bytes")
ALPHA, RESAMPLES = 0.05, 1999


def split(
    trace: TraceLike,
    budget: int | str | None = None,
    cache: int | None = None,
    policy: str | Sequence[str] = "lru",
    minimise: str = "misses",
    admission: str = "mandatory",
    order: str = "set",
    reset: str = "never",
    phase: str = "all",
    warmup: int = 0,
    preload: TraceLike | None = None,
    expert_bytes: int | str | Sequence[int] | None = None,
    memory: int | str | None = None,
    reserve: int | str | Sequence[int | str] = (),
    train: TraceLike | None = None,
    train_share: float | str | None = None,
    train_seed: int | str = 0,
    apply: Any = None,
) -> SplitReport:
    """Divide a cache among the layers so that misses (or the bytes of the misses) are the fewest.

    budget: bytes in all; cache: experts per layer on average, so that N times the MoE layers are divided; memory and
    reserve as in `replay`. Counted are the misses of both phases, from the exact curve of every layer. `best` is the
    optimum, by dynamic programming, and so never worse than `equal`, which gives every layer the same bytes (or
    experts), rounded down to whole experts; `greedy` follows the convex hulls; `shared` is one cache of all layers.

    train_share: the share of the requests, drawn with train_seed, that divisions are fitted to and all counts are those
    of; `held_out` then has the misses of the same divisions on the other requests, with an interval over requests.
    Without it counts are of divisions fitted to all requests, and `held_out` is that of half of them, where a trace has
    four requests or more. apply: a division to count too, as `division` in `replay`; it takes its own room.

    Raises ValueError and TraceError like `replay`.
    """
    settings = Settings(admission=admission, order=order, reset=reset, phase=phase, warmup=warmup)
    if minimise not in GOALS:
        raise unknown("minimise", str(minimise), GOALS)
    policies = policies_for(policy, settings, trained=train is not None)
    limit = Limit.of(cache, budget, memory)
    call = Call.of(
        trace,
        settings=settings,
        policies=policies,
        limit=limit,
        reserve=reserve,
        expert_bytes=expert_bytes,
        needed_for="minimising bytes" if minimise == "bytes" else None,
        preload=preload,
        train=train,
    )
    trace, caches, limit = call.trace, call.caches, call.limit or limit
    total = _total(trace, limit)
    known = None if apply is None else division_of(trace, apply)
    given = train_share is not None
    parts = None
    if train_share is not None or trace.requests >= FEWEST_TO_PART:
        parts = _parted(caches, DEFAULT_SHARE if train_share is None else train_share, train_seed)
    if parts is not None and given:
        caches = parts[0]
    curves = list(layer_curves(caches, policies))
    shared = _shared(caches, policies, limit)
    of_policies = zip(policies, zip(*curves, strict=True), shared, strict=True)
    results = [_divide(trace, limit, minimise, *one, known) for one in of_policies]
    if parts is not None:
        fitted = results
        if not given:
            on_part = zip(*layer_curves(parts[0], policies), strict=True)
            of_part = zip(policies, on_part, shared, strict=True)
            fitted = [_divide(trace, limit, minimise, *one) for one in of_part]
        judged = zip(*layer_curves(parts[1], policies), strict=True)
        held = (
            _judge(trace, limit, minimise, one, of_layers, parts, policy)
            for policy, one, of_layers in zip(policies, fitted, judged, strict=True)
        )
        results = [replace(one, held_out=of) for one, of in zip(results, held, strict=True)]
    return SplitReport(
        trace=describe(trace),
        settings={name: getattr(settings, name) for name in ("admission", "order", "reset", "phase", "warmup")},
        capacity={"experts" if limit.budget is None else "bytes": total},
        minimise=minimise,
        layers=trace.layer_numbers,
        expert_bytes=trace.model.expert_bytes,
        results=tuple(results),
    )


def _parted(caches: Caches, share: float | str, seed: int | str) -> tuple[Caches, Caches]:
    """Caches of a share of the requests, drawn by chance, and of all others; ValueError if either part is empty."""
    trace, settings = caches.trace, caches.settings
    one, other = (
        replace(
            caches,
            tokens=select_tokens(
                trace, settings.phase, settings.reset, settings.warmup, requests=some.astype(np.int64)
            ),
        )
        for some in drawn_requests(trace, share, seed)
    )
    return one, other


def _requests(caches: Caches) -> int:
    """How many requests take part."""
    return int(np.unique(caches.trace.request[caches.tokens.rows]).size)


def _judge(
    trace: Trace, limit: Limit, minimise: str, fitted: PolicySplit, curves: Sequence[tuple[Longs, Longs]],
    parts: tuple[Caches, Caches], policy: Policy,
) -> HeldOut:  # fmt: skip
    """The divisions of a policy, fitted to one part, on the other part's requests, whose curves these are."""
    table = _Table.of(trace, limit, curves)
    equal, greedy, best = (table.division(one.experts or ()) for one in (fitted.equal, fitted.greedy, fitted.best))
    own, other = (_of_requests(parts[1], policy, one.experts or (), minimise) for one in (equal, best))
    sides = [Ratios(one[None], own[None]) for one in (own, other)]
    interval = differences(sides[0], sides[1], True, RESAMPLES, 0).interval(0, ALPHA) if own.any() else None
    saved = None if interval is None else (-interval[1], -interval[0])
    return HeldOut(
        _requests(parts[0]), _requests(parts[1]), equal, greedy, best, fitted.misses_saved, fitted.equal.misses, saved
    )


def _of_requests(caches: Caches, policy: Policy, experts: Sequence[int], minimise: str) -> Reals:
    """float64[requests]: what each request misses (or reads) under a division."""
    trace, tokens = caches.trace, caches.tokens
    counts = StepCounts(trace, tokens, 1)
    for index, most in enumerate(experts):
        stream = caches.layer_views(index).get(policy.by_last)
        stream, outcome, _ = replay_stream(policy, stream, most, caches.layer_rules(index))
        counted = stream.kinds != WARMUP_LOOKUP
        counts.miss(0, stream, outcome.hit | ~counted, index)
    sizes = trace.model.expert_bytes if minimise == "bytes" else None
    cost = counts.missed[0].astype(np.float64) @ np.array(sizes or (1,) * trace.moe_layers, np.float64)
    rows = tokens.starts[:-1] if tokens.rows is None else tokens.rows[tokens.starts[:-1]]
    request = trace.request[rows]
    every = trace.request if tokens.rows is None else trace.request[tokens.rows]
    if np.any(np.repeat(request, np.diff(tokens.starts)) != every):
        request = np.zeros_like(request)  # steps of several requests: nothing to draw
    _, place = np.unique(request, return_inverse=True)
    return np.bincount(place, cost).astype(np.float64)


@dataclass(frozen=True)
class _Table:
    """Lookups of each layer, and its misses with 0 to E experts; sizes: of its experts, 1 if unknown; weights: what one
    takes of the limit."""

    lookups: tuple[int, ...]
    misses: tuple[Longs, ...]
    sizes: Sequence[int]
    weights: Sequence[int]
    sized: bool

    @classmethod
    def of(cls, trace: Trace, limit: Limit, curves: Sequence[tuple[Longs, Longs]]) -> _Table:
        ones = (1,) * trace.moe_layers
        sizes = trace.model.expert_bytes or ones
        lookups = tuple(int(of_kind[COUNTED].sum()) for of_kind, _ in curves)
        misses = tuple(total - hits[COUNTED].sum(axis=0) for total, (_, hits) in zip(lookups, curves, strict=True))
        return cls(
            lookups, misses, sizes, ones if limit.budget is None else sizes, trace.model.expert_bytes is not None
        )

    def division(self, experts: Sequence[int]) -> Division:
        """What a division misses."""
        own = tuple(int(table[n]) for table, n in zip(self.misses, experts, strict=True))
        read = sum(m * size for m, size in zip(own, self.sizes, strict=True)) if self.sized else None
        held = sum(weight * n for weight, n in zip(self.weights, experts, strict=True))
        return Division(sum(self.lookups), sum(own), read, tuple(experts), own, held)


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
    known: tuple[int, ...] | None = None,
) -> PolicySplit:
    found = _Table.of(trace, limit, curves)
    unit = int(np.gcd.reduce(found.sizes))
    prices = [size // unit if minimise == "bytes" else 1 for size in found.sizes]
    problem = Knapsack(
        costs=[table * price for table, price in zip(found.misses, prices, strict=True)],
        weights=found.weights,
        limit=_total(trace, limit),
    )
    equal = tuple(min(limit.for_layer(trace, index), most) for index, most in enumerate(trace.model.experts))
    greedy = problem.greedy()
    table, optimal = shared
    counts = table[COUNTED].sum(axis=0)
    read = None if trace.model.expert_bytes is None else int(counts[BYTES])
    return PolicySplit(
        policy=policy.label,
        lookups=found.lookups,
        equal=found.division(equal),
        greedy=found.division(greedy),
        best=found.division(problem.best(greedy, equal)),
        shared=Division(int(counts[LOOKUPS]), int(counts[LOOKUPS] - counts[HITS]), read),
        shared_is_optimal=optimal,
        applied=None if known is None else found.division(tuple(map(min, known, trace.model.experts))),
    )
