"""Time per token at every limit of a cache, or at as many limits as it takes to answer.

Where the timeline of all limits is cheap, all are looked at. Elsewhere GRID limits at equal distances are, and what
lies between two of them is bisected for a target and divided again around the knee. With more of a cache that has an
order of experts nothing is missed that was not, so no time rises; with other policies a smaller cache may do, and
`PlanReport.tried` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from remoe_sim.costs import Costs
from remoe_sim.holdings import of_timeline
from remoe_sim.plan_memory import Beside, Room
from remoe_sim.plan_misses import Misses
from remoe_sim.threads import map_layers
from remoe_sim.timelines import PARTS, Reads, Steps, run
from remoe_sim.timing import DeviceRun

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
            "workspace_bytes": self.workspace_bytes, "tpot_ms": self.tpot_ms, "parts_ms": self.parts_ms,
            "tokens_per_second": self.tokens_per_second,
        }  # fmt: skip


class PlanCurve:
    """Points of one policy on one device, made when they are asked for by the number of their limit."""

    def __init__(self, on: DeviceRun, costs: Costs, steps: Steps, misses: Misses, room: Room, beside: Beside) -> None:
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
        return Point(
            {"experts_per_layer" if self._room.per_layer else "bytes": limit},
            self._room.cache(limit), self._room.workspace(limit), self.memory(number),
            tpot or {}, parts or dict.fromkeys(PARTS, 0.0), rate or 0.0,
        )  # fmt: skip
