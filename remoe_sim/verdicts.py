"""Is a low hit rate the policy's fault or the working set's? The best online policy beside the offline optimum.

The rule, at one limit, with the misses of the best online policy (the fewest in all counted lookups):

* cold misses are first uses since the cache was last empty; no cache avoids them. The others are capacity misses.
* `fits`: capacity misses are at most 1 % of the lookups. More memory or a better policy changes next to nothing.
* `policy`: Belady at the same limit, scope and admission avoids at least half of the capacity misses.
* `working set`: it avoids less than half; most capacity misses remain even for a rule that knows the future.

Belady is the optimum where all entries take the same of the limit. Elsewhere (a cache of all layers in bytes, experts
of different sizes) it is only a rule that can be followed, so that `policy` still holds, but `working set` is proven
only if a true bound says so: the optimum if every expert took no more than the smallest one does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from remoe_sim.caches import Caches
from remoe_sim.engine import describe, replay
from remoe_sim.metrics import layer_statistics
from remoe_sim.policy import Policy
from remoe_sim.preload import Preload
from remoe_sim.regimes import experts_needed, regime, token_cycle, working_sets
from remoe_sim.results import ReplayResult
from remoe_sim.settings import ALLOWED, OPTIMUM, Limit, Settings, check_policies, find_policies, known_sizes
from remoe_sim.streams import select_tokens
from remoe_sim.trace import Trace
from remoe_sim.trace_reader import read_trace
from remoe_sim.verdict_report import Verdict

USUAL = "lru"  # of policies that miss equally little, the one that engines have


def verdict(
    trace: Trace | str | os.PathLike[str],
    cache: int | None = None,
    budget: int | str | None = None,
    policy: str | Sequence[str] | None = None,
    scope: str = "layer",
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
) -> Verdict:
    """Say whether a cache of this size fits, or misses because of its policy or because of the working set.

    policy: the online policies to choose the best from, such as the one that you measured; without it all that are
    registered and usable under these settings. The other arguments are those of `replay`. For the rule see
    `remoe_sim.verdicts`; the answer repeats it with its thresholds.

    Raises ValueError and TraceError like `replay`, and ValueError for a policy that knows the future.
    """
    settings = Settings(scope, admission, order, reset, phase, warmup)
    limit = Limit.of(cache, budget, memory)
    candidates, left_out = _candidates(policy, settings, train is not None)
    trace = trace if isinstance(trace, Trace) else read_trace(trace)
    trace = known_sizes(trace, expert_bytes, "" if limit.budget is None else "a byte budget")
    limit = limit.without_reserve(trace, reserve)
    caches = Caches(
        trace, settings, select_tokens(trace, phase, reset, settings.warmup), Preload.of(trace, preload),
        training=Preload.of(trace, train),
    )  # fmt: skip
    same: dict[str, Any] = {
        "scope": scope, "order": order, "reset": reset, "phase": phase, "warmup": settings.warmup,
        "preload": preload, "train": train,
    }  # fmt: skip
    at: dict[str, Any] = {"cache": limit.experts, "budget": limit.budget}
    *found, belady = replay(trace, **at, **same, admission=admission, policy=[*candidates, OPTIMUM])
    bounds = {admission: belady}
    for other in ALLOWED["admission"]:
        if other != admission:
            bounds[other] = replay(trace, **at, **same, admission=other, policy=OPTIMUM)[OPTIMUM]
    online = sorted(found, key=lambda result: (result.misses, result.policy != USUAL, result.policy))
    statistics = list(layer_statistics(trace))
    by_label = {one.label: one for one in (*candidates.values(), *find_policies(OPTIMUM))}
    shown = [by_label[name] for name in dict.fromkeys((online[0].policy, USUAL, OPTIMUM)) if name in by_label]
    return Verdict(
        trace=describe(trace),
        settings=asdict(settings),
        capacity=limit.to_dict(settings.per_layer),
        online=tuple(online),
        bounds={name: bounds[name] for name in ALLOWED["admission"]},
        least_misses=_least_misses(trace, limit, belady, same),
        left_out=left_out,
        regime=regime(caches, limit),
        token_cycle=token_cycle(caches, limit, statistics),
        working_set=working_sets(trace, statistics),
        experts_needed=experts_needed(caches, shown),
    )  # fmt: skip


def _candidates(
    given: str | Sequence[str] | None, settings: Settings, trained: bool
) -> tuple[dict[str, Policy], dict[str, str]]:
    """The online policies to choose from, by the words that name them, and why each other registered one is none.

    Raises ValueError for a policy that is given and cannot be one.
    """
    if given is not None:
        texts = [text.strip() for text in given.split(",")] if isinstance(given, str) else list(given)
        policies = find_policies(texts)
        check_policies(policies, settings, trained)
        for policy in policies:
            if not policy.online:
                raise ValueError(
                    f"policy '{policy.label}' knows the future and cannot be the best online policy; leave it out, "
                    f"{OPTIMUM} is compared with anyway"
                )
        return dict(zip(texts, policies, strict=True)), {}
    from remoe_sim.registry import plugins

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


def _least_misses(trace: Trace, limit: Limit, belady: ReplayResult, same: dict[str, Any]) -> int | None:
    """Misses below which no rule comes: Belady's where it is the optimum; with unequal sizes those of the optimum that
    may bypass, if every expert took as little as the smallest. None where lookups are left out of the count."""
    if belady.optimal:
        return belady.misses
    sizes = trace.model.expert_bytes
    if same["warmup"] or limit.budget is None or sizes is None:
        return None
    relaxed: dict[str, Any] = {"cache": limit.budget // min(sizes), "admission": "bypass", "policy": OPTIMUM}
    return replay(trace, **same, **relaxed)[OPTIMUM].misses
