"""What changes of machine, cache, policy or routing would buy one replay, in time per token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.cache.replay import results_of
from remoe_sim.cache.settings import OPTIMUM, Limit, find_policies
from remoe_sim.devices.hybrid import AUTO, Hybrid
from remoe_sim.devices.measured_tpot import Scale
from remoe_sim.devices.run import RunsOn, Timed
from remoe_sim.devices.steps import Counts, Reads
from remoe_sim.devices.timeline import compute_factor
from remoe_sim.devices.what_if import FORESEEN, Change, can_prefetch, can_share, faster, parts_in_use, step_down
from remoe_sim.trace.metrics import adjacent_reuse
from remoe_sim.util.units import format_bytes, plural

if TYPE_CHECKING:
    from remoe_sim.cache.call import Call
    from remoe_sim.devices.fits import Fit
    from remoe_sim.policy.base import Policy
    from remoe_sim.util.arrays import Longs

LARGER = 1.5  # times the cache
MORE_REUSE = 0.26  # of adjacent reuse, as fine-tuning with ReMoE reached


@dataclass(frozen=True)
class OnDevice:
    """Times of the best online policy on a device, and what each change would buy."""

    timed: Timed
    changes: tuple[Change, ...]
    fit: Fit | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        band = self.timed.band
        return {
            "tpot_ms": {**(self.timed.times.tpot_ms or {}), "band": None if band is None else band.to_dict()},
            "parts_ms": self.timed.times.parts_ms,
            **self.timed.to_dict(),
            **({} if self.fit is None else self.fit.to_dict()),
            "what_if": [one.to_dict() for one in self.changes],
        }


def on_device(call: Call, best: Policy) -> OnDevice | None:
    """Times of a call that names a device and has a limit, with the best policy; None without decode tokens."""
    result = results_of(call.also([best]))[0]
    base = result.timed
    assert base is not None
    if base.times.tpot_ms is None:
        return None
    return OnDevice(base, tuple(_changes(call, best, base)), result.fit)


def _timed(call: Call) -> Timed:
    timed = results_of(call)[0].timed
    assert timed is not None
    return timed


def _changes(call: Call, best: Policy, base: Timed) -> Iterator[Change]:
    on, scale, trace, missed = base.run, base.scale, call.trace, _missed(base)
    if on.compute_ms is not None:
        scale = Scale(0.0, compute_factor(base.costs, base.steps, base.reads, on.overlap, on.compute_ms))
    side_by_side = base.mean_ms * (base.times.tokens_per_second or 0.0) / 1e3  # tokens
    free = replace(on, compute_ms=None, measured_ms=None)

    def change(
        name: str, note: str | None = None, run: RunsOn = free, missed: Counts = missed, own: Any = (trace, base.model)
    ) -> Change:
        costs = run.costs(*own)
        costs = costs if scale is None else scale.silent(costs)
        timed = replace(base, run=run, costs=costs, reads=Reads.of(costs, missed, run.overlap))
        return Change.of(name, base.mean_ms, timed.mean_ms, side_by_side, note)

    if missed.any():
        for part in parts_in_use(base.costs):
            yield change(f"{part} twice as fast", run=replace(free, device=faster(on.device, part)))
        limit = _larger(call)
        if limit is not None:
            more = _timed(replace(call.also([best], limit=limit), on=free))
            yield change(f"cache {LARGER:g} times as large", _words(limit, call), missed=_missed(more))
        belady = _timed(replace(call.also(find_policies(OPTIMUM)), on=free))
        yield change("best policy", "belady, which knows the future: a bound", missed=_missed(belady))
        if can_prefetch(base.costs, on.overlap):
            yield change("perfect prefetch", FORESEEN, replace(free, overlap="prefetch", hybrid=_shared(on, None)))
        if can_share(on.device, base.costs, on.overlap):
            place = None if on.misses_from == "cpu" else on.misses_from
            yield change("CPU share auto", run=replace(free, misses_from=place, hybrid=_shared(on, AUTO)))
    smaller = step_down(base.model.quant)
    if smaller is not None:
        with suppress(ValueError):  # sizes of a file or of one's own have no other quantisation
            run = replace(free, quant=smaller)
            own = run.sized(trace)
            other = replace(call.also([best]), caches=replace(call.caches, trace=own[0]), on=run, model=own[1])
            held = "the cache has as many experts" if call.limit is None or call.limit.budget is None else None
            note = held or "the cache has as many bytes, and so more experts"
            yield change(f"quantisation {smaller}", note, run, _missed(_timed(other)), own)
    reuse = adjacent_reuse(trace)
    if reuse and missed.any():
        points = min(reuse * (1 + MORE_REUSE), 1.0) - reuse
        yield change(
            f"reuse +{100 * MORE_REUSE:.0f} %",
            f"{100 * points:.1f} points more of the lookups of decode hit: what a cache of one token's experts gains "
            "from so much more adjacent reuse, taken to be the same at this size",
            missed=fewer(missed, base.steps.needed, base.steps.decode, points),
        )


def _missed(timed: Timed) -> Counts:
    missed: Counts = timed.reads.far + timed.reads.near + timed.reads.early
    return missed


def _shared(on: RunsOn, share: str | None) -> Hybrid:
    return replace(on.hybrid, cpu_share=share)


def _larger(call: Call) -> Limit | None:
    """The larger cache; None where all experts are held already."""
    limit, sizes = call.limit, call.trace.model.expert_bytes or ()
    assert limit is not None
    experts = call.trace.model.experts
    if limit.budget is not None:
        whole = sum(size * count for size, count in zip(sizes, experts, strict=True))
        return Limit(budget=int(limit.budget * LARGER)) if limit.budget < whole else None
    held = limit.experts or 0
    most = max(experts) if call.settings.per_layer else sum(experts)
    return Limit(max(int(held * LARGER), held + 1)) if held < most else None


def _words(limit: Limit, call: Call) -> str:
    unit, held = next(iter(limit.to_dict(call.settings.per_layer).items()))
    if unit == "bytes":
        return format_bytes(held)
    return plural(held, "expert") + (" per layer" if call.settings.per_layer else "")


def fewer(missed: Counts, needed: Counts, decode: Longs, points: float) -> Counts:
    """Misses, uint16[steps, MoE layers], so many of which are gone in steps that decode that the hit rate there rises
    by that share of the lookups, at most to 1. They go evenly: what is left is the same share of any run of steps."""
    rows = decode > 0
    some = missed[rows].astype(np.int64)
    before, gone = int(some.sum()), points * float(needed[rows].sum(dtype=np.int64))
    if not before:
        return missed
    kept = np.floor(np.cumsum(some.ravel()) * max(1 - gone / before, 0.0) + 0.5)
    left = missed.copy()
    left[rows] = np.diff(kept, prepend=0.0).reshape(some.shape).astype(np.uint16)
    return left
