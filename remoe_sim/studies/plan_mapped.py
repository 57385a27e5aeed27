"""The curve behind `plan --residency mapped`: time at every size of the page cache."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from remoe_sim.devices.mapped import beside_pages, page_faults
from remoe_sim.devices.run import RunsOn, Timed
from remoe_sim.devices.step_counts import StepCounts
from remoe_sim.devices.steps import Reads, Steps
from remoe_sim.devices.timeline import PARTS
from remoe_sim.studies.plan_curve import GRID, Beside, Misses, PlanCurve, Point

if TYPE_CHECKING:
    from remoe_sim.devices.costs import Costs
    from remoe_sim.models.sizes import SizedModel

SIZES = 1024  # of the page cache, from none to the whole file


class MappedCurve(PlanCurve):
    """Points of one page rule: all weights share the page cache, and the program has no cache of its own."""

    def __init__(
        self, on: RunsOn, costs: Costs, steps: Steps, misses: Misses, beside: Beside, model: SizedModel
    ) -> None:
        self._on, self._costs, self._steps, self._misses = on, costs, steps, misses
        self._beside, self._model = beside, model
        self._system = beside_pages(on.device, model, steps)
        counts = StepCounts(misses.caches.trace, misses.caches.tokens, 1, keep=True)
        for one in misses.accesses:
            counts.miss(0, one.stream, one.hits(0), one.layer)
        self._accesses = counts.accesses()[0]
        whole = sum(model.dense_bytes) + model.head_bytes + model.experts * sum(model.expert_bytes)
        size = -(-whole // SIZES)
        self.limits = range(0, size * SIZES + 1, size)
        self.last = SIZES
        self._points: dict[int, Point] = {}
        self._look(np.linspace(0, self.last, GRID).round().astype(int))

    def memory(self, number: int) -> int:
        """Bytes of everything: the pages, the system's part, KV cache and states."""
        return self._system + self.limits[number]

    @property
    def ordered(self) -> bool:
        return self._on.pages.rule == "lru"

    def _timed(self, number: int) -> Point:
        size, on = self.limits[number], self._on
        faults = page_faults(on.pages, on.device, self._model, size, *self._accesses)
        reads = Reads.of(self._costs, np.zeros_like(self._steps.needed))
        timed = Timed(on, self._model, self._costs, self._steps, reads, faults)
        times = timed.times
        return Point(
            {"page_bytes": size}, size, 0, self.memory(number), times.tpot_ms or {},
            times.parts_ms or dict.fromkeys(PARTS, 0.0), times.tokens_per_second or 0.0, timed.band,
        )  # fmt: skip


def without_weights(beside: Beside) -> Beside:
    """What is not in the pages."""
    return replace(beside, weights=0, head=0, embedding=0)
