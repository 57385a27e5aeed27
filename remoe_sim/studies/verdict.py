"""`verdict`: whether a better policy, a larger cache or neither would help."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.cache.call import Call
from remoe_sim.cache.curve import layer_curves
from remoe_sim.cache.holdings import of_accesses
from remoe_sim.cache.replay import results_of, runs_on
from remoe_sim.cache.results import ReplayResult, describe
from remoe_sim.cache.settings import (
    ALLOWED,
    OPTIMUM,
    Limit,
    Settings,
    find_policies,
    policies_for,
)
from remoe_sim.policy.base import Policy
from remoe_sim.policy.stack import StackPolicy
from remoe_sim.studies.verdict_result import Verdict
from remoe_sim.trace.accesses import DECODE_LOOKUP, PREFILL_LOOKUP
from remoe_sim.trace.metrics import LayerStatistics, layer_statistics
from remoe_sim.trace.trace import Trace, TraceLike
from remoe_sim.util.threads import map_layers
from remoe_sim.util.units import rate

if TYPE_CHECKING:
    from remoe_sim.cache.caches import Caches
    from remoe_sim.devices.device import Device
    from remoe_sim.models.sizes import SizedModel
    from remoe_sim.util.arrays import Longs

TARGETS = (50, 80, 90, 95)  # per cent of decode lookups
KINDS = {"all": (PREFILL_LOOKUP, DECODE_LOOKUP), "decode": (DECODE_LOOKUP,), "prefill": (PREFILL_LOOKUP,)}


def regime(caches: Caches, limit: Limit) -> dict[str, dict[str, Any]]:
    """r = group / capacity, over the groups of all phases, of decode and of prefill.

    Scope `layer`: a group is what a step needs at a layer, against that layer's cache. Scope `global`: what a step
    needs at all layers (its token cycle), against the whole cache, in the unit of its limit. A group counts as decode
    when any of its lookups does. `mean` and `p95` (the least value that 95 % of the groups do not exceed) are None
    where a capacity is 0. `above_one` counts the groups that are larger than their cache.
    """
    parts = (
        [_step_groups(caches, limit)]
        if not caches.settings.per_layer
        else list(
            map_layers(lambda index: _layer_groups(caches, limit, index), caches.trace.moe_layers, of_accesses(caches))
        )
    )
    needed, room, counts = (np.concatenate(column, axis=-1) for column in zip(*parts, strict=True))
    return {name: _summary(needed, room, counts[list(kinds)].sum(axis=0)) for name, kinds in KINDS.items()}


def _layer_groups(caches: Caches, limit: Limit, index: int) -> tuple[Longs, Longs, Longs]:
    """Sizes of groups at a layer, the capacity beside each, and int64[3, sizes], how many there are of each kind."""
    stream = caches.layer_views(index).get(True)
    room = min(limit.for_layer(caches.trace, index), stream.n_entries)
    sizes = np.diff(stream.offsets)
    counts = np.zeros((3, int(sizes.max(initial=0)) + 1), np.int64)
    np.add.at(counts, (_kinds(stream.kinds, stream.offsets), sizes), 1)
    return np.arange(counts.shape[1]), np.full(counts.shape[1], room), counts


def _step_groups(caches: Caches, limit: Limit) -> tuple[Longs, Longs, Longs]:
    """The same of whole steps against the cache of all layers."""
    stream = caches.global_views(limit.budget is not None).get(True)
    first = np.flatnonzero(np.diff(stream.steps, prepend=-1))  # groups that begin a step
    offsets = np.append(stream.offsets[first], stream.offsets[-1:])
    sizes = stream.sizes[stream.entries[stream.offsets[:-1]]] * np.diff(stream.offsets)  # a layer's are equal
    needed = np.add.reduceat(sizes, first) if sizes.size else np.zeros(0, np.int64)
    counts = np.zeros((3, needed.size), np.int64)
    counts[_kinds(stream.kinds, offsets), np.arange(needed.size)] = 1
    return needed, np.full(needed.size, limit.in_all), counts


def _kinds(kinds: npt.NDArray[np.uint8], offsets: Longs) -> npt.NDArray[np.uint8]:
    """What each group counts as; groups are not empty."""
    return np.maximum.reduceat(kinds, offsets[:-1]) if kinds.size else kinds


def _summary(needed: Longs, room: Longs, counts: Longs) -> dict[str, Any]:
    there = counts > 0
    needed, room, counts = needed[there], room[there], counts[there]
    groups, above = int(counts.sum()), int(counts[needed > room].sum())
    found: dict[str, Any] = {"groups": groups, "mean": None, "p95": None}
    if groups and room.all():
        ratio = needed / room
        ranked = np.argsort(ratio)
        reached = np.cumsum(counts[ranked])
        found["mean"] = float((ratio * counts).sum() / groups)
        found["p95"] = float(ratio[ranked[np.searchsorted(reached * 100, 95 * groups)]])
    return {**found, "above_one": above, "share_above_one": rate(above, groups)}


def token_cycle(caches: Caches, limit: Limit, statistics: Sequence[LayerStatistics]) -> dict[str, Any]:
    """What one decode token touches, beside the limit, in bytes where they are known and limited, else in experts.

    At one token per step an entry's reuse under LRU in one cache of all layers costs the bytes of all other layers'
    groups plus its place in its own: below `lru_hits_nothing_below` no decode lookup hits there (`floods`). Larger
    steps cost more. None where that is not certain: where a step, of whatever phase, needs less than a token's experts
    at some layer, where the cache starts with experts, and in sequential order where a step has several tokens.
    """
    trace, per_layer = caches.trace, caches.settings.per_layer
    model = trace.model
    in_bytes = model.expert_bytes is not None and (per_layer or limit.budget is not None)
    sizes = model.expert_bytes if in_bytes and model.expert_bytes is not None else (1,) * trace.moe_layers
    cycle = sum(k * size for k, size in zip(model.top_k, sizes, strict=True))
    certain = _floods_for_certain(caches, statistics)
    below = cycle - max((k - 1) * size for k, size in zip(model.top_k, sizes, strict=True))
    held = limit.in_all
    if per_layer and limit.budget is None:
        held = sum(min(held, most) * size for most, size in zip(model.experts, sizes, strict=True))
    return {
        "unit": "bytes" if in_bytes else "experts",
        "token_cycle": cycle,
        "limit": held,
        "limit_over_token_cycle": rate(held, cycle),
        "lru_hits_nothing_below": below if certain else None,
        "floods": held < below if certain else None,
    }


def _floods_for_certain(caches: Caches, statistics: Sequence[LayerStatistics]) -> bool:
    """Whether between two uses of an entry, at least a token's experts are used at each other layer."""
    if caches.preload.everywhere.size or not (caches.settings.order == "set" or caches.tokens.one_per_step):
        return False
    return all(_whole_in_every_step(caches, one.index) for one in statistics if one.null_decisions or one.dropped_slots)


