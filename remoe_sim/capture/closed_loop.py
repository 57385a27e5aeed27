"""A cache in the loop: while a model runs, its routers see which experts are resident, and the cache what they choose.

Tokens of a step see what is resident before it, as in a replay of the trace that comes out, which counts the same hits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remoe_sim.capture.loop_cache import LoopCache, loop_caches
from remoe_sim.capture.passes import LoopStep
from remoe_sim.capture.routers import Choice, Router, is_sigmoid, read_choice, tables_of
from remoe_sim.kernels import reroute as kernels
from remoe_sim.policy.route import DROP, KERNEL_METHODS, METHODS, Rule

PREFILL, DECODE = 0, 1
SAME = 1e-3  # relative difference up to which sums of gate weights count as equal


def closed_loop(
    routers: Sequence[Router], route: str | None, cache: int | str | None, policy: str, settings: Mapping[str, Any],
    keep: int | str,
) -> ClosedLoop | None:  # fmt: skip
    """The loop that was asked for, or None; ValueError for settings that are not possible."""
    if route is None:
        given = [name for name, value in {"cache": cache, **settings}.items() if value is not None]
        if given:
            raise ValueError(f"{given[0]} is for a cache in the loop; pass route=, one of {', '.join(METHODS)}")
        return None
    return ClosedLoop(routers, check_route(route, cache, settings, keep), policy)


def check_route(route: str, cache: int | str | None, settings: Mapping[str, Any], keep: int | str) -> Rule:
    """The rule of a route; ValueError for settings that are not possible."""
    if cache is None:
        raise ValueError("route needs the size of the cache that routers follow; pass cache=, such as 8")
    return Rule.of(route, settings, keep, cache)


@dataclass
class LoopCounts:
    """What the loop counted, of both phases: [prefill, decode]. slots: slots of decode tokens; changed: those of them
    that were replaced or left out; lost: the sum over decode decisions of the share of the mass that each lost."""

    lookups: list[int] = field(default_factory=lambda: [0, 0])
    hits: list[int] = field(default_factory=lambda: [0, 0])
    decisions: int = 0
    slots: int = 0
    changed: int = 0
    lost: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The counts by phase, as in `remoe-sim replay --json`; a share over nothing is null."""
        phases = {
            name: {"lookups": self.lookups[phase], "hits": self.hits[phase]}
            for phase, name in enumerate(("prefill", "decode"))
        }
        return {
            **phases,
            "changed_slots": self.changed,
            "changed_share": self.changed / self.slots if self.slots else None,
            "lost_mass": self.lost / self.decisions if self.decisions else None,
        }


class ClosedLoop:
    """The caches of all layers, and the rule by which the routers of a model follow them."""

    def __init__(self, routers: Sequence[Router], rule: Rule, policy: str) -> None:
        self.rule, self.policy, self.counts = rule, policy, LoopCounts()
        caches = loop_caches(policy, rule.cache, [router.experts for router in routers])
        self._layers = [_Layer(*both, rule, self.counts) for both in zip(routers, caches, strict=True)]

    def route(self, at: int, output: Any, steps: Sequence[LoopStep]) -> tuple[Any, list[Any]]:
        """Re-route what router `at` returns. Returns its output as the model goes on with it, and two tables [n, k]:
        the experts that are computed, -1 where a slot is left out, and those that the router alone wanted."""
        return self._layers[at].route(output, steps)

    def to_dict(self) -> dict[str, Any]:
        """The rule, and what was counted, for the origin of a trace."""
        return {**self.rule.to_dict(), "policy": self.policy, **self.counts.to_dict()}

    def sentence(self) -> str:
        """What was done, for `Trace.notes`."""
        return (
            f"decode tokens re-routed while the model ran ({self.rule.in_words()}) towards a cache of "
            f"{self.rule.cache} experts per layer under {self.policy}, closed loop: the cache began empty"
        )


