"""Replay at one limit: checks once, takes the accesses of each cache, lets every policy keep what it keeps, counts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from remoe_sim.caches import Caches
from remoe_sim.holdings import of_outcomes, of_replay
from remoe_sim.kernels import tallies
from remoe_sim.kernels.tallies import DECODE, PREFILL
from remoe_sim.metrics import adjacent_reuse
from remoe_sim.outcomes import Residents
from remoe_sim.part_replay import in_parts, replay_parts
from remoe_sim.pinning import NONE, Entries, Pins, most_held, room_beside, starting_bytes, with_pinned, without
from remoe_sim.policy import Outcome, Policy, Rules
from remoe_sim.preload import Preload
from remoe_sim.progress import layers_stage, stage
from remoe_sim.results import PhaseCounts, ReplayReport, ReplayResult
from remoe_sim.settings import DEFAULT_POLICIES, Limit, Settings, check_policies, find_policies, known_sizes
from remoe_sim.streams import Longs, Stream, StreamViews, select_tokens
from remoe_sim.threads import map_layers
from remoe_sim.trace import Trace
from remoe_sim.trace_format import known_hash
from remoe_sim.trace_reader import read_trace

if TYPE_CHECKING:
    from remoe_sim.device_cards import Device
    from remoe_sim.model_sizes import SizedModel
    from remoe_sim.timing import StepCounts

NO_TIMES = (None, None, None, "layer", None, None, None, None)  # replay's arguments from `device` on
LOOKUPS, HITS, COLD, BYTES = range(4)  # columns of a table of counts, one row per kind of lookup


def replay(
    trace: Trace | str | os.PathLike[str],
    cache: int | None = None,
    budget: int | str | None = None,
    policy: str | Sequence[str] = DEFAULT_POLICIES,
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
    pin: str | Mapping[int, Sequence[int]] | None = None,
    train: Trace | str | os.PathLike[str] | None = None,
    device: str | os.PathLike[str] | Device | None = None,
    model: str | os.PathLike[str] | SizedModel | None = None,
    quant: str | None = None,
    overlap: str = "layer",
    lanes: int | None = None,
    context: int | None = None,
    compute_ms: float | None = None,
    misses_from: str | None = None,
) -> ReplayReport:
    """Replay a trace through a cache and count.

    cache: experts per layer (scope `layer`) or in all (`global`); budget: bytes, a number or text such as "4000MiB",
    shared equally by the layers under scope `layer`; memory: the bytes of a device, of which `reserve` (sizes, or
    "dense" for the trace's dense layers) is not for the cache. policy: names, each replayed. warmup: decode tokens (of
    each request when reset) that are replayed but not counted. preload: a trace whose most used experts the cache
    starts with. expert_bytes: bytes of an expert, or one number per MoE layer, where the trace does not say. pin:
    experts that always stay, {layer: experts} or "3:17,3:20". train: a trace that policies such as `static` learn from.

    device: what it runs on, which adds times; model and quant: whose sizes, if the trace's name does not tell or others
    are wanted; overlap: `none`, `layer` or `prefetch` (all misses foreseen, one layer ahead); lanes, context,
    compute_ms, misses_from: as in `estimate`.

    Raises ValueError for arguments that are not possible, TraceError for a trace that is not.
    """
    settings = Settings(scope, admission, order, reset, phase, warmup)
    policies = find_policies(policy)
    check_policies(policies, settings, train is not None)
    limit = Limit.of(cache, budget, memory)
    on, counts = None, None
    if (asked := (device, model, quant, overlap, lanes, context, compute_ms, misses_from)) != NO_TIMES:
        from remoe_sim.timing import DeviceRun, StepCounts  # which take a while to import

        on = DeviceRun.asked(*asked)
    trace = trace if isinstance(trace, Trace) else read_trace(trace)
    trace = known_sizes(trace, expert_bytes, "" if limit.budget is None or on is not None else "a byte budget")
    if on is not None:
        if order != "set":
            raise ValueError("times are those of whole steps; use --order set with a device")
        trace, sized = on.sized(trace)
    limit = limit.without_reserve(trace, reserve)
    caches = Caches(
        trace, settings, select_tokens(trace, phase, reset, settings.warmup), Preload.of(trace, preload),
        Pins.of(trace, pin), Preload.of(trace, train),
    )  # fmt: skip
    if on is not None:
        counts = StepCounts(trace, caches.tokens, len(policies))
    reads = reads_of(caches, policies)
    with layers_stage("replaying", trace, reads) if settings.per_layer else stage("replaying"):
        tallied = (_replay_layers if settings.per_layer else _replay_global)(caches, limit, policies, counts)
    with layers_stage("measuring reuse", trace):
        results = _results(caches, limit, policies, tallied)
    if on is not None and counts is not None:
        timed = on.timed(trace, sized, caches.tokens, counts)
        results = tuple(replace(result, timed=one) for result, one in zip(results, timed, strict=True))
    beside = {"warmup": settings.warmup, "preload": in_short(preload), "train": in_short(train), "pin": _pinned(pin)}
    return ReplayReport(describe(trace), results, beside)


def in_short(given: Trace | str | os.PathLike[str] | None) -> str | None:
    """Another trace as an answer names it: by its path, or its hash if it has none."""
    if isinstance(given, Trace):
        return given.path or known_hash(given)
    return None if given is None else str(given)


def _pinned(pin: str | Mapping[int, Sequence[int]] | None) -> str | dict[str, list[int]] | None:
    return {str(layer): [*map(int, some)] for layer, some in pin.items()} if isinstance(pin, Mapping) else pin or None


def reads_of(caches: Caches, policies: Sequence[Policy]) -> int:
    """How many times a replay reads each layer from its file: what looks ahead reads large ones twice."""
    return 2 if in_parts(caches, policies) and not all(policy.online for policy in policies) else 1


def describe(trace: Trace) -> dict[str, object]:
    """The `trace` part of every JSON answer."""
    experts, top_k = trace.model.experts, trace.model.top_k
    return {
        "path": trace.path or None,
        "model": trace.model.name,
        "moe_layers": trace.moe_layers,
        "experts": experts[0] if len(set(experts)) == 1 else list(experts),
        "top_k": top_k[0] if len(set(top_k)) == 1 else list(top_k),
        "tokens": trace.tokens,
        "requests": trace.requests,
        "trace_hash": known_hash(trace),
        "schedule": trace.origin.get("schedule"),
        "reroute": trace.origin.get("reroute"),
    }


@dataclass
class Tally:
    """Counts of one policy: int64[3, 4] per kind of lookup, evictions, and the most that was held at once."""

    table: Longs
    evictions: int = 0
    peak: int = 0


def check_outcome(stream: Stream, outcome: Outcome, limit: int) -> None:
    """Recompute on every run what must hold: at rest a cache is never above its limit.

    Raises RuntimeError, which is a defect of a policy or of this package, not of the input.
    """
    most = limit if stream.in_bytes else int(np.sort(stream.weights)[::-1][:limit].sum())  # `limit` of the largest
    if outcome.resting.size and int(outcome.resting.max()) > most:
        raise RuntimeError(f"residents take {outcome.resting.max()} where {most} are allowed; please report this")
    if outcome.evictions < 0:
        raise RuntimeError(f"{outcome.evictions} evictions; please report this")


def replay_stream(
    policy: Policy, stream: Stream, limit: int, rules: Rules, pinned: Entries = NONE
) -> tuple[Stream, Outcome, Tally]:
    """Replay one cache, check the outcome and count it; the stream comes back without lookups of pinned entries."""
    table = np.zeros((3, 4), np.int64)
    free, full = limit, stream
    if pinned.size:
        free = room_beside(stream, pinned, limit)
        stream, hits = without(stream, pinned)
        table[:, LOOKUPS] = table[:, HITS] = hits
    outcome = policy.replay(stream, free, rules)
    check_outcome(stream, outcome, free)
    tallies.tally(stream.entries, stream.kinds, outcome.hit, stream.first, stream.weights, table)
    peak = int(outcome.running.max(initial=0))
    if pinned.size:
        peak = most_held(full, stream, pinned, outcome, starting_bytes(stream, rules.preload, free))
        outcome = with_pinned(stream, pinned, outcome)
    return stream, outcome, Tally(table, int(outcome.evictions), peak)


def _replay_global(
    caches: Caches, limit: Limit, policies: list[Policy], counts: StepCounts | None = None
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
    caches: Caches, limit: Limit, policies: list[Policy], counts: StepCounts | None = None
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


def _results(caches: Caches, limit: Limit, policies: list[Policy], tallied: list[Tally]) -> tuple[ReplayResult, ...]:
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
            for kind in (PREFILL, DECODE)
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
                prefill=blocks[PREFILL],
                decode=blocks[DECODE],
                cold_misses=int(tally.table[[PREFILL, DECODE], COLD].sum()),
                evictions=tally.evictions,
                optimal=policy.optimal and equal and not settings.warmup,
                peak_resident_bytes=tally.peak if sized else None,
                reuse_rate=reused,
            )
        )
    belady = next((result.misses for result in results if result.policy == "belady"), None)
    return tuple(replace(result, belady_misses=belady) for result in results)
