"""The curve behind `plan`: memory, misses and time at every cache size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.cache.counts import Accesses
from remoe_sim.cache.holdings import of_replay
from remoe_sim.devices.band import Band, band_around
from remoe_sim.devices.fits import kv_cache_bytes
from remoe_sim.devices.measured_tpot import scale_to
from remoe_sim.devices.run import RunsOn
from remoe_sim.devices.step_counts import StepCounts
from remoe_sim.devices.steps import Counts, Reads, Steps
from remoe_sim.devices.timeline import PARTS, run
from remoe_sim.trace.holdings import of_timeline
from remoe_sim.util.threads import map_layers

if TYPE_CHECKING:
    from remoe_sim.cache.caches import Caches
    from remoe_sim.cache.settings import Settings
    from remoe_sim.devices.costs import Costs
    from remoe_sim.models.sizes import SizedModel
    from remoe_sim.policy.base import Policy
    from remoe_sim.trace.trace import Trace
    from remoe_sim.util.arrays import Longs


@dataclass(frozen=True)
class Beside:
    """Bytes that are not for experts. weights: all that is no routed expert, output head or embedding; embedding: 0
    where it is the head; kv_cache: of the largest step, with the state of linear attention."""

    weights: int
    head: int
    embedding: int
    kv_cache: int

    @property
    def total(self) -> int:
        return self.weights + self.head + self.embedding + self.kv_cache

    @classmethod
    def of(cls, model: SizedModel, kv_tokens: int, requests: int) -> Beside:
        """kv_tokens: cached tokens in all of a step of so many requests; a sliding window bounds each request's."""
        embedding = 0 if model.tied_embeddings else model.embedding_bytes
        return cls(sum(model.resident_bytes), model.head_bytes, embedding, kv_cache_bytes(model, kv_tokens, requests))

    def to_dict(self) -> dict[str, int]:
        return {f"{name}_bytes": size for name, size in asdict(self).items()}


@dataclass(frozen=True)
class Room:
    """What caches take: expert_bytes, experts and the largest group of every MoE layer, int64[MoE layers] each."""

    per_layer: bool
    mandatory: bool
    expert_bytes: Longs
    experts: Longs
    largest: Longs

    @classmethod
    def of(cls, trace: Trace, settings: Settings, needed: Counts) -> Room:
        sizes = np.array(trace.model.expert_bytes, np.int64)
        largest = needed.max(axis=0, initial=0).astype(np.int64)
        return cls(settings.per_layer, settings.mandatory, sizes, np.array(trace.model.experts, np.int64), largest)

    def cache(self, limit: int) -> int:
        """Bytes of the cache: `limit` experts per layer, or itself."""
        return int((np.minimum(limit, self.experts) * self.expert_bytes).sum()) if self.per_layer else limit

    def workspace(self, limit: int) -> int:
        """Bytes of the largest group beside the cache: all of it under bypass, else what the cache cannot hold; never
        more than the experts that are not in the cache."""
        if self.per_layer:
            held = np.minimum(limit, self.experts)
            outside = np.minimum(self.largest, self.experts - held)
            beyond = np.maximum(self.largest - held, 0)
            return int(((beyond if self.mandatory else outside) * self.expert_bytes).max(initial=0))
        group = int((self.largest * self.expert_bytes).max(initial=0))
        rest = int((self.experts * self.expert_bytes).sum()) - limit
        return max(0, min(group - limit if self.mandatory else group, rest))


