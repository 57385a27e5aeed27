"""Does model B route differently from model A, or is it noise? `compare` answers with intervals over requests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from remoe_sim.bootstrapping import Differences, Ratios, differences
from remoe_sim.caches import Caches
from remoe_sim.comparison import Comparison, Difference, Subject, adjusted
from remoe_sim.engine import describe
from remoe_sim.errors import TraceError
from remoe_sim.model_sizes import SizedModel
from remoe_sim.policy import Policy
from remoe_sim.request_pairs import Pairs, pairs_of
from remoe_sim.request_sums import Reals, Requests, StepSums, adjacent_sums, step_sums
from remoe_sim.scheduling import batch
from remoe_sim.settings import Limit, Settings, check_policies, find_policies, known_sizes
from remoe_sim.streams import select_tokens
from remoe_sim.sweep_axes import several
from remoe_sim.sweep_counts import counted
from remoe_sim.timing import DeviceRun
from remoe_sim.trace import Trace
from remoe_sim.trace_reader import read_trace
from remoe_sim.units import parse_count, parse_number, parse_range

ONE_BY_ONE = "requests that ran together are replayed one at a time, so that each stands for itself"


def compare(
    a: Trace | str | os.PathLike[str],
    b: Trace | str | os.PathLike[str],
    cache: Any = None,
    budget: Any = None,
    policy: Any = "lru",
    scope: str = "layer",
    admission: str = "mandatory",
    expert_bytes: Any = None,
    device: Any = None,
    model: Any = None,
    quant: str | None = None,
    overlap: str = "layer",
    pairing: str = "auto",
    confidence: float | str = 0.95,
    resamples: int | str = 1999,
    seed: int | str = 0,
) -> Comparison:
    """Compare two traces: differences b − a, with intervals over requests.

    The verdict is on one number, pooled adjacent reuse: Σ shared / Σ wanted over all requests and layers (see `reuse`).
    Everything else is shown beside it, with intervals adjusted for how many they are (Holm): decode hit rate, misses
    and bytes per decode token at each limit, TPOT with a `device`, and reuse per layer where both have the same layers.
    Requests are what is drawn, so caches are emptied between them, and a trace whose requests ran together is replayed
    one request at a time.

    cache: experts per layer, one, several or text such as "8,16" (by default a quarter and half of the experts);
    budget: bytes, in the same ways; policy: names. pairing: `auto` (paired if both traces hold requests of the same
    numbers and prompts), `paired` (by number) or `unpaired`. confidence: of the intervals; resamples and seed: of what
    differences would be by chance; more where there are many comparisons.

    Raises ValueError for arguments that are not possible, TraceError for a trace that is not.
    """
    settings = Settings(scope=scope, admission=admission, reset="request")
    policies = find_policies(policy)
    check_policies(policies, settings, False)
    run = DeviceRun.asked(device, model, quant, overlap, None, None, None, None)
    alpha = 1 - parse_number(confidence, "confidence", 1)
    if not 0 < alpha < 1:
        raise ValueError(f"confidence '{confidence}' is not possible; give a number between 0 and 1, such as 0.95")
    many, chance = parse_count(resamples, "resamples", 100), parse_count(seed, "seed")
    limits = [Limit(count) for one in several(cache) for count in parse_range(one, "cache")]
    limits += [Limit.of(None, one) for one in several(budget)]
    sides = [_Side.of(one, expert_bytes, run, budget is not None) for one in (a, b)]
    if not limits:
        most = min(max(side.trace.model.experts) for side in sides)
        limits = [Limit(count) for count in dict.fromkeys((max(1, most // 4), max(1, most // 2)))]
    pairs = pairs_of(sides[0].requests, sides[1].requests, pairing)
    tables = [_table(side, settings, policies, limits, run) for side in sides]
    asked: dict[str, Any] = {"scope": scope, "admission": admission, "reset": settings.reset, "device_run": None}
    if run is not None:
        sized = sides[0].model
        names = {"device": run.device.name, "model": sized.name, "quant": sized.quant, "overlap": run.overlap}
        asked["device_run"] = names
    return _comparison(sides, pairs, tables, alpha, many, chance, asked)


@dataclass(frozen=True)
class _Side:
    """A trace as it is compared, with the sizes that are known."""

    trace: Trace
    requests: Requests
    model: Any
    notes: tuple[str, ...]

    @classmethod
    def of(cls, given: Trace | str | os.PathLike[str], expert_bytes: Any, run: DeviceRun | None, sized: bool) -> _Side:
        trace = given if isinstance(given, Trace) else read_trace(given)
        trace = known_sizes(trace, expert_bytes, "a byte budget" if sized and run is None else "")
        model: SizedModel | None = None
        notes: tuple[str, ...] = ()
        if run is not None:
            trace, model = run.sized(trace)
            notes = (*run.device.unverified, *model.unverified, *model.unknown)
        try:
            select_tokens(trace, reset="request")
        except TraceError:
            trace, notes = batch(trace, 1), (*notes, ONE_BY_ONE)
        requests = Requests.of(trace)
        if not requests.ids.size:
            raise trace.error("it has no decode token, and decode tokens are what is compared; record some")
        return cls(trace, requests, model, notes)


Table = dict[tuple[Any, ...], tuple[Reals, Reals]]  # what a ratio is: numerators and denominators by request


def _table(
    side: _Side, settings: Settings, policies: list[Policy], limits: list[Limit], run: DeviceRun | None
) -> Table:
    """All ratios of one side, in the order in which they are shown; first the one that the verdict is on."""
    shared, wanted = adjacent_sums(side.requests)
    table: Table = {("reuse_rate", None, None): (shared.sum(axis=0), wanted.sum(axis=0))}
    for policy in policies:
        for limit, sums in _replays(side, settings, policy, limits, run):
            about = policy.label, next(iter(limit.to_dict(settings.per_layer).items()))
            table["hit_rate", *about] = sums.lookups - sums.misses, sums.lookups
            table["misses_per_token", *about] = sums.misses, sums.tokens
            if sums.bytes is not None:
                table["bytes_read_per_token", *about] = sums.bytes, sums.tokens
            if sums.seconds is not None:
                table["tpot_ms", *about] = sums.seconds * 1e3, sums.tokens
    for number, one, of in zip(side.trace.layer_numbers, shared, wanted, strict=True):
        table["layer", number, None] = one, of
    return table


def _replays(
    side: _Side, settings: Settings, policy: Policy, limits: list[Limit], run: DeviceRun | None
) -> Iterator[tuple[Limit, StepSums]]:
    trace, tokens = side.trace, select_tokens(side.trace, reset="request")
    caches = Caches(trace, settings, tokens)
    for in_bytes in (False, True):
        some = [limit for limit in limits if (limit.budget is not None and not settings.per_layer) == in_bytes]
        at = [
            tuple(min(limit.for_layer(trace, index), e) for index, e in enumerate(trace.model.experts))
            if settings.per_layer
            else (limit.in_all,)
            for limit in some
        ]
        left = iter(some)
        for block in counted(caches, policy, at, in_bytes, timed=True) if some else ():
            assert block.counts is not None
            timed = None if run is None else run.timed(trace, side.model, tokens, block.counts)
            for number, missed in enumerate(block.counts.missed):
                seconds = None if timed is None else timed[number].times.seconds
                sizes = trace.model.expert_bytes
                yield next(left), step_sums(side.requests, tokens.starts, block.counts.needed, missed, sizes, seconds)


def _comparison(
    sides: list[_Side], pairs: Pairs, tables: list[Table], alpha: float, resamples: int, seed: int,
    settings: dict[str, Any],
) -> Comparison:  # fmt: skip
    same_layers = sides[0].trace.layer_numbers == sides[1].trace.layer_numbers
    names = [name for name in tables[0] if name in tables[1] and (name[0] != "layer" or same_layers)]
    a, b = (
        Ratios(*(np.stack([table[name][part][places] for name in names]) for part in (0, 1)))
        for table, places in zip(tables, (pairs.a, pairs.b), strict=True)
    )
    resamples = max(resamples, ceil(len(names) / alpha))  # so that the smallest level can be resolved
    found = differences(a, b, pairs.paired, resamples, seed)
    values, of = (a.values, b.values), (a.x.sum(axis=1), b.x.sum(axis=1))
    first = _difference(names[0], 0, values, of, found, alpha)
    others = [_difference(name, at, values, of, found, alpha) for at, name in enumerate(names[1:], 1)]
    notes = list(dict.fromkeys(note for side in sides for note in side.notes))
    experts = [tuple(sorted(set(side.trace.model.experts))) for side in sides]
    if experts[0] != experts[1]:
        notes.append("the traces have different numbers of experts, so a limit is another share of each")
    if not same_layers:
        notes.append("the traces have different MoE layers, so layers are not compared one by one")
    return Comparison(
        a=Subject(describe(sides[0].trace), pairs.a.size),
        b=Subject(describe(sides[1].trace), pairs.b.size),
        paired=pairs.paired,
        pairing=pairs.why,
        confidence=1 - alpha,
        resamples=resamples,
        seed=seed,
        verdict=first,
        others=adjusted(others, found, alpha),
        notes=tuple(notes),
        settings=settings,
    )


def _difference(
    name: tuple[Any, ...], at: int, values: tuple[Reals, Reals], of: tuple[Reals, Reals], found: Differences,
    alpha: float,
) -> Difference:  # fmt: skip
    kind, about, limit = name
    layer = kind == "layer"
    return Difference(
        metric="reuse_rate" if layer else kind,
        layer=int(about) if layer else None,
        policy=None if layer else about,
        capacity=None if limit is None else {limit[0]: limit[1]},
        a=None if np.isnan(values[0][at]) else float(values[0][at]),
        b=None if np.isnan(values[1][at]) else float(values[1][at]),
        standard_error=float(found.error[at]) if np.isfinite(found.error[at]) else None,
        interval=found.interval(at, alpha),
        confidence=1 - alpha,
        p_value=found.p_value(at),
        at=at,
        a_of=float(of[0][at]),
        b_of=float(of[1][at]),
    )
