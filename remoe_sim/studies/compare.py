"""`compare`: whether two traces differ in reuse, hits and times, with confidence intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.cache.call import Call, sized
from remoe_sim.cache.counts import counted
from remoe_sim.cache.results import describe
from remoe_sim.cache.settings import Limit, Settings, policies_for
from remoe_sim.devices.run import RunsOn
from remoe_sim.studies.bootstrap import Differences, Ratios, differences
from remoe_sim.studies.compare_result import ComparedTrace, Comparison, Difference, adjusted
from remoe_sim.trace.holdings import of_decisions
from remoe_sim.trace.metrics import decode_order, previous_rows
from remoe_sim.trace.schedule import batch
from remoe_sim.trace.trace import DECODE, Trace, TraceLike
from remoe_sim.util.arrays import Longs, Reals
from remoe_sim.util.errors import TraceError, unknown
from remoe_sim.util.threads import map_layers
from remoe_sim.util.units import parse_count, parse_number, parse_range, several

if TYPE_CHECKING:
    from remoe_sim.devices.steps import Counts
    from remoe_sim.policy.base import Policy

ROWS_AT_ONCE = 1 << 16  # whose experts are compared with those of their predecessors in one go


@dataclass(frozen=True)
class Requests:
    """The requests of a trace that decode. ids: int64[n], ascending; of_row: int64[tokens], the place of each row's
    request among them, −1 for those of other requests."""

    trace: Trace
    ids: Longs
    of_row: Longs

    @classmethod
    def of(cls, trace: Trace) -> Requests:
        ids = np.unique(trace.request[trace.phase == DECODE]).astype(np.int64)
        place = np.searchsorted(ids, trace.request)
        inside = place < ids.size
        inside[inside] = ids[place[inside]] == trace.request[inside]
        return cls(trace, ids, np.where(inside, place, -1))

    def sums(self, rows: Longs, values: npt.NDArray[np.generic]) -> Reals:
        """float64[n]: values of rows, summed by request; rows are of requests that decode."""
        summed: Reals = np.bincount(self.of_row[rows], values.astype(np.float64), self.ids.size).astype(np.float64)
        return summed


def adjacent_sums(requests: Requests) -> tuple[Reals, Reals]:
    """shared, wanted: float64[layers, requests], |E_t ∩ E_{t-1}| and |E_t| summed as `remoe_sim.reuse` defines them."""
    trace = requests.trace
    previous = previous_rows(trace)
    rows = decode_order(trace)
    rows = rows[previous[rows] >= 0]

    def one_layer(index: int) -> tuple[Reals, Reals]:
        decisions = trace.decisions(index)
        routed = decisions.routed
        paired = rows if routed is None else rows[routed[rows] & routed[previous[rows]]]
        shared, wanted = np.zeros((2, requests.ids.size))
        for first in range(0, paired.size, ROWS_AT_ONCE):
            some = paired[first : first + ROWS_AT_ONCE]
            now, before = decisions.take(some), decisions.take(previous[some])
            same = now.experts[:, :, None] == before.experts[:, None, :]
            if now.valid is not None and before.valid is not None:
                same &= now.valid[:, :, None] & before.valid[:, None, :]
            shared += requests.sums(some, same.sum(axis=(1, 2)))
            k = now.experts.shape[1]
            wanted += requests.sums(some, np.full(some.size, k) if now.valid is None else now.valid.sum(axis=1))
        return shared, wanted

    layers = list(map_layers(one_layer, trace.moe_layers, of_decisions(trace)))
    return np.stack([shared for shared, _ in layers]), np.stack([wanted for _, wanted in layers])


@dataclass(frozen=True)
class StepSums:
    """Sums over the decode steps of each request, float64[requests]. tokens: decode tokens; lookups and misses:
    distinct experts; bytes: of the missed ones, None where sizes are unknown; seconds: of each token its step's, None
    without a device."""

    tokens: Reals
    lookups: Reals
    misses: Reals
    bytes: Reals | None
    seconds: Reals | None


def step_sums(
    requests: Requests, starts: Longs, needed: Counts, missed: Counts, sizes: tuple[int, ...] | None,
    seconds: Reals | None,
) -> StepSums:  # fmt: skip
    """Sums for steps of one request each. starts: int64[steps + 1], the first row of each; needed, missed:
    uint16[steps, layers]; sizes: bytes of an expert by layer; seconds: float64[steps]."""
    decode = np.add.reduceat((requests.trace.phase == DECODE).astype(np.int64), starts[:-1])
    steps = np.flatnonzero(decode)
    rows = starts[steps]
    lost = missed[steps].astype(np.int64)
    return StepSums(
        tokens=requests.sums(rows, decode[steps]),
        lookups=requests.sums(rows, needed[steps].sum(axis=1, dtype=np.int64)),
        misses=requests.sums(rows, lost.sum(axis=1)),
        bytes=None if sizes is None else requests.sums(rows, lost @ np.array(sizes, np.int64)),
        seconds=None if seconds is None else requests.sums(rows, seconds[steps] * decode[steps]),
    )


PAIRINGS = ("auto", "paired", "unpaired")


@dataclass(frozen=True)
class Pairs:
    """Places of the requests that take part, int64[n] of either side; paired: one by one the same. why: in words."""

    a: Longs
    b: Longs
    paired: bool
    why: str


def pairs_of(a: Requests, b: Requests, pairing: str) -> Pairs:
    """`auto` pairs traces that hold requests of the same numbers and prompts; `paired` those of the same numbers.

    Raises ValueError if there is nothing to pair.
    """
    if pairing not in PAIRINGS:
        raise unknown("pairing", pairing, PAIRINGS)
    everything = np.arange(a.ids.size), np.arange(b.ids.size)
    if pairing == "paired":
        common, in_a, in_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
        if not common.size:
            raise ValueError("no request number is in both traces, so nothing can be paired; use --pairing unpaired")
        return Pairs(in_a, in_b, True, "paired by their numbers, as asked for")
    if pairing == "unpaired":
        return Pairs(*everything, False, "unpaired, as asked for")
    if not np.array_equal(a.ids, b.ids):
        return Pairs(*everything, False, "unpaired: the traces hold different requests")
    if not _same_prompts(a, b):
        return Pairs(*everything, False, "unpaired: requests of the same number have different prompts")
    return Pairs(*everything, True, "paired: both traces hold the same requests")


def _same_prompts(a: Requests, b: Requests) -> bool:
    """Whether decoding begins at the same positions, after the same tokens as far as both traces know them."""
    if not np.array_equal(_first_positions(a), _first_positions(b)):
        return False
    mine, theirs = _prompt_tokens(a), _prompt_tokens(b)
    return mine is None or theirs is None or np.array_equal(mine, theirs)


def _first_positions(requests: Requests) -> Longs:
    trace = requests.trace
    rows = np.flatnonzero(trace.phase == DECODE)
    first = np.full(requests.ids.size, np.iinfo(np.int64).max)
    np.minimum.at(first, requests.of_row[rows], trace.position[rows])
    return first


def _prompt_tokens(requests: Requests) -> Longs | None:
    """int64[n, 3]: request, position and id of every prompt token; None where ids are not known."""
    trace = requests.trace
    if trace.token_id is None:
        return None
    rows = np.flatnonzero((trace.phase != DECODE) & (requests.of_row >= 0))
    rows = rows[np.lexsort((trace.position[rows], trace.request[rows]))]
    return np.stack([trace.request[rows], trace.position[rows], trace.token_id[rows]], axis=1).astype(np.int64)


ONE_BY_ONE = "requests that ran together are replayed one at a time, so that each stands for itself"


def compare(
    a: TraceLike,
    b: TraceLike,
    cache: Any = None,
    budget: Any = None,
    policy: Any = "lru",
    scope: str = "layer",
    admission: str = "mandatory",
    expert_bytes: Any = None,
    device: Any = None,
    model: Any = None,
    quant: str | None = None,
    overlap: str | None = None,
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
    policies = policies_for(policy, settings, trained=False)
    run = RunsOn.asked(device=device, model=model, quant=quant, overlap=overlap)
    alpha = 1 - parse_number(confidence, "confidence", 1)
    if not 0 < alpha < 1:
        raise ValueError(f"confidence '{confidence}' is not possible; give a number between 0 and 1, such as 0.95")
    many, chance = parse_count(resamples, "resamples", 100), parse_count(seed, "seed")
    limits = [Limit(count) for one in several(cache) for count in parse_range(one, "cache")]
    limits += [Limit.of(None, one) for one in several(budget)]
    asked: dict[str, Any] = {
        "settings": settings, "policies": policies, "on": run, "expert_bytes": expert_bytes,
        "needed_for": "" if budget is None else "a byte budget",
    }  # fmt: skip
    sides = [_Side.of(one, **asked) for one in (a, b)]
    if not limits:
        most = min(max(side.trace.model.experts) for side in sides)
        limits = [Limit(count) for count in dict.fromkeys((max(1, most // 4), max(1, most // 2)))]
    pairs = pairs_of(sides[0].requests, sides[1].requests, pairing)
    tables = [_table(side, limits) for side in sides]
    said: dict[str, Any] = {"scope": scope, "admission": admission, "reset": settings.reset, "device_run": None}
    if run is not None:
        model = sides[0].call.model
        names = {"device": run.device.name, "model": model.name, "quant": model.quant, "overlap": run.overlap}
        said["device_run"] = names
    return _comparison(sides, pairs, tables, alpha, many, chance, said)


@dataclass(frozen=True)
class _Side:
    """A trace as it is compared."""

    call: Call
    requests: Requests
    notes: tuple[str, ...]

    @property
    def trace(self) -> Trace:
        return self.call.trace

    @classmethod
    def of(
        cls, given: TraceLike, *, settings: Settings, policies: Sequence[Policy], on: RunsOn | None, expert_bytes: Any,
        needed_for: str,
    ) -> _Side:  # fmt: skip
        trace, model = sized(given, settings=settings, on=on, expert_bytes=expert_bytes, needed_for=needed_for)
        notes: tuple[str, ...] = ()
        if on is not None and model is not None:
            notes = (*on.device.unverified, *model.unverified, *model.unknown)
        try:
            call = Call.of(trace, settings=settings, policies=policies)
        except TraceError:
            call, notes = Call.of(batch(trace, 1), settings=settings, policies=policies), (*notes, ONE_BY_ONE)
        trace = call.trace
        requests = Requests.of(trace)
        if not requests.ids.size:
            raise trace.error("it has no decode token, and decode tokens are what is compared; record some")
        return cls(replace(call, on=on, model=model), requests, notes)


Fractions = dict[tuple[Any, ...], tuple[Reals, Reals]]  # what a ratio is: numerators and denominators by request


def _table(side: _Side, limits: list[Limit]) -> Fractions:
    """All ratios of one side, in the order in which they are shown; first the one that the verdict is on."""
    shared, wanted = adjacent_sums(side.requests)
    table: Fractions = {("reuse_rate", None, None): (shared.sum(axis=0), wanted.sum(axis=0))}
    for policy in side.call.policies:
        for limit, sums in _replays(side, policy, limits):
            about = policy.label, next(iter(limit.to_dict(side.call.settings.per_layer).items()))
            table["hit_rate", *about] = sums.lookups - sums.misses, sums.lookups
            table["misses_per_token", *about] = sums.misses, sums.tokens
            if sums.bytes is not None:
                table["bytes_read_per_token", *about] = sums.bytes, sums.tokens
            if sums.seconds is not None:
                table["tpot_ms", *about] = sums.seconds * 1e3, sums.tokens
    for number, one, of in zip(side.trace.layer_numbers, shared, wanted, strict=True):
        table["layer", number, None] = one, of
    return table


def _replays(side: _Side, policy: Policy, limits: list[Limit]) -> Iterator[tuple[Limit, StepSums]]:
    call, trace, tokens, settings = side.call, side.call.trace, side.call.tokens, side.call.settings
    for in_bytes in (False, True):
        some = [limit for limit in limits if (limit.budget is not None and not settings.per_layer) == in_bytes]
        at = [
            tuple(min(limit.for_layer(trace, index), e) for index, e in enumerate(trace.model.experts))
            if settings.per_layer
            else (limit.in_all,)
            for limit in some
        ]
        left = iter(some)
        for block in counted(call.caches, policy, at, in_bytes, timed=True) if some else ():
            assert block.counts is not None
            timed = None
            if call.on is not None and call.model is not None:
                timed = call.on.timed(trace, call.model, tokens, block.counts)
            for number, missed in enumerate(block.counts.missed):
                seconds = None if timed is None else timed[number].times.seconds
                sizes = trace.model.expert_bytes
                yield next(left), step_sums(side.requests, tokens.starts, block.counts.needed, missed, sizes, seconds)


def _comparison(
    sides: list[_Side], pairs: Pairs, tables: list[Fractions], alpha: float, resamples: int, seed: int,
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
        a=ComparedTrace(describe(sides[0].trace), pairs.a.size),
        b=ComparedTrace(describe(sides[1].trace), pairs.b.size),
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