def _whole_in_every_step(caches: Caches, index: int) -> bool:
    """Whether some token of each step has all its slots at a layer."""
    decisions, tokens = caches.trace.decisions(index), caches.tokens
    whole: npt.NDArray[np.bool_] = np.ones(caches.trace.tokens, np.bool_)
    if decisions.valid is not None:
        whole = np.logical_and.reduce(decisions.valid, axis=1)
    if decisions.routed is not None:
        whole = whole & decisions.routed
    if tokens.rows is not None:
        whole = whole[tokens.rows]
    return not tokens.n_steps or bool(np.logical_or.reduceat(whole, tokens.starts[:-1]).all())


def working_sets(trace: Trace, statistics: Sequence[LayerStatistics]) -> list[dict[str, Any]]:
    """Distinct experts of windows of successive decode tokens of one request: per layer on average, and bytes of all
    layers (the sum of the layers' averages); None where no request is that long."""
    found = []
    for at, first in enumerate(statistics[0].working_sets):
        sets = [layer.working_sets[at] for layer in statistics]
        windows, distinct = sum(one.windows for one in sets), sum(one.distinct for one in sets)
        size = None
        if trace.model.expert_bytes is not None and windows:
            size = sum((one.mean_experts or 0) * b for one, b in zip(sets, trace.model.expert_bytes, strict=True))
        found.append(
            {"window": first.window, "windows": windows, "mean_experts": rate(distinct, windows), "mean_bytes": size}
        )
    return found


def experts_needed(caches: Caches, policies: Sequence[Policy]) -> list[dict[str, Any]]:
    """For each policy and target, the fewest experts per layer at which that share of decode lookups hits.

    Every layer has a cache of its own and the same number. None where not even all experts reach it, because too many
    lookups are first uses. `bytes`: what they take in all layers; `most`: the hit rate that no capacity exceeds.
    """
    whole = [policy for policy in policies if isinstance(policy, StackPolicy) or not policy.inclusive]
    found = dict(zip(whole, _decode_hits(caches, whole), strict=True))
    guess = next(iter(found.values()), None)
    found |= {policy: _searched(caches, policy, guess) for policy in policies if policy not in found}
    return [
        {
            "policy": policy.label,
            "decode_lookups": lookups,
            "most": rate(int(hits.max()), lookups),
            "targets": [_target(caches.trace, percent, lookups, hits) for percent in TARGETS],
        }
        for policy, (lookups, hits) in ((policy, found[policy]) for policy in policies)
    ]


