"""A plan in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remoe_sim.units import format_bytes, plural

if TYPE_CHECKING:
    from remoe_sim.plan_curves import Point
    from remoe_sim.plan_results import PlanReport, PlanResult

GIB = 2**30


def gib(size: float) -> str:
    """A size with two decimals: `9.87 GiB`; a small one in a smaller unit."""
    return f"{size / GIB:,.2f} GiB" if size >= GIB / 10 else format_bytes(size)


def cache_in_words(point: Point, experts: int) -> str:
    """What the cache of a point holds."""
    unit, limit = next(iter(point.capacity.items()))
    if not limit:
        return "no cache"
    if unit == "bytes":
        return f"a cache of {gib(limit)}"
    return "all experts" if limit >= experts else f"{limit} of {experts} experts per layer"


def sentence(result: PlanResult) -> str:
    """The answer for one policy on one device."""
    return f"{_who(result)} {_what(result)}."


def _who(result: PlanResult) -> str:
    model = f"{result.model.title} {result.model.quant}".strip()
    return f"{model} on {result.device.title} with {result.policy}"


def _what(result: PlanResult) -> str:
    experts, there = result.model.experts, result.memory_bytes
    if result.memory is None:
        least = gib(result.no_cache.memory_bytes)
        return f"does not fit: {least} are needed without any cache, and there are {gib(there)}"
    best = result.memory
    at_best = f"{best.mean:,.2f} ms with {cache_in_words(best, experts)} in {gib(best.memory_bytes)}"
    if result.target_ms is None:
        knee = result.knee
        bend = "" if knee is None else f"; the knee of its curve is at {gib(knee.memory_bytes)} and {knee.mean:,.2f} ms"
        held = f"{cache_in_words(best, experts)}, {gib(best.memory_bytes)} of {gib(there)}"
        return f"takes {best.mean:,.2f} ms per token with {held}{bend}"
    wanted = f"{result.target_ms:,g} ms per token"
    point = result.target
    if point is None:
        return f"does not reach {wanted} with any cache: {_why(result)}; {gib(there)} give {at_best}"
    what = f"{cache_in_words(point, experts)}, {point.mean:,.2f} ms"
    if result.reached:
        return f"reaches {wanted} with {gib(point.memory_bytes)} of {gib(there)}: {what}"
    return f"needs {gib(point.memory_bytes)} for {wanted} ({what}), and there are {gib(there)}, which give {at_best}"


def _why(result: PlanResult) -> str:
    """Why the target is out of reach even with all experts."""
    least = min(result.curve, key=lambda point: point.mean)
    assert result.target_ms is not None
    computing = least.mean - least.waits_ms
    if computing > result.target_ms:
        return f"computing alone takes {computing:,.2f} ms"
    return f"{least.mean:,.2f} ms is the least, of which {least.waits_ms:,.2f} wait for first uses of experts"


def sentence_of_all(report: PlanReport) -> str:
    """Answer in one sentence: for the one device, for the one chosen for a target, or without one for the fastest."""
    leading = report.leading
    if len(leading) == 1:
        return sentence(leading[0])[:-1] + _bound(report, leading[0]) + "."
    if report.ordered_by is None:
        fitting = [one for one in leading if one.memory is not None]
        if not fitting:
            return f"None of the {plural(len(leading), 'choice')} has room for the model even without a cache."
        best = min(fitting, key=lambda one: one.memory.mean if one.memory else 0.0)
        return f"Fastest within its memory: {sentence(best)}"
    target = f"{leading[0].target_ms:,g} ms per token"
    if report.chosen is None:
        return f"None of the {plural(len(leading), 'choice')} reaches {target} with {leading[0].policy} in its memory."
    best = report.chosen
    by = "First of the list" if best.price is None else f"Cheapest by the prices given, at {best.price:,g}"
    return f"{by}: {sentence(best)}"


def _bound(report: PlanReport, result: PlanResult) -> str:
    """What the policy that misses least needs for the same."""
    bound = next((one for one in report if one.policy == "belady" and one is not result), None)
    if bound is None or bound.memory is None:
        return ""
    belady = "belady, which misses least," if bound.optimal else "belady, which knows the future and is no bound here,"
    if result.target_ms is None:
        return f"; {belady} takes {bound.memory.mean:,.2f} ms"
    if bound.target is None:
        return f"; nor does {belady[:-1]}" if result.target is None else ""
    return f"; {belady} needs {gib(bound.target.memory_bytes)}"
