"""`replay`: at one limit, let every policy keep what it keeps in each cache, and count."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.cache.caches import BYTES, COLD, HITS, LOOKUPS, Caches, Tally, replay_stream
from remoe_sim.cache.call import Call
from remoe_sim.cache.holdings import of_outcomes, of_replay
from remoe_sim.cache.learning import DEFAULT_SHARE, FEWEST_TO_PART, division_of, parted, read_kept
from remoe_sim.cache.parts import in_parts, reads_of, replay_parts
from remoe_sim.cache.results import PhaseCounts, ReplayReport, ReplayResult, describe, in_short
from remoe_sim.cache.settings import DEFAULT_POLICIES, Limit, Settings, check_policies, policies_for
from remoe_sim.kernels import tallies
from remoe_sim.policy.outcome import Residents, Rules
from remoe_sim.trace.accesses import DECODE_LOOKUP, PREFILL_LOOKUP, StreamViews
from remoe_sim.trace.metrics import adjacent_reuse
from remoe_sim.trace.sources import layers_stage
from remoe_sim.trace.trace import Trace, TraceLike
from remoe_sim.util.progress import stage
from remoe_sim.util.threads import map_layers
from remoe_sim.util.units import parse_count, parse_number

if TYPE_CHECKING:
    from remoe_sim.devices.device import Device
    from remoe_sim.devices.run import RunsOn
    from remoe_sim.devices.step_counts import StepCounts
    from remoe_sim.models.sizes import SizedModel
    from remoe_sim.policy.base import Policy


def replay(
    trace: TraceLike,
    cache: int | None = None,
    budget: int | str | None = None,
    policy: str | Sequence[str] = DEFAULT_POLICIES,
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
    pin: str | Mapping[int, Sequence[int]] | None = None,
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
    residency: str | None = None,
    page_rule: str | None = None,
    page_memory: int | str | None = None,
    fault_threads: int | None = None,
    measured_tpot: float | str | None = None,
    admit_after: int = 1,
    inserts: int | None = None,
    train_share: float | str | None = None,
    train_seed: int | str = 0,
    division: Any = None,
) -> ReplayReport:
    """Replay a trace through a cache and count.

    cache: experts per layer (scope `layer`) or in all (`global`); budget: bytes, a number or text such as "4000MiB",
    shared equally by the layers under scope `layer`; memory: the bytes of a device, of which `reserve` (sizes, or
    "dense" for the trace's dense layers) is not for the cache. policy: names, each replayed. warmup: decode tokens (of
    each request when reset) that are replayed but not counted. preload: a trace whose most used experts the cache
    starts with. expert_bytes: bytes of an expert, or one number per MoE layer, where the trace does not say. pin:
    experts that always stay, {layer: experts} or "3:17,3:20"; also "3:all", "layers:0-7", and "hot:16" or
    "hot:25%" of each layer by uses in `train`. train: a trace that policies such as `static`, and hot pins, learn from.
    admit_after: the use of an expert, since the cache was emptied, from which on it may enter; inserts: how many may
    enter per layer and step (all if None); other misses are served without entering.

    train_share: the share of the requests (of the steps, where there is one request), drawn with train_seed, that
    policies and hot pins learn from; only the others are counted, and `held_out` has the counts on those that were
    learnt from. 0.5 where something learns, there is no `train`, and the trace has four requests or more. division: how
    many experts each layer holds in place of a limit, as "8,12,…", {layer: experts} or a file that `split` wrote.

    device: what it runs on, which adds times; model and quant: whose sizes, if the trace's name does not tell or others
    are wanted, also without a device; overlap: `none`, `layer` (if not given) or `prefetch` (all misses foreseen, one
    layer ahead); lanes, context, compute_ms, misses_from, host, storage, engine, cpu_share, cpu_moe_layers,
    gpu_moe_layers, measured_tpot: as in `estimate`. residency: `cached` (if not given), `resident` (all weights in
    memory) or `mapped`: what the cache does not hold (all with cache 0), and all else of the model, is read through the
    page cache, which has page_memory bytes (if not given, what the device has left); page_rule: `lru` (if not given) or
    `two-list`; fault_threads: of the engine that fault side by side (1).

    Raises ValueError for arguments that are not possible, TraceError for a trace that is not.
    """
    settings = Settings(
        scope=scope, admission=admission, order=order, reset=reset, phase=phase, warmup=warmup,
        admit_after=admit_after, inserts=inserts,
    )  # fmt: skip
    timing: dict[str, Any] = {
        "device": device, "model": model, "quant": quant, "overlap": overlap, "lanes": lanes, "context": context,
        "compute_ms": compute_ms, "misses_from": misses_from, "host": host, "storage": storage, "engine": engine,
        "cpu_share": cpu_share, "cpu_moe_layers": cpu_moe_layers, "gpu_moe_layers": gpu_moe_layers,
        "residency": residency, "page_rule": page_rule, "page_memory": page_memory, "fault_threads": fault_threads,
        "measured_tpot": measured_tpot,
    }  # fmt: skip
    trace, sizes_of = _sized(trace, timing, expert_bytes)
    policies, pin = policies_for(policy, settings, trained=True), read_pins(pin)
    learns = any(one.needs_training for one in policies) or (isinstance(pin, str) and "hot:" in pin)
    parts = _parts(trace, learns, train, train_share, train_seed)
    if parts is not None:
        train, trace = parts
    check_policies(policies, settings, trained=train is not None)
    asked: dict[str, Any] = {
        "settings": settings, "policies": policies, "reserve": reserve, "on": runs_on(timing),
        "expert_bytes": expert_bytes, "preload": preload, "pin": pin, "train": train,
        "limit": _limit(trace, settings, division, cache, budget, memory),
    }  # fmt: skip
    call = Call.of(trace, **asked)
    beside: dict[str, Any] = {
        "warmup": settings.warmup,
        "preload": in_short(preload),
        "train": None if parts is not None else in_short(train),
        "pin": _pinned(pin),
    }
    if settings.capped:
        beside |= {"admit_after": settings.admit_after, "inserts": settings.inserts}
    if call.limit is not None and call.limit.division is not None:
        beside["division"] = list(call.limit.division)
    if parts is not None:
        own = results_of(Call.of(parts[0], **{**asked, "on": None})) if learns else ()
        beside["held_out"] = {
            "train_share": parse_number(DEFAULT_SHARE if train_share is None else train_share, "train-share", 1),
            "train_seed": parse_count(train_seed, "train-seed"),
            "trained_requests": parts[0].requests,
            "judged_requests": parts[1].requests,
            "on_what_was_learnt_from": {
                one.policy: {"lookups": one.lookups, "misses": one.misses, "hit_rate": one.hit_rate} for one in own
            },
        }
    return ReplayReport(describe(call.trace), results_of(call), beside, sizes_of)


def _parts(
    trace: TraceLike, learns: bool, train: TraceLike | None, share: float | str | None, seed: int | str
) -> tuple[Trace, Trace] | None:
    """What is learnt from and what is judged, where a trace is to be parted."""
    if train is not None and share is not None:
        raise ValueError("both train and train-share given; learn from another trace or from a share of this one")
    if share is None and (train is not None or not learns):
        return None
    from remoe_sim.trace.reader import as_trace

    read = as_trace(trace)
    if share is None and read.requests < FEWEST_TO_PART:
        return None
    return parted(read, DEFAULT_SHARE if share is None else share, seed)


def _limit(trace: TraceLike, settings: Settings, division: Any, cache: Any, budget: Any, memory: Any) -> Limit:
    """The limit that was asked for, or that of a division."""
    if division is None:
        return Limit.of(cache, budget, memory)
    given = [name for name, one in (("cache", cache), ("budget", budget), ("memory", memory)) if one is not None]
    if given or not settings.per_layer:
        raise ValueError(
            f"a division with {given[0] if given else 'scope global'}; it says what each layer's cache holds, so give "
            "it alone and with scope layer"
        )
    from remoe_sim.trace.reader import as_trace

    return Limit(division=division_of(as_trace(trace), division))


def read_pins(pin: Any) -> Any:
    """Pins as given, or read from a file that ends in .toml."""
    return read_kept("pins", pin) if isinstance(pin, os.PathLike) or str(pin).endswith(".toml") else pin


def _sized(
    trace: TraceLike, timing: dict[str, Any], expert_bytes: int | str | Sequence[int] | None
) -> tuple[TraceLike, str | None]:
    """The trace with the sizes of a model, and of which, where one was given without a device; nothing is timed then,
    and what was given of it is taken out of `timing`."""
    given = {name for name, one in timing.items() if one is not None}
    if not given or not given <= {"model", "quant"} or expert_bytes is not None:
        return trace, None
    from remoe_sim.devices.run import with_model
    from remoe_sim.trace.reader import as_trace

    read = as_trace(trace)
    sized, model = with_model(read, timing.pop("model"), timing.pop("quant"))
    taken = "quant" in given or read.model.expert_bytes is None
    return sized, f"those of {model.name} in {model.quant}" if taken else "the trace says, which knows its own sizes"


def runs_on(timing: dict[str, Any]) -> RunsOn | None:
    """What a replay runs on; what models times is imported only if anything of it was given, for it takes a while."""
    if all(one is None for one in timing.values()):
        return None
    from remoe_sim.devices.run import RunsOn

    return RunsOn.asked(**timing)


def results_of(call: Call) -> tuple[ReplayResult, ...]:
    """Replay a call that has a limit: one result per policy."""
    caches, limit, policies, counts = call.caches, call.limit, call.policies, None
    assert limit is not None
    if call.on is not None:
        from remoe_sim.devices.step_counts import StepCounts

        counts = StepCounts(call.trace, call.tokens, len(policies), keep=call.on.residency == "mapped")
    per_layer = call.settings.per_layer
    tallied = tallied_by(call, limit, counts)
    with layers_stage("measuring reuse", call.trace):
        results = _results(caches, limit, policies, tallied)
    if call.on is not None and call.model is not None and counts is not None:
        timed = call.on.timed(call.trace, call.model, call.tokens, counts, _cache_bytes(call.trace, limit, per_layer))
        results = tuple(replace(result, timed=one) for result, one in zip(results, timed, strict=True))
    return results


def tallied_by(call: Call, limit: Limit, counts: StepCounts | None) -> list[Tally]:
    """Replay every policy of a call; `counts` then has what each step needs and misses."""
    caches, policies, per_layer = call.caches, call.policies, call.settings.per_layer
    with layers_stage("replaying", call.trace, reads_of(caches, policies)) if per_layer else stage("replaying"):
        return (_replay_layers if per_layer else _replay_global)(caches, limit, policies, counts)


def _cache_bytes(trace: Trace, limit: Limit, per_layer: bool) -> int:
    """What a cache of that limit takes at most."""
    sizes = trace.model.expert_bytes or (0,) * trace.moe_layers
    if limit.budget is not None:
        return limit.budget
    most = [limit.for_layer(trace, at) for at in range(trace.moe_layers)] if per_layer else trace.model.experts
    held = sum(min(a, b) * size for a, b, size in zip(most, trace.model.experts, sizes, strict=True))
    return held if per_layer else min(held, (limit.experts or 0) * max(sizes))


def _pinned(pin: str | Mapping[int, Sequence[int]] | None) -> str | dict[str, list[int]] | None:
    return {str(layer): [*map(int, some)] for layer, some in pin.items()} if isinstance(pin, Mapping) else pin or None


def _replay_global(
    caches: Caches, limit: Limit, policies: Sequence[Policy], counts: StepCounts | None = None
) -> list[Tally]:
    views, rules, pinned = caches.global_views(limit.budget is not None), caches.global_rules(), caches.pins.everywhere
    in_turn = sorted(
        range(len(policies)), key=lambda number: policies[number].by_last
    )  # one order of members at a time

    def one_policy(number: int) -> Tally:
        full = views.only(policies[number].by_last)
        stream, outcome, tally = replay_stream(policies[number], full, limit.in_all, rules, pinned)
        if counts is not None:
            counts.miss(number, stream, outcome.hit)
            if number == in_turn[0]:
                counts.need(full)
        return tally

    tallied = {number: one_policy(number) for number in in_turn}
    return [tallied[number] for number in range(len(policies))]


def _replay_layers(
    caches: Caches, limit: Limit, policies: Sequence[Policy], counts: StepCounts | None = None
) -> list[Tally]:
    trace, tokens = caches.trace, caches.tokens
    if counts is None and in_parts(caches, policies):
        limits = [limit.for_layer(trace, index) for index in range(trace.moe_layers)]
        return [Tally(*counted) for counted in replay_parts(caches, limits, policies)]

    with_peak = trace.model.expert_bytes is not None

    def one_policy(
        number: int, index: int, views: StreamViews, most: int, rules: Rules
    ) -> tuple[Residents | None, Tally]:
        policy, pinned = policies[number], caches.pins.of_layer(index)
        stream, outcome, tally = replay_stream(policy, views.get(policy.by_last), most, rules, pinned)
        if counts is not None:
            counts.miss(number, stream, outcome.hit, index)
        return (Residents.of(stream, outcome) if with_peak else None), tally

    def one_layer(index: int) -> tuple[list[tuple[Residents | None, Tally]], int]:
        most = limit.for_layer(trace, index)
        views, rules = caches.layer_views(index), caches.layer_rules(index)
        done = [one_policy(number, index, views, most, rules) for number in range(len(policies))]
        if counts is not None:
            counts.need(views.get(policies[0].by_last), index)
        return done, min(most, rules.preload.size + caches.pins.of_layer(index).size)

    totals = [Tally(np.zeros((3, 4), np.int64)) for _ in policies]
    held = [np.zeros((3, tokens.n_steps), np.int64) for _ in policies] if with_peak else []
    preloaded, kept = 0, of_outcomes(caches, len(policies)) if with_peak else 0
    for index, (done, initial) in enumerate(map_layers(one_layer, trace.moe_layers, of_replay(caches) + kept, kept)):
        for number, (one, tally) in enumerate(done):
            totals[number].table += tally.table
            totals[number].evictions += tally.evictions
            if one is not None:
                resting, running = one.resting * np.int64(one.weight), one.running * np.int64(one.weight)
                start = initial * one.weight
                tallies.peak_by_step(one.steps, resting, running, tokens.fresh, start, 0, *held[number])
        if trace.model.expert_bytes is not None:
            preloaded += initial * trace.model.expert_bytes[index]
    for total, (_, peak, after) in zip(totals, held, strict=False):
        before = np.append(preloaded, after)[:-1]
        before[tokens.fresh] = preloaded
        total.peak = int((before + peak).max(initial=0)) if total.table.any() else 0  # no group, nothing to measure
    return totals


def _results(
    caches: Caches, limit: Limit, policies: Sequence[Policy], tallied: list[Tally]
) -> tuple[ReplayResult, ...]:
    trace, tokens, settings = caches.trace, caches.tokens, caches.settings
    sized = trace.model.expert_bytes is not None
    equal = settings.per_layer or limit.budget is None or len(set(trace.model.expert_bytes or ())) == 1
    reused = adjacent_reuse(trace)
    results = []
    for policy, tally in zip(policies, tallied, strict=True):
        blocks = {
            kind: PhaseCounts(
                tokens=tokens.count(kind),
                lookups=int(tally.table[kind, LOOKUPS]),
                hits=int(tally.table[kind, HITS]),
                bytes_read=int(tally.table[kind, BYTES]) if sized else None,
            )
            for kind in (PREFILL_LOOKUP, DECODE_LOOKUP)
        }
        results.append(
            ReplayResult(
                policy=policy.label,
                scope=settings.scope,
                admission=settings.admission,
                order=settings.order,
                reset=settings.reset,
                phase=settings.phase,
                capacity=limit.to_dict(settings.per_layer),
                prefill=blocks[PREFILL_LOOKUP],
                decode=blocks[DECODE_LOOKUP],
                cold_misses=int(tally.table[[PREFILL_LOOKUP, DECODE_LOOKUP], COLD].sum()),
                evictions=tally.evictions,
                optimal=policy.optimal and equal and not settings.warmup and not settings.capped,
                peak_resident_bytes=tally.peak if sized else None,
                reuse_rate=reused,
            )
        )
    belady = next((result.misses for result in results if result.policy == "belady"), None)
    return tuple(replace(result, belady_misses=belady) for result in results)