def _decode_hits(caches: Caches, policies: Sequence[Policy], wanted: Longs | None = None) -> list[tuple[int, Longs]]:
    """Decode lookups of each policy, and how many of them hit at 0 to all experts, or at those wanted, int64."""
    capacities = np.arange(max(caches.trace.model.experts) + 1) if wanted is None else wanted
    lookups, hits = np.zeros(len(policies), np.int64), np.zeros((len(policies), capacities.size), np.int64)
    for index, done in enumerate(layer_curves(caches, policies, wanted) if policies else ()):
        own = np.minimum(capacities, caches.trace.model.experts[index]) if wanted is None else slice(None)
        for number, (of_kind, curve) in enumerate(done):
            lookups[number] += of_kind[DECODE_LOOKUP]
            hits[number] += curve[DECODE_LOOKUP, own]
    return [*zip(lookups.tolist(), hits, strict=True)]


NEAR = 3  # experts by which the answer of one policy may be off for another: a guess that only takes time


def _searched(caches: Caches, policy: Policy, guess: tuple[int, Longs] | None) -> tuple[int, Longs]:
    """As `_decode_hits` of one policy for which more experts never hit less, from few numbers of experts: between
    those that were tried, hits are those at the lower one, and where a target is reached both neighbours were."""
    largest = max(caches.trace.model.experts)
    known, wanted, lookups = {0: 0}, {largest}, 0
    if guess is not None:
        at = [np.searchsorted(guess[1] * 100, percent * guess[0]) for percent in TARGETS]
        wanted |= {min(max(one + off, 1), largest) for one in map(int, at) for off in (-NEAR, 0)}
    while wanted:
        some = np.array(sorted(wanted), np.int64)
        lookups, hits = _decode_hits(caches, [policy], some)[0]
        known |= zip(some.tolist(), hits.tolist(), strict=True)
        wanted = set()
        for percent in TARGETS:
            reached = [experts for experts in known if known[experts] * 100 >= percent * lookups]
            above = min(reached, default=0)
            below = max((experts for experts in known if experts < above), default=above)
            wanted |= {(above + below) // 2} if above - below > 1 else set()
    some = np.array(sorted(known))
    places = np.searchsorted(some, np.arange(largest + 1), side="right") - 1
    return lookups, np.array([known[experts] for experts in some.tolist()])[places]


def _target(trace: Trace, percent: int, lookups: int, hits: Longs) -> dict[str, Any]:
    share = percent / 100
    reached = np.flatnonzero(hits * 100 >= percent * lookups)
    if not lookups or not reached.size:
        return {"decode_hit_rate": share, "experts_per_layer": None, "bytes": None}
    experts, sizes = int(reached[0]), trace.model.expert_bytes
    size = (
        None
        if sizes is None
        else sum(min(experts, most) * b for most, b in zip(trace.model.experts, sizes, strict=True))
    )
    return {"decode_hit_rate": share, "experts_per_layer": experts, "bytes": size}


USUAL = "lru"  # of policies that miss equally little, the one that engines have


def verdict(
    trace: TraceLike,
    cache: int | None = None,
    budget: int | str | None = None,
    policy: str | Sequence[str] | None = None,
    scope: str = "layer",
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
    device: str | os.PathLike[str] | Device | None = None,
    model: str | os.PathLike[str] | SizedModel | None = None,
    quant: str | None = None,
    overlap: str | None = None,
    lanes: int | None = None,
    context: int | None = None,
    compute_ms: float | None = None,
    misses_from: str | None = None,
    host: Any = None,
    storage: Any = None,
    engine: Any = None,
    cpu_share: Any = None,
    cpu_moe_layers: Any = None,
    gpu_moe_layers: Any = None,
    measured_tpot: float | str | None = None,
) -> Verdict:
    """Say whether a cache of this size fits, or misses because of its policy or because of the working set.

    policy: the online policies to choose the best from, such as the one that you measured; without it all that are
    registered and usable under these settings. device: what it runs on, which adds times and what changes would buy.
    The other arguments, also those that go with a device, are those of `replay`. For the rule see
    `remoe_sim.studies.verdict`; the answer repeats it with its thresholds.

    Raises ValueError and TraceError like `replay`, and ValueError for a policy that knows the future.
    """
    settings = Settings(scope=scope, admission=admission, order=order, reset=reset, phase=phase, warmup=warmup)
    limit = Limit.of(cache, budget, memory)
    timing: dict[str, Any] = {
        "device": device, "model": model, "quant": quant, "overlap": overlap, "lanes": lanes, "context": context,
        "compute_ms": compute_ms, "misses_from": misses_from, "host": host, "storage": storage, "engine": engine,
        "cpu_share": cpu_share, "cpu_moe_layers": cpu_moe_layers, "gpu_moe_layers": gpu_moe_layers,
        "measured_tpot": measured_tpot,
    }  # fmt: skip
    candidates, left_out = _candidates(policy, settings, train is not None)
    call = Call.of(
        trace,
        settings=settings,
        policies=tuple(candidates.values()),
        limit=limit,
        reserve=reserve,
        on=runs_on(timing),
        expert_bytes=expert_bytes,
        preload=preload,
        train=train,
    )
    timed_call, call = call, replace(call, on=None, model=None)
    trace, caches, limit = call.trace, call.caches, call.limit or limit
    *found, belady = results_of(call.also(find_policies([*candidates, OPTIMUM])))
    bounds = {admission: belady}
    for other in ALLOWED["admission"]:
        if other != admission:
            (bounds[other],) = results_of(call.also(find_policies(OPTIMUM), admission=other))
    online = sorted(found, key=lambda result: (result.misses, result.policy != USUAL, result.policy))
    statistics = tuple(layer_statistics(trace))
    by_label = {one.label: one for one in (*candidates.values(), *find_policies(OPTIMUM))}
    shown = [by_label[name] for name in dict.fromkeys((online[0].policy, USUAL, OPTIMUM)) if name in by_label]
    on_it = None
    if timed_call.on is not None:
        from remoe_sim.studies.what_if import on_device

        on_it = on_device(timed_call, by_label[online[0].policy])
    return Verdict(
        trace=describe(trace),
        settings=settings.to_dict(),
        capacity=limit.to_dict(settings.per_layer),
        online=tuple(online),
        bounds={name: bounds[name] for name in ALLOWED["admission"]},
        least_misses=_least_misses(call, belady),
        left_out=left_out,
        regime=regime(caches, limit),
        token_cycle=token_cycle(caches, limit, statistics),
        working_set=working_sets(trace, statistics),
        experts_needed=experts_needed(caches, shown),
        statistics=statistics,
        on_device=on_it,
    )  # fmt: skip


def _candidates(
    given: str | Sequence[str] | None, settings: Settings, trained: bool
) -> tuple[dict[str, Policy], dict[str, str]]:
    """The online policies to choose from, by the words that name them, and why each other registered one is none.

    Raises ValueError for a policy that is given and cannot be one.
    """
    if given is not None:
        texts = [text.strip() for text in given.split(",")] if isinstance(given, str) else list(given)
        policies = policies_for(texts, settings, trained=trained)
        for policy in policies:
            if not policy.online:
                raise ValueError(
                    f"policy '{policy.label}' knows the future and cannot be the best online policy; leave it out, "
                    f"{OPTIMUM} is compared with anyway"
                )
        return dict(zip(texts, policies, strict=True)), {}
    from remoe_sim.util.plugins import plugins

    found, left_out = {}, {}
    for policy in find_policies(list(plugins("remoe_sim.policies", Policy))):
        if not policy.online:
            left_out[policy.label] = "knows the future"
        elif settings.admission not in policy.admissions:
            left_out[policy.label] = f"does not exist under admission {settings.admission}"
        elif policy.needs_training and not trained:
            left_out[policy.label] = "needs another trace to learn from (--train)"
        else:
            found[policy.label] = policy
    return found, left_out


def _least_misses(call: Call, belady: ReplayResult) -> int | None:
    """Misses below which no rule comes: Belady's where it is the optimum; with unequal sizes those of the optimum that
    may bypass, if every expert took as little as the smallest. None where lookups are left out of the count."""
    if belady.optimal:
        return belady.misses
    sizes, limit = call.trace.model.expert_bytes, call.limit
    if call.settings.warmup or limit is None or limit.budget is None or sizes is None:
        return None
    relaxed = call.also(find_policies(OPTIMUM), admission="bypass", limit=Limit(limit.budget // min(sizes)))
    return results_of(relaxed)[0].misses
