"""`split`: divide one budget among the layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.cache.caches import BYTES, HITS, LOOKUPS, Caches, replay_stream
from remoe_sim.cache.call import Call
from remoe_sim.cache.curve import layer_curves
from remoe_sim.cache.results import describe
from remoe_sim.cache.settings import Limit, Settings, policies_for
from remoe_sim.trace.accesses import DECODE_LOOKUP, PREFILL_LOOKUP
from remoe_sim.trace.trace import MOST_IN_ALL, Trace, TraceLike
from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.errors import unknown
from remoe_sim.util.units import rate

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.policy.base import Policy
    from remoe_sim.util.arrays import Longs


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


SCHEMA = "remoe-sim.split.v1"
DIVISIONS = ("equal", "greedy", "best")


@dataclass(frozen=True)
class Division:
    """A cache and its misses in all. experts, layer_misses: of every MoE layer, None for one cache of all layers; held:
    what the experts take of the limit, in its unit. bytes_read, the misses times their sizes: None if unknown."""

    lookups: int
    misses: int
    bytes_read: int | None
    experts: tuple[int, ...] | None = None
    layer_misses: tuple[int, ...] | None = None
    held: int | None = None

    @property
    def hits(self) -> int:
        return self.lookups - self.misses

    @property
    def hit_rate(self) -> float | None:
        return rate(self.hits, self.lookups)

    def to_dict(self) -> dict[str, Any]:
        names = ("lookups", "hits", "misses", "hit_rate", "bytes_read")
        found = {name: getattr(self, name) for name in names}
        return found if self.experts is None else {**found, "held": self.held, "experts": list(self.experts)}


@dataclass(frozen=True)
class PolicySplit:
    """One policy: lookups of every MoE layer; three divisions, and `shared`, one cache of all layers at that limit.

    shared_is_optimal: no policy misses less in one cache of that limit.
    """

    policy: str
    lookups: tuple[int, ...]
    equal: Division
    greedy: Division
    best: Division
    shared: Division
    shared_is_optimal: bool

    @property
    def misses_saved(self) -> int:
        """Misses of the equal division that the best one avoids."""
        return self.equal.misses - self.best.misses

    @property
    def bytes_saved(self) -> int | None:
        """Bytes of the equal division that the best one does not read; negative where it misses larger experts."""
        if self.equal.bytes_read is None or self.best.bytes_read is None:
            return None
        return self.equal.bytes_read - self.best.bytes_read

    def to_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            **{name: getattr(self, name).to_dict() for name in DIVISIONS},
            "shared": {**self.shared.to_dict(), "optimal": self.shared_is_optimal},
            "misses_saved": self.misses_saved,
            "misses_saved_share": rate(self.misses_saved, self.equal.misses),
            "bytes_saved": self.bytes_saved,
        }


@dataclass(frozen=True, repr=False)
class SplitReport(Shown):
    """The answer of one call, one result per policy. layers: the model's own numbers; settings: how it was replayed."""

    trace: dict[str, Any]
    settings: dict[str, Any]
    capacity: dict[str, int]
    minimise: str
    layers: tuple[int, ...]
    expert_bytes: tuple[int, ...] | None
    results: tuple[PolicySplit, ...]

    def __getitem__(self, policy: str) -> PolicySplit:
        for result in self.results:
            if result.policy == policy:
                return result
        raise KeyError(policy)

    def __iter__(self) -> Iterator[PolicySplit]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def rows(self) -> list[dict[str, Any]]:
        """One per policy and layer: experts and misses under each division."""
        rows = []
        for result in self.results:
            for index, layer in enumerate(self.layers):
                size = None if self.expert_bytes is None else self.expert_bytes[index]
                row = {"policy": result.policy, "layer": layer, "expert_bytes": size, "lookups": result.lookups[index]}
                for name in DIVISIONS:
                    division = getattr(result, name)
                    row[f"{name}_experts"] = division.experts[index]
                    row[f"{name}_misses"] = division.layer_misses[index]
                rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim split --json` prints; `experts` are in the order of `layers`."""
        return {
            **stamp(SCHEMA),
            "trace": self.trace,
            **self.settings,
            "capacity": self.capacity,
            "minimise": self.minimise,
            "results": [result.to_dict() for result in self.results],
            "layers": self.rows(),
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per policy and layer."""
        import pandas as pd

        return pd.DataFrame(self.rows())


COUNTED = [PREFILL_LOOKUP, DECODE_LOOKUP]
GOALS = ("misses", "bytes")


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
) -> SplitReport:
    """Divide a cache among the layers so that misses (or the bytes of the misses) are the fewest.

    budget: bytes in all; cache: experts per layer on average, so that N times the MoE layers are divided; memory and
    reserve as in `replay`. Counted are the misses of both phases, from the exact curve of every layer. `best` is the
    optimum, by dynamic programming, and so never worse than `equal`, which gives every layer the same bytes (or
    experts), rounded down to whole experts; `greedy` follows the convex hulls; `shared` is one cache of all layers.

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