class _Layer:
    def __init__(self, router: Router, cache: LoopCache, rule: Rule, counts: LoopCounts) -> None:
        self._router, self._cache, self._rule, self._counts = router, cache, rule, counts
        self._idle = rule.cache >= router.experts  # a cache of all experts: a router has nothing to avoid
        self._sigmoid: bool | None = None
        self._sums: list[float] = []  # least and largest sum of a decision's gate weights
        self._divides = False  # whether the router divides gate weights by their sum
        self._ranges, self._tokens = 0.0, 0
        self._chosen = np.zeros(router.experts, np.bool_)

    def route(self, output: Any, steps: Sequence[LoopStep]) -> tuple[Any, list[Any]]:
        import torch

        tables = tables_of(output)
        choice = read_choice(self._router, tables)
        wanted = choice.experts.cpu().numpy().astype(np.int64)
        weights = None if choice.weights is None else choice.weights.float().cpu().numpy()
        self._dtype = None if choice.weights is None else choice.weights.dtype
        probs = self._probabilities(choice)
        if weights is not None and probs is not None:
            self._learn(weights, np.take_along_axis(probs, wanted, axis=1))
        after = wanted.copy()
        for step in steps:
            self._step(step, wanted, after, probs, weights)
        changed = np.flatnonzero((after != wanted).any(axis=1))
        computed = torch.from_numpy(after).to(choice.experts.device)
        if changed.size:
            output = self._with(output, tables, choice, changed, wanted, after, probs, weights)
        if weights is not None:
            wanted = np.take_along_axis(wanted, np.argsort(-weights, axis=1, kind="stable"), axis=1)
        return output, [computed, torch.from_numpy(wanted)]

    def _step(self, step: LoopStep, wanted: Any, after: Any, probs: Any, weights: Any) -> None:
        counts, resident = self._counts, self._cache.resident
        if probs is not None and self._rule.method in ("cache-prior", "cache-aware"):
            some = np.maximum(probs[step.rows].astype(np.float64), kernels.SMALLEST)
            ranges = self._ranges + np.cumsum(np.log(some.max(axis=1)) - np.log(some.min(axis=1)))
            limits = self._rule.amount * ranges / np.arange(self._tokens + 1, self._tokens + 1 + ranges.size)
            if ranges.size:
                self._ranges, self._tokens = float(ranges[-1]), self._tokens + ranges.size
        else:
            limits = np.full(step.rows.size, self._rule.amount)
        for row, limit in zip(step.rows.tolist() if step.decode else (), limits.tolist(), strict=False):
            counts.decisions += 1
            counts.slots += wanted.shape[1]
            if self._idle or resident[wanted[row]].all():
                continue
            if self._rule.method == DROP:
                self._drop(after[row], weights, row)
            else:
                self._replace(after[row], probs[row], limit)
        ordered = [self._in_order(after[row], wanted[row], probs, weights, row) for row in step.rows.tolist()]
        chosen = np.concatenate(ordered) if ordered else np.zeros(0, np.int64)
        lookups, hits = self._cache.use(chosen)
        counts.lookups[step.decode] += lookups
        counts.hits[step.decode] += hits

    def _drop(self, decision: Any, weights: Any, row: int) -> None:
        """Leave out what is not resident and weighs less than threshold / k of the decision; see `kernels.reroute`."""
        own = weights[row].astype(np.float64)
        place = np.empty(own.size, np.int64)
        place[np.argsort(-own, kind="stable")] = np.arange(own.size)
        cold = ~self._cache.resident[decision]
        leaves = cold & (own * own.size < self._rule.amount * own.sum()) & (place >= self._rule.keep)
        decision[leaves] = -1
        self._counts.changed += int(leaves.sum())
        self._counts.lost += float(own[leaves].sum() / own.sum())

    def _replace(self, decision: Any, probs: Any, limit: float) -> None:
        some = decision.astype(np.uint16)
        fault, changes, lost = kernels.replace_cold(
            some, np.ones(some.size, np.bool_), probs, KERNEL_METHODS[self._rule.method], float(limit),
            self._rule.keep, self._cache.resident, self._chosen,
        )  # fmt: skip
        if fault:
            raise ValueError(
                f"the router '{self._router.name}' chose experts that are not its most probable ones, so its "
                "probabilities do not tell which to take instead; use route 'drop'"
            )
        if changes:
            decision[:] = some
            self._counts.changed += int(changes)
            self._counts.lost += float(lost)

    def _in_order(self, decision: Any, wanted: Any, probs: Any, weights: Any, row: int) -> Any:
        """The experts of a decision as the trace will have them: the largest gate weight first."""
        if weights is None:
            return decision[decision >= 0]
        own = weights[row]
        if (decision != wanted).any():
            some = None if probs is None else probs[row : row + 1]
            own = self._weights(decision[None], wanted[None], some, weights[row : row + 1])[0]
        return decision[np.argsort(-own, kind="stable")][: int((decision >= 0).sum())]

    def _probabilities(self, choice: Choice) -> Any:
        """float32[n, E]: a softmax of the logits, or sigmoid scores divided by their sum; None for `drop`."""
        if self._rule.method == DROP:
            if choice.weights is None:
                raise ValueError(f"the router '{self._router.name}' does not return gate weights, which drop needs")
            return None
        if choice.logits is None or choice.guessed:
            raise ValueError(
                f"the router '{self._router.name}' does not return logits and choice, so it cannot be re-routed"
            )
        if self._sigmoid is None:
            self._sigmoid = is_sigmoid(choice)
        logits = choice.logits.float()
        scores = logits.sigmoid() if self._sigmoid else logits.softmax(-1)
        return (scores / scores.sum(-1, keepdim=True)).cpu().numpy()

    def _weights(self, after: Any, wanted: Any, probs: Any, weights: Any) -> Any:
        """float32[m, k]: gate weights of changed decisions, rounded as the router's own are.

        A left-out slot weighs nothing and the others keep their weights. A replaced one weighs its probability, on the
        scale on which the router weighed its own choice: the same sum where it divides by the sum, else the same ratio.
        """
        import torch

        if self._rule.method == DROP:
            return np.where(after < 0, np.float32(0), weights)
        old, new = (np.take_along_axis(probs, one, axis=1) for one in (wanted, after))
        total = weights.sum(axis=1, keepdims=True)
        scale = new if self._divides else old
        own = new * (total / scale.sum(axis=1, keepdims=True))
        return own if self._dtype == torch.float32 else torch.from_numpy(own).to(self._dtype).float().numpy()

    def _learn(self, weights: Any, probs: Any) -> None:
        """Tell from all rows so far whether the router divides gate weights by their sum."""
        total = weights.sum(axis=1)
        found = [*self._sums, *map(float, (total.min(), total.max()))] if total.size else self._sums
        self._sums = [min(found), max(found)] if found else []
        as_they_are = bool((np.abs(total - probs.sum(axis=1)) <= SAME * total).all())
        self._divides = bool(self._sums) and self._sums[1] - self._sums[0] <= SAME * self._sums[1] and not as_they_are

    def _with(
        self, output: Any, tables: list[Any], choice: Choice, rows: Any, wanted: Any, after: Any, probs: Any,
        weights: Any,
    ) -> Any:  # fmt: skip
        """The router's output with other experts and weights in some rows."""
        import torch

        device = choice.experts.device
        at = torch.from_numpy(rows).to(device)
        left = after[rows]
        experts = choice.experts.clone()
        experts[at] = torch.from_numpy(np.where(left < 0, wanted[rows], left)).to(device, experts.dtype)
        changed = {id(choice.experts): experts}
        if weights is not None:
            some = None if probs is None else probs[rows]
            own = torch.from_numpy(self._weights(left, wanted[rows], some, weights[rows])).to(device)
            changed |= _reweighted(choice, tables, at, experts, own)
        values = list(output)
        tensors = [number for number, one in enumerate(values) if getattr(one, "ndim", 0) > 1]
        for number, table in zip(tensors, tables, strict=True):
            if id(table) in changed:
                values[number] = changed[id(table)].reshape(values[number].shape).to(values[number].dtype)
        return type(output)(values)


def _reweighted(choice: Choice, tables: list[Any], at: Any, experts: Any, own: Any) -> dict[int, Any]:
    """The tables of an output that hold gate weights, with those of some rows put in their place."""
    narrow = next((one for one in tables if one is choice.weights), None)
    if narrow is not None:
        weights = narrow.clone()
        weights[at] = own.to(weights.dtype)
        return {id(narrow): weights}
    wide = next(one for one in tables if one.is_floating_point() and one.shape[1] > own.shape[1])
    scores = wide.clone()  # scores of all experts, of which the model takes those of the chosen ones
    scores[at] = scores[at].scatter(1, experts[at].long(), own.to(scores.dtype))
    if (wide != 0).sum(1).max() <= own.shape[1]:  # nothing but the chosen ones
        scores[at] = scores.new_zeros(scores[at].shape).scatter(1, experts[at].long(), own.to(scores.dtype))
    return {id(wide): scores}