@dataclass(frozen=True)
class Misses:
    """What one policy misses of a trace, at every limit: experts per layer, or bytes in all under scope `global`."""

    caches: Caches
    policy: Policy
    accesses: tuple[Accesses, ...]

    @classmethod
    def of(cls, caches: Caches, policy: Policy) -> Misses:
        if not caches.settings.per_layer:
            return cls(caches, policy, (Accesses.of_all_layers(caches, policy, in_bytes=True),))
        layers = map_layers(
            lambda index: Accesses.of_layer(caches, policy, index), caches.trace.moe_layers, of_replay(caches)
        )
        return cls(caches, policy, tuple(layers))

    def needed(self) -> Counts:
        """uint16[steps, MoE layers]: distinct experts of every group."""
        counts = StepCounts(self.caches.trace, self.caches.tokens, 0)
        for one in self.accesses:
            counts.need(one.stream, one.layer)
        return counts.needed

    def at(self, limit: int) -> Counts:
        """uint16[steps, MoE layers]: those of them that are missing at a limit."""
        counts = StepCounts(self.caches.trace, self.caches.tokens, 1)
        for one in self.accesses:
            counts.miss(0, one.stream, one.hits(limit), one.layer)
        return counts.missed[0]

    @property
    def each(self) -> int:
        """Bytes that `at` takes meanwhile, for the largest cache."""
        return max(one.each for one in self.accesses)

    @property
    def ordered(self) -> bool:
        """Whether a larger cache never misses what a smaller one does not."""
        return all(one.needs is not None for one in self.accesses)

    @cached_property
    def limits(self) -> Sequence[int]:
        """Ascending, from 0 to all experts: every limit at which lookups begin to hit, or where only a replay tells,
        every limit that whole experts can fill: all multiples of what their sizes have in common."""
        model = self.caches.trace.model
        if self.caches.settings.per_layer:
            return range(max(model.experts) + 1)
        assert model.expert_bytes is not None
        total = sum(size * count for size, count in zip(model.expert_bytes, model.experts, strict=True))
        if not self.ordered:
            return range(0, total + 1, math.gcd(*model.expert_bytes))
        needs = np.unique(np.concatenate([one.needs for one in self.accesses if one.needs is not None]))
        limits: list[int] = np.unique(np.append(needs[needs < total], (0, total))).tolist()
        return limits


MOST_PAIRS = 50_000_000  # of step and MoE layer in the timelines of a curve: a few seconds
GRID = 33
FINER = 9  # limits between two neighbours of the knee, again and again


@dataclass(frozen=True)
class Point:
    """One limit: bytes of the cache, of the workspace and of everything, and the times there."""

    capacity: dict[str, int]
    cache_bytes: int
    workspace_bytes: int
    memory_bytes: int
    tpot_ms: dict[str, float]
    parts_ms: dict[str, float]
    tokens_per_second: float
    band: Band | None

    @property
    def mean(self) -> float:
        """The mean time per output token in ms."""
        return self.tpot_ms["mean"]

    @property
    def waits_ms(self) -> float:
        """What of it is waiting for storage and PCIe."""
        return self.parts_ms["storage_wait"] + self.parts_ms["pcie_wait"]

    def to_dict(self) -> dict[str, Any]:
        return {
            "capacity": self.capacity, "memory_bytes": self.memory_bytes, "cache_bytes": self.cache_bytes,
            "workspace_bytes": self.workspace_bytes,
            "tpot_ms": {**self.tpot_ms, "band": None if self.band is None else self.band.to_dict()},
            "parts_ms": self.parts_ms,
            "tokens_per_second": self.tokens_per_second,
        }  # fmt: skip


