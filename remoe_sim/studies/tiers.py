"""Device ← host ← storage: each tier with its own policy and limit, replayed one after the other.

A step's group is looked up in the device as in `replay`: hits are decided for the whole group at once, and what the
device then keeps depends on nothing below it. Its misses are the group that the same step looks up in the host, in the
same way; what is missing there is read from storage, into the host and on to the device. The relation says how:

* **inclusive**: a miss is loaded into the host and copied to the device. What the device holds after the group is
  pinned in the host, so its victims are chosen among the rest: device ⊆ host at rest. The host sees only the device's
  misses, so to its policy an expert that keeps hitting the device is last used when it was loaded.
* **exclusive**: what the host holds moves up on a hit and leaves the host; what is read from storage goes to the device
  alone; what leaves the device (in that order, and members of the group that it does not keep) comes down into the
  host, which admits it as a group of its own. Device and host hold nothing in common at rest, so the two limits add up.
  A stack policy of the host sees lookups and arrivals, both as uses; a slot policy sees arrivals, and what moves up it
  is asked for as its victim, with all others protected (one with a hand or ghosts takes that for an eviction).
* **independent**: a miss is loaded into the host and copied to the device, and each tier then evicts as it likes, as
  with an operating system's page cache below the engine's own cache.

Since the host is replayed after the device, a policy that knows the future (belady) is well-defined there too: it knows
what the device will miss. It is the optimum of its tier alone, given the device above it, and only if independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.cache.call import Call, sized
from remoe_sim.cache.results import describe
from remoe_sim.cache.settings import ALLOWED, Limit, Settings, check_policies, check_timed, find_policies
from remoe_sim.cache.tier import Course, Items, Memory, Passed, pass_tier
from remoe_sim.devices.run import RunsOn, Timed
from remoe_sim.devices.step_counts import StepCounts
from remoe_sim.devices.steps import Counts, Reads
from remoe_sim.policy.drive import check_drivable
from remoe_sim.studies.tiers_result import Tier, TierCounts, TierReport, TierResult
from remoe_sim.trace.accesses import DECODE_LOOKUP, PREFILL_LOOKUP, Stream, StreamViews
from remoe_sim.trace.reader import as_trace
from remoe_sim.trace.trace import Trace, TraceLike
from remoe_sim.util.errors import unknown
from remoe_sim.util.units import parse_bytes, parse_count, plural

if TYPE_CHECKING:
    from remoe_sim.cache.caches import Caches
    from remoe_sim.devices.device import Device
    from remoe_sim.models.sizes import SizedModel
    from remoe_sim.policy.base import Policy
    from remoe_sim.util.arrays import Flags, Longs

RELATIONS = ("inclusive", "exclusive", "independent")


def tiers(
    trace: TraceLike,
    device_cache: int | str | None = None,
    device_budget: int | str | None = None,
    host_cache: int | str | None = None,
    host_budget: int | str | None = None,
    device_policy: str | Sequence[str] = "lru",
    host_policy: str | Sequence[str] = "lru",
    relation: str | Sequence[str] = "inclusive",
    scope: str = "layer",
    host_scope: str = "global",
    admission: str = "mandatory",
    order: str = "set",
    reset: str = "never",
    phase: str = "all",
    warmup: int = 0,
    expert_bytes: int | str | Sequence[int] | None = None,
    device: str | Path | Device | None = None,
    model: str | Path | SizedModel | None = None,
    quant: str | None = None,
    overlap: str | None = None,
    lanes: int | None = None,
    context: int | None = None,
    compute_ms: float | None = None,
    host: Any = None,
    storage: Any = None,
    engine: Any = None,
) -> TierReport:
    """Replay a trace through a device cache above a host cache above storage, and count per tier and link.

    device_cache, host_cache: experts per layer (scope `layer`) or in all (`global`), or "all"; device_budget,
    host_budget: bytes instead; one of each pair must be given, 0 is a tier that holds nothing. relation: see
    `remoe_sim.studies.tiers`; under `inclusive` the host must hold at least what the device can. scope is the device's.
    admission, order, reset (of both tiers), phase, warmup and expert_bytes as in `replay`. device_policy, host_policy
    and relation may each be several, separated by commas: all combinations are replayed.

    Bytes of a link are the misses above it times their sizes; storage is read through host memory even if the host
    keeps nothing. `device_to_host_bytes` (exclusive) are those of entries that the device had, gave up, and the host
    kept; they count as decode when the group that pushed them out has a decode lookup.

    device, model, quant, overlap, lanes, context, compute_ms: as in `replay`, which adds times. What the host holds
    comes over the link from host memory, and first, while storage is read; the rest comes over both links, tensor by
    tensor as a pipeline. What the device gives back to the host costs no time.

    Raises ValueError for arguments that are not possible, TraceError for a trace that is not.
    """
    settings = Settings(scope=scope, admission=admission, order=order, reset=reset, phase=phase, warmup=warmup)
    below = replace(settings, scope=_host_scope(host_scope))
    relations = [one.strip() for one in relation.split(",")] if isinstance(relation, str) else list(relation)
    for one in relations:
        if one not in RELATIONS:
            raise unknown("relation", one, RELATIONS)
    if len(set(relations)) != len(relations) or not relations:
        raise ValueError(f"relation '{','.join(relations)}' names one twice or none; name each once")
    policies = find_policies(device_policy), find_policies(host_policy)
    for policy in (*policies[0], *policies[1]):
        check_drivable(policy, "a tier")
        check_policies([policy], settings, trained=False)
    trace = as_trace(trace)
    on = RunsOn.asked(
        device=device,
        model=model,
        quant=quant,
        overlap=overlap,
        lanes=lanes,
        context=context,
        compute_ms=compute_ms,
        host=host,
        storage=storage,
        engine=engine,
    )
    on = _timing(on, settings)
    needed_for = "" if device_budget is None and host_budget is None else "a byte budget"
    trace, model_there = sized(trace, settings=settings, on=on, expert_bytes=expert_bytes, needed_for=needed_for)
    limits = (
        _limit("device", device_cache, device_budget, trace, settings.per_layer),
        _limit("host", host_cache, host_budget, trace, below.per_layer),
    )
    memories = Memory.of(trace, settings, limits[0]), Memory.of(trace, below, limits[1])
    if "inclusive" in relations:
        _check_inclusion(*memories)
    run = _TierRun(Call.of(trace, settings=settings, policies=()).caches, memories)
    scopes = (settings.scope, below.scope)
    results = []
    for one, above, beneath in product(relations, *policies):
        evictions, counts, reads = run.result(one, above, beneath)
        device_tier, host_tier = (
            Tier(policy.label, scope, limit.to_dict(scope == "layer"), lost)
            for policy, scope, limit, lost in zip((above, beneath), scopes, limits, evictions, strict=True)
        )
        said = {name: value for name, value in settings.to_dict().items() if name != "scope"}
        timed = None if on is None or model_there is None else run.timed(on, model_there, *reads)
        results.append(
            TierResult(one, said, device_tier, host_tier, counts[PREFILL_LOOKUP], counts[DECODE_LOOKUP], timed)
        )
    return TierReport(describe(trace), tuple(results))


def _timing(on: RunsOn | None, settings: Settings) -> RunsOn | None:
    """How a device is run that has a host below it; ValueError if that cannot be timed."""
    if on is None:
        return None
    check_timed(settings)
    if on.overlap == "prefetch":
        raise ValueError("nothing is foreseen between tiers; give overlap none or layer")
    if on.device.host is None:
        raise ValueError(
            f"device '{on.device.name}' has no link from host memory in its card, so the host is no tier of its own; "
            "take one that has, or replay with one cache"
        )
    return replace(on, misses_from="storage")


def _host_scope(scope: str) -> str:
    if scope not in ALLOWED["scope"]:
        raise unknown("host scope", scope, ALLOWED["scope"])
    return scope


def _limit(tier: str, cache: int | str | None, budget: int | str | None, trace: Trace, per_layer: bool) -> Limit:
    """The limit of a tier, from the one of two arguments that was given."""
    if (cache is None) == (budget is None):
        raise ValueError(
            f"limit the {tier} by one of --{tier}-cache EXPERTS and --{tier}-budget BYTES; --{tier}-cache all holds "
            "everything"
        )
    if cache == "all":
        return Limit((max if per_layer else sum)(trace.model.experts))
    if cache is not None:
        return Limit(parse_count(cache, f"{tier} cache"))
    return Limit(None, parse_bytes(budget or 0))


def _check_inclusion(device: Memory, host: Memory) -> None:
    """ValueError unless each host cache can hold everything of its layers that the device can hold."""
    for first, past, limit in host.caches:
        most = 0
        for other_first, other_past, other_limit in device.caches:
            low, high = max(first, other_first), min(past, other_past)
            if low < high:
                most += _most_held(device.sizes[low:high], other_limit, device.in_bytes, host.sizes[low:high],
                                   host.in_bytes)  # fmt: skip
        if most > limit:
            room = plural(most, "byte" if host.in_bytes else "expert")
            raise ValueError(
                f"an inclusive host needs room for {room} that the device may hold of its layers, and has "
                f"{limit}; raise the host's limit or take --relation exclusive"
            )


def _most_held(sizes: Longs, limit: int, in_bytes: bool, others: Longs, others_in_bytes: bool) -> int:
    """The most that residents can take in the unit of `others` if they take at most `limit` in that of `sizes`."""
    if in_bytes == others_in_bytes:
        return min(limit, int(others.sum()))
    order = np.argsort(sizes if in_bytes else -others, kind="stable")  # the small ones, or the large ones, first
    fitting = int(np.searchsorted(np.cumsum(sizes[order]), limit, side="right"))
    return int(others[order[:fitting]].sum())


@dataclass
class _TierRun:
    """All that the combinations of one call have in common; the device is replayed once per policy."""

    caches: Caches
    memories: tuple[Memory, Memory]

    def __post_init__(self) -> None:
        self.trace, self.tokens = self.caches.trace, self.caches.tokens
        self.views: StreamViews = self.caches.global_views(False)
        stream = self.views.get(True)
        self.course = Course.of(stream)
        self._devices: dict[Policy, Passed] = {}

    def result(
        self, relation: str, above: Policy, below: Policy
    ) -> tuple[tuple[int, int], dict[int, TierCounts], tuple[Counts, Counts]]:
        """Evictions of the device and of the host, the counts of each phase, and what each step reads from storage and
        from the host at each MoE layer."""
        mandatory, stream = self.caches.settings.mandatory, self.views.get(above.by_last)
        if above not in self._devices:
            self._devices[above] = pass_tier(above, self.memories[0], self.course, Items.of_stream(stream), mandatory)
        device = self._devices[above]
        view = self.views.get(below.by_last)
        order = _same_members(stream, view)
        missed = ~device.hit[order]
        lookups = Items.of_stream(view).take(np.flatnonzero(missed))
        exclusive = relation == "exclusive"
        host = pass_tier(
            below, self.memories[1], self.course, lookups, mandatory,
            coming=device.gone if exclusive else None,
            above=(device.gone, device.kept[order][missed]) if relation == "inclusive" else None,
        )  # fmt: skip
        down = np.flatnonzero(device.had & host.kept) if exclusive else np.zeros(0, np.int64)
        counts = self._counts(stream, device.hit, lookups, host.hit, device.gone.take(down))
        reads = self._by_step(lookups, ~host.hit), self._by_step(lookups, host.hit)
        return (int(np.count_nonzero(device.had)), int(np.count_nonzero(host.had))), counts, reads

    def _by_step(self, items: Items, which: Flags) -> Counts:
        """uint16[steps, MoE layers]: some of the items, by where they are wanted."""
        layers = self.trace.moe_layers
        column = np.searchsorted(self.course.layer_starts, items.entries[which], side="right") - 1
        place = self.course.steps[items.groups[which]] * np.int64(layers) + column
        counts = np.bincount(place, minlength=self.tokens.n_steps * layers)
        return counts.reshape(self.tokens.n_steps, layers).astype(np.uint16)

    def timed(self, on: RunsOn, model: SizedModel, far: Counts, near: Counts) -> Timed:
        """The times of reading those from storage and from the host."""
        counts = StepCounts(self.trace, self.tokens, 0)
        counts.need(self.views.get(True))
        none = np.zeros_like(far)
        return Timed(
            on,
            model,
            on.costs(self.trace, model),
            on.steps(self.trace, self.tokens, counts.needed),
            Reads(far, near, none, none),
        )

    def _counts(
        self, stream: Stream, hit: Flags, lookups: Items, host_hit: Flags, down: Items
    ) -> dict[int, TierCounts]:
        sized = self.trace.model.expert_bytes is not None
        everything = Items.of_stream(stream)

        def moved(items: Items, which: npt.NDArray[np.bool_]) -> int | None:
            return int(self.course.weights[items.entries[which]].sum()) if sized else None

        counts = {}
        for kind in (PREFILL_LOOKUP, DECODE_LOOKUP):
            mine, below, lower = (items.kinds == kind for items in (everything, lookups, down))
            counts[kind] = TierCounts(
                tokens=self.tokens.count(kind),
                device_lookups=int(np.count_nonzero(mine)),
                device_hits=int(np.count_nonzero(mine & hit)),
                host_hits=int(np.count_nonzero(below & host_hit)),
                storage_to_host_bytes=moved(lookups, below & ~host_hit),
                host_to_device_bytes=moved(lookups, below),
                device_to_host_bytes=moved(down, lower),
            )
        return counts


def _same_members(stream: Stream, other: Stream) -> Longs:
    """int64[N]: where in `stream` each lookup of `other` is; both have the same groups, in an order of their own."""
    if stream is other:
        return np.arange(stream.entries.size)
    groups = np.repeat(np.arange(stream.steps.size), np.diff(stream.offsets))
    places = np.empty(groups.size, np.int64)
    places[np.lexsort((other.entries, groups))] = np.lexsort((stream.entries, groups))
    return places
