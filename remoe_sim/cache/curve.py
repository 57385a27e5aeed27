"""`curve`: hits of a policy at every cache size, from one pass where the policy allows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.cache.caches import HITS, Caches, check_outcome, replay_stream
from remoe_sim.cache.call import Call
from remoe_sim.cache.holdings import of_lane, of_replay
from remoe_sim.cache.parts import hits_of_layers, in_parts, reads_of
from remoe_sim.cache.settings import DEFAULT_POLICIES, Settings, policies_for
from remoe_sim.kernels import lanes, tallies
from remoe_sim.kernels.keys import ranks_before
from remoe_sim.kernels.lanes import LANES
from remoe_sim.kernels.recency import ABSENT
from remoe_sim.policy.base import Policy
from remoe_sim.policy.outcome import Rules, hits_below
from remoe_sim.policy.slot import CompiledSlotPolicy
from remoe_sim.policy.stack import Ranks, StackPolicy, count, needed_bytes
from remoe_sim.trace.accesses import DECODE_LOOKUP, PREFILL_LOOKUP, Stream, Tokens
from remoe_sim.trace.holdings import of_part, of_shared
from remoe_sim.trace.reader import as_trace
from remoe_sim.trace.sources import PART_ROWS, layers_stage
from remoe_sim.trace.trace import TraceLike
from remoe_sim.util.progress import stage
from remoe_sim.util.threads import fewer, map_layers, most_threads
from remoe_sim.util.units import parse_bytes, parse_range

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.util.arrays import Longs

LEAST, MOST_EXPERTS = 4, 512  # layers for which it pays, and experts of each
MOST_LOOKUPS = 2**22  # of a layer: what is held for LANES layers is 512 MiB then


def in_lanes(caches: Caches, policies: Sequence[Policy]) -> bool:
    """Whether layers are replayed side by side: whole steps, each of one kind, by caches that start empty."""
    tokens, trace = caches.tokens, caches.trace
    lookups = tokens.kinds.size * max(trace.model.top_k)
    return (
        trace.moe_layers >= LEAST
        and max(trace.model.experts) <= MOST_EXPERTS
        and 0 < lookups <= MOST_LOOKUPS
        and caches.settings.order == "set"
        and not caches.preload.counts
        and any(isinstance(policy, StackPolicy) and policy.fast_path().ranked for policy in policies)
        and _step_kinds(tokens) is not None
    )


def batches(layers: int, most: int) -> list[list[int]]:
    """Layers that are replayed together: none with more than `most`, a task for every thread to the end, and the
    smaller ones last, so that threads end together."""
    parts, threads = -(-layers // most), most_threads()
    parts = min(layers, -(-parts // threads) * threads)
    return [part.tolist() for part in np.array_split(np.arange(layers), parts)]


def _step_kinds(tokens: Tokens) -> npt.NDArray[np.uint8] | None:
    """What the lookups of each step count as, None if those of one step count as different things."""
    if tokens.one_per_step:
        return tokens.kinds
    least = np.minimum.reduceat(tokens.kinds, tokens.starts[:-1])
    return least if (least == np.maximum.reduceat(tokens.kinds, tokens.starts[:-1])).all() else None


def lane_curves(policy: Policy, caches: Caches, streams: Sequence[Stream]) -> list[Longs] | None:
    """Of each layer, int64[3, E + 1]: hits of each kind of lookup at 0 to E experts; None if the policy has no ranks.

    streams: the accesses of at most LANES layers, groups in the order of steps.
    """
    kinds = _step_kinds(caches.tokens)
    before = np.empty((lanes.LANES, max(stream.entries.size for stream in streams)), np.uint32)
    ranks = np.empty_like(before)
    offsets = np.zeros((lanes.LANES, caches.tokens.n_steps + 1), np.int64)
    for lane, stream in enumerate(streams):
        own = policy.fast_path().ranks(stream) if isinstance(policy, StackPolicy) else None
        if own is None or kinds is None:
            return None
        _fill(stream, own, before[lane], ranks[lane], offsets[lane])
    depths = -(-max(stream.n_entries for stream in streams) // lanes.DEEP) * lanes.DEEP
    counts = np.zeros((3, depths * lanes.LANES), np.uint32)
    mandatory = caches.settings.mandatory
    lanes.lane_hits(offsets, before, ranks, kinds, caches.tokens.fresh, mandatory, depths, counts)
    by_depth = counts.reshape(3, depths, lanes.LANES).astype(np.int64)
    hits = np.concatenate([np.zeros_like(by_depth[:, :1]), np.cumsum(by_depth, axis=1)], axis=1)
    return [hits[:, : stream.n_entries + 1, lane] for lane, stream in enumerate(streams)]


def _fill(stream: Stream, own: Ranks, before: Ranks, ranks: Ranks, offsets: Longs) -> None:
    """One lane of each array."""
    size = stream.entries.size
    ranks[:size] = own
    last = np.empty(stream.n_entries, np.uint32)
    ranks_before(stream.offsets, stream.entries, stream.epochs, own, last, before[:size])
    if stream.steps.size == offsets.size - 1:
        offsets[:] = stream.offsets
    else:
        offsets[stream.steps + 1] = np.diff(stream.offsets)
        np.cumsum(offsets, out=offsets)


Limits = int | str | Sequence[int | str]  # one, several as text, or several
AT_ONCE = 2**20  # lookups that are put in order of limits in one go
DEFAULT_BUDGETS = 100  # how many equal steps a global curve has when no limits are given
COLUMNS = (
    "policy",
    "layer",
    "capacity",
    "lookups",
    "hits",
    "hit_rate",
    "decode_lookups",
    "decode_hits",
    "decode_hit_rate",
)


def curve(
    trace: TraceLike,
    policy: str | Sequence[str] = DEFAULT_POLICIES,
    cache: Limits | None = None,
    budget: Limits | None = None,
    scope: str = "layer",
    admission: str = "mandatory",
    order: str = "set",
    reset: str = "never",
    phase: str = "all",
    warmup: int = 0,
    preload: TraceLike | None = None,
    expert_bytes: int | str | Sequence[int] | None = None,
    train: TraceLike | None = None,
    admit_after: int = 1,
    inserts: int | None = None,
) -> pd.DataFrame:
    """Hits at every capacity, as a DataFrame.

    Columns: policy; layer (the model's layer number, or "all"); capacity; lookups, hits, hit_rate (of all counted
    lookups, None over nothing) and the same of decode lookups alone. Scope `layer`: capacity counts experts per layer,
    1 to E, or those in `cache` (numbers, or text such as "4:64:4"); the rows "all" give every layer that many. Scope
    `global`: capacity counts bytes if sizes are known (else experts): those in `budget` (or `cache`), by default 100
    equal steps; budget="all" gives 0 and every limit at which the hits change. `attrs["capacity_unit"]` names the unit,
    `attrs["optimal"]` the policies than which none misses less.

    One pass serves all capacities for stack policies (lru, lfu, belady); in scope `global` with unequal sizes for lru.
    admit_after, inserts: caps of admission as in `replay`, which take a pass per capacity.
    Raises ValueError and TraceError like `replay`.
    """
    settings = Settings(
        scope=scope, admission=admission, order=order, reset=reset, phase=phase, warmup=warmup,
        admit_after=admit_after, inserts=inserts,
    )  # fmt: skip
    policies = policies_for(policy, settings, trained=train is not None)
    trace = as_trace(trace)
    if settings.per_layer and budget is not None:
        raise ValueError("budget is a limit of scope global; give cache for a curve per layer, or scope='global'")
    if budget is not None and cache is not None:
        raise ValueError("both cache and budget given; a curve has one kind of limit")
    capacities = None if cache is None else [n for one in _several(cache, "cache") for n in parse_range(one, "cache")]
    call = Call.of(
        trace,
        settings=settings,
        policies=policies,
        expert_bytes=expert_bytes,
        needed_for="" if budget is None else "a byte budget",
        preload=preload,
        train=train,
    )
    caches = call.caches
    if settings.per_layer:
        with layers_stage("replaying", call.trace, reads_of(caches, policies)):
            return _frame(_layer_rows(caches, policies, capacities), "experts_per_layer", _optimal(caches, policies))
    in_bytes = capacities is None and call.trace.model.expert_bytes is not None
    with stage("replaying"):
        rows = _global_rows(caches, policies, in_bytes, budget if in_bytes else capacities)
    return _frame(rows, "bytes" if in_bytes else "experts", _optimal(caches, policies, in_bytes))


def _optimal(caches: Caches, policies: Sequence[Policy], in_bytes: bool = False) -> list[str]:
    """The policies than which none has fewer misses under these settings."""
    settings = caches.settings
    equal = not in_bytes or len(set(caches.trace.model.expert_bytes or ())) == 1
    bound = equal and not settings.warmup and not settings.capped
    return [policy.label for policy in policies if policy.optimal and bound]


def _several(given: Limits, what: str) -> list[int | str]:
    """The limits that the user gave as one, as text with commas, or as a sequence; ValueError if there are none."""
    if isinstance(given, str):
        return [*given.split(",")]
    limits: list[int | str] = list(given) if isinstance(given, Iterable) else [given]
    if not limits:
        raise ValueError(f"{what} names no limit; give at least one, or leave it out")
    return limits


def _frame(rows: list[dict[str, Any]], unit: str, optimal: list[str]) -> pd.DataFrame:
    import pandas as pd

    sizes = [
        row["capacity"].size for row in rows
    ]  # made before pandas sees it, to which every step costs a millisecond
    columns = {
        name: np.concatenate([row[name] for row in rows])
        if isinstance(rows[0][name], np.ndarray)
        else np.repeat(np.array([row[name] for row in rows], object if name in ("policy", "layer") else None), sizes)
        for name in rows[0]
    }
    for prefix in ("", "decode_"):
        lookups, hits = columns[f"{prefix}lookups"], columns[f"{prefix}hits"]
        columns[f"{prefix}hit_rate"] = np.where(lookups > 0, hits / np.maximum(lookups, 1), np.nan)
    frame = pd.DataFrame({name: columns[name] for name in COLUMNS})
    frame.attrs.update(capacity_unit=unit, optimal=optimal)
    return frame


def layer_curve(policy: Policy, stream: Stream, rules: Rules, wanted: Longs | None = None) -> Longs:
    """int64[3, capacities]: hits of each kind of lookup in one layer's cache, at 0 to E experts or at those `wanted`.

    More experts than there are change nothing for a stack policy; others may divide what they never fill.
    """
    one_pass = isinstance(policy, StackPolicy) and not _alone(policy, stream.n_entries, wanted)
    if isinstance(policy, StackPolicy) and one_pass and not rules.capped:
        return at_capacities(_hits_of(policy, [stream], [rules])[0], wanted)
    several, place = np.unique(np.arange(stream.n_entries + 1) if wanted is None else wanted, return_inverse=True)
    if rules.capped:
        tables = [replay_stream(policy, stream, capacity, rules)[2].table for capacity in several.tolist()]
        return np.stack([table[:, HITS] for table in tables], axis=1)[:, place]
    if isinstance(policy, CompiledSlotPolicy):
        return policy.hits_at(stream, several, rules)[:, place]
    hits = np.zeros((3, several.size), np.int64)
    for number, capacity in enumerate(several.tolist()):
        outcome = policy.replay(stream, capacity, rules)
        check_outcome(stream, outcome, capacity)
        tallies.count_hits(stream.kinds, outcome.hit, hits[:, number])
    return hits[:, place]


def at_capacities(hits: Longs, wanted: Longs | None) -> Longs:
    """Select the wanted capacities from a full curve."""
    return hits if wanted is None else hits[:, np.minimum(wanted, hits.shape[1] - 1)]


def _hits_of(policy: StackPolicy, streams: Sequence[Stream], rules: Sequence[Rules]) -> list[Longs]:
    tables = [np.zeros((3, stream.n_entries + 1), np.int64) for stream in streams]
    count(policy, streams, rules, tables)
    return [hits_below(table) for table in tables]


def _alone(policy: Policy, experts: int, wanted: Longs | None) -> bool:
    """Whether a pass at each wanted capacity is quicker than one for all capacities."""
    least = policy.fast_path().lone_from if isinstance(policy, StackPolicy) else None
    return least is not None and wanted is not None and wanted.size * least <= experts


def layer_curves(
    caches: Caches, policies: Sequence[Policy], wanted: Longs | None = None
) -> Iterator[list[tuple[Longs, Longs]]]:
    """Layer by layer, of each policy: lookups of each kind, int64[3]; and the hits of `layer_curve`."""
    abreast = max((policy.fast_path().abreast for policy in policies if isinstance(policy, StackPolicy)), default=1)
    split = in_parts(caches, policies)
    together = not split and in_lanes(caches, policies)
    each = of_part(caches.trace, PART_ROWS, 1) if split else of_lane(caches) if together else of_replay(caches)
    batch = batches(caches.trace.moe_layers, fewer(LANES if together else abreast, each))
    most = max(map(len, batch))

    def one_batch(number: int) -> list[list[tuple[Longs, Longs]]]:
        if not split:
            return _batch_curves(caches, policies, batch[number], together, wanted)
        found = hits_of_layers(caches, policies, batch[number])
        return [[(lookups, at_capacities(hits, wanted)) for lookups, hits in layer] for layer in found]

    for done in map_layers(one_batch, [len(layers) for layers in batch], most * each):
        yield from done


def _batch_curves(
    caches: Caches, policies: Sequence[Policy], layers: Sequence[int], together: bool, wanted: Longs | None
) -> list[list[tuple[Longs, Longs]]]:
    """`layer_curves` of some layers, by policies that are `ranked` at once if `together`."""
    views, tokens = [caches.layer_views(index) for index in layers], caches.tokens
    found: list[list[tuple[Longs, Longs]]] = [[] for _ in layers]
    for policy in policies:
        streams = [view.get(policy.by_last) for view in views]
        alone = caches.settings.capped or _alone(policy, max(stream.n_entries for stream in streams), wanted)
        curves = lane_curves(policy, caches, streams) if together and not alone else None
        rules = [caches.layer_rules(index) for index in layers]
        if curves is None and isinstance(policy, StackPolicy) and not alone:
            curves = _hits_of(policy, streams, rules)
        if curves is None:
            curves = [layer_curve(policy, *one, wanted) for one in zip(streams, rules, strict=True)]
        else:
            curves = [at_capacities(hits, wanted) for hits in curves]
        for number, (index, stream) in enumerate(zip(layers, streams, strict=True)):
            found[number].append((tokens.lookups(stream.kinds, caches.trace.model.top_k[index]), curves[number]))
    return found


def _layer_rows(caches: Caches, policies: list[Policy], cache: Sequence[int] | None) -> list[dict[str, Any]]:
    trace = caches.trace
    largest = max(trace.model.experts)
    capacities = np.array(sorted(set(range(1, largest + 1) if cache is None else cache)), np.int64)
    total = [[np.zeros(3, np.int64), np.zeros((3, capacities.size), np.int64)] for _ in policies]
    rows: list[list[dict[str, Any]]] = [[] for _ in policies]
    for index, done in enumerate(layer_curves(caches, policies, capacities)):
        experts = trace.model.experts[index]
        for number, (lookups, at) in enumerate(done):
            total[number][0] += lookups
            total[number][1] += at
            own = capacities <= experts if cache is None else np.ones(capacities.size, np.bool_)
            rows[number].append(
                _row(policies[number], trace.layer_numbers[index], capacities[own], lookups, at[:, own])
            )
    for number, policy in enumerate(policies):
        rows[number].append(_row(policy, "all", capacities, *total[number]))
    return [row for of_policy in rows for row in of_policy]


def _row(policy: Policy, layer: int | str, capacities: Longs, lookups: Longs, hits: Longs) -> dict[str, Any]:
    return {
        "policy": policy.label,
        "layer": layer,
        "capacity": capacities,
        "lookups": int(lookups[PREFILL_LOOKUP] + lookups[DECODE_LOOKUP]),
        "hits": hits[PREFILL_LOOKUP] + hits[DECODE_LOOKUP],
        "decode_lookups": int(lookups[DECODE_LOOKUP]),
        "decode_hits": hits[DECODE_LOOKUP],
    }


def _global_rows(caches: Caches, policies: list[Policy], in_bytes: bool, limits: Limits | None) -> list[dict[str, Any]]:
    views, rules = caches.global_views(in_bytes), caches.global_rules()
    rows = []
    for policy in policies:
        stream = views.get(policy.by_last)
        by_keys = isinstance(policy, StackPolicy) and not rules.capped
        needed = needed_bytes(policy, stream, rules) if by_keys else None  # type: ignore[arg-type]
        at = _limits(policy, stream, limits, needed)
        lookups = np.bincount(stream.kinds, minlength=3)
        hits = _hits_at(policy, stream, rules, at) if needed is None else _hits_below(stream, needed, at)
        rows.append(_row(policy, "all", at, lookups, hits))
    return rows


def _limits(policy: Policy, stream: Stream, limits: Limits | None, needed: Longs | None) -> Longs:
    if isinstance(limits, str) and limits == "all":
        if needed is None:
            raise ValueError(
                f"policy '{policy.label}' needs a pass per budget here; give budgets such as 1GiB,2GiB instead of all"
            )
        return np.unique(np.append(0, needed[needed < ABSENT]))
    if limits is not None:
        return np.array(sorted({parse_bytes(one) for one in _several(limits, "budget")}), np.int64)
    total = int(stream.sizes.sum())
    steps = min(DEFAULT_BUDGETS, total)
    return np.array([total * step // steps for step in range(1, steps + 1)], np.int64)


def _hits_below(stream: Stream, needed: Longs, limits: Longs) -> Longs:
    """int64[3, limits], which ascend: how many lookups of each kind need no more than each limit."""
    counts = np.zeros((3, limits.size + 1), np.int64)
    for at in range(0, needed.size, AT_ONCE):
        some = slice(at, at + AT_ONCE)
        first = np.searchsorted(limits, needed[some])  # the first limit that is large enough
        cells = stream.kinds[some] * np.int64(limits.size + 1) + first
        counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
    return np.cumsum(counts[:, :-1], axis=1)


def _hits_at(policy: Policy, stream: Stream, rules: Rules, limits: Longs) -> Longs:
    def one_limit(number: int) -> Longs:
        return replay_stream(policy, stream, int(limits[number]), rules)[2].table[:, HITS]

    return np.stack(list(map_layers(one_limit, limits.size, of_shared(stream))), axis=1)