class PlanCurve:
    """Points of one policy on one device, made when they are asked for by the number of their limit."""

    def __init__(self, on: RunsOn, costs: Costs, steps: Steps, misses: Misses, room: Room, beside: Beside) -> None:
        self._on, self._costs, self._steps, self._misses = on, costs, steps, misses
        self._room, self._beside = room, beside
        self.limits = misses.limits
        self.last = len(self.limits) - 1
        self._points: dict[int, Point] = {}
        pairs = len(self.limits) * steps.needed.size
        self.complete = pairs <= MOST_PAIRS or len(self.limits) <= GRID
        self._look(range(self.last + 1) if self.complete else np.linspace(0, self.last, GRID).round().astype(int))

    def memory(self, number: int) -> int:
        """Bytes of everything at a limit."""
        limit = self.limits[number]
        return self._beside.total + self._room.cache(limit) + self._room.workspace(limit)

    def point(self, number: int) -> Point:
        self._look([number])
        return self._points[number]

    def within(self, memory: int) -> int | None:
        """The largest limit whose memory is at most that."""
        low, high = -1, self.last
        while low < high:  # memory never falls from limit to limit
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.memory(middle) <= memory else (low, middle - 1)
        return None if low < 0 else low

    def reaching(self, target_ms: float) -> int | None:
        """The smallest limit whose mean time per token is at most that."""
        for before, number in zip([None, *sorted(self._points)], sorted(self._points), strict=False):
            if self._points[number].mean <= target_ms:
                low = number if before is None else before + 1
                while low < number:
                    middle = (low + number) // 2
                    low, number = (low, middle) if self.point(middle).mean <= target_ms else (middle + 1, number)
                return number
        return None

    @cached_property
    def knee(self) -> int | None:
        """The limit that lies farthest below the chord of the curve of time over memory; None for a straight line."""
        while True:
            seen = sorted(self._points)
            memory = np.array([self.memory(number) for number in seen], np.float64)
            times = np.array([self._points[number].mean for number in seen])
            if memory[-1] <= memory[0]:
                return None
            below = times[0] + (times[-1] - times[0]) * (memory - memory[0]) / (memory[-1] - memory[0]) - times
            at = int(np.argmax(below))
            if below[at] <= 1e-9 * times[0]:
                return None
            near = {seen[max(at - 1, 0)], seen[at], seen[min(at + 1, len(seen) - 1)]}
            between = {n for a in near for n in np.linspace(seen[at], a, FINER).round().astype(int).tolist()}
            if between <= set(seen):
                return seen[at]
            self._look(sorted(between))

    def measured(self, milliseconds: float, memory: int) -> Costs:
        """The costs with which the largest cache that a memory holds takes a measured time."""
        number = self.within(memory)
        if number is None:
            raise ValueError(
                "no cache fits the memory, so none was measured there; give more with --memory, or leave out the "
                "measured TPOT"
            )
        reads = Reads.of(self._costs, self._misses.at(self.limits[number]), self._on.overlap)

        def tpot(costs: Costs) -> float:
            return (run(costs, self._steps, reads, self._on.overlap).tpot_ms or {"mean": 0.0})["mean"]

        return scale_to(milliseconds, self._costs, tpot).of(self._costs)

    @property
    def ordered(self) -> bool:
        """Whether no time rises with the limit, so that an answer between limits that were tried is certain."""
        return self._misses.ordered

    @property
    def points(self) -> tuple[Point, ...]:
        """All that were looked at, from the smallest limit."""
        return tuple(self._points[number] for number in sorted(self._points))

    def _look(self, numbers: Any) -> None:
        new = [int(number) for number in numbers if int(number) not in self._points]
        self._points.update(zip(new, map_layers(lambda i: self._timed(new[i]), len(new), self._each), strict=True))

    @property
    def _each(self) -> int:
        """Bytes that one point takes while it is made."""
        return of_timeline(*self._steps.needed.shape) + self._misses.each

    def _timed(self, number: int) -> Point:
        limit = self.limits[number]
        reads = Reads.of(self._costs, self._misses.at(limit), self._on.overlap)
        times = run(self._costs, self._steps, reads, self._on.overlap, self._on.compute_ms)
        tpot, parts, rate = times.tpot_ms, times.parts_ms, times.tokens_per_second
        on = self._on
        known = on.compute_ms or on.measured_ms
        band = None if tpot is None else band_around(tpot["mean"], on.device, self._costs, reads, known)
        return Point(
            {"experts_per_layer" if self._room.per_layer else "bytes": limit},
            self._room.cache(limit), self._room.workspace(limit), self.memory(number),
            tpot or {}, parts or dict.fromkeys(PARTS, 0.0), rate or 0.0, band,
        )  # fmt: skip
