"""What `plan` answers, in numbers and in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remoe_sim.devices.fits import Fit, fit_of
from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.units import format_bytes, plural

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.devices.device import Device
    from remoe_sim.models.sizes import SizedModel
    from remoe_sim.studies.plan_curve import Beside, Point

SCHEMA = "remoe-sim.plan.v1"
ANSWERS = ("no_cache", "knee", "target", "memory", "all_experts")


@dataclass(frozen=True)
class PlanResult:
    """Answers for one policy on one device.

    online: the policy knows no future; memory_bytes: what the device has for models, unless another was given; beside:
    what is not for experts. Points: no_cache and all_experts, the ends of the curve; knee, where it lies farthest below
    the chord between them (None for a straight line); target, the smallest cache that takes at most target_ms per
    token (None if no cache does, or none was asked for); memory, the largest cache for which there is room (None if
    there is none at all). limits: how many there are, every one at which lookups begin to hit, or where
    only a replay tells, that whole experts can fill; every_limit: whether `curve` has them all; ordered: no time rises
    with the limit, so that the answers are certain even if it has not.
    """

    device: Device
    model: SizedModel
    policy: str
    online: bool
    optimal: bool
    price: float | None
    said: dict[str, Any]
    memory_bytes: int
    beside: Beside
    target_ms: float | None
    no_cache: Point
    knee: Point | None
    target: Point | None
    memory: Point | None
    all_experts: Point
    curve: tuple[Point, ...]
    limits: int
    ordered: bool

    @property
    def every_limit(self) -> bool:
        return len(self.curve) == self.limits

    @property
    def reached(self) -> bool | None:
        """Whether the memory is enough for the target; None without one."""
        if self.target_ms is None:
            return None
        return self.target is not None and self.target.memory_bytes <= self.memory_bytes

    @property
    def fit(self) -> Fit:
        """Whether the model fits with any cache, and the experts in the host where they are there."""
        least = self.no_cache.memory_bytes - self.beside.total
        return fit_of(self.device, self.model, self.beside.total, least, self.said["misses_from"], self.memory_bytes)

    @property
    def sentence(self) -> str:
        return sentence(self)

    def to_dict(self) -> dict[str, Any]:
        points = {name: getattr(self, name) for name in ANSWERS}
        return {
            **self.said,
            "policy": self.policy,
            "online": self.online,
            "optimal": self.optimal,
            "price": self.price,
            "memory_bytes": self.memory_bytes,
            **self.beside.to_dict(),
            **self.fit.to_dict(),
            "target_tpot_ms": self.target_ms,
            "target_reached": self.reached,
            **{name: None if point is None else point.to_dict() for name, point in points.items()},
            "sentence": self.sentence,
            "every_limit": self.every_limit,
            "limits": self.limits,
            "limits_tried": len(self.curve),
            "curve": [
                {"capacity": one.capacity, "memory_bytes": one.memory_bytes, "tpot_ms": one.mean} for one in self.curve
            ],
        }


@dataclass(frozen=True, repr=False)
class PlanReport(Shown):
    """Results of one call: quantisations, in each devices, in each policies, as they were given. ordered_by: `price` or
    `list`, what `chosen` goes by; None if that was not the question."""

    trace: dict[str, Any]
    results: tuple[PlanResult, ...]
    ordered_by: str | None
    notes: tuple[str, ...]

    def __getitem__(self, number: int) -> PlanResult:
        return self.results[number]

    def __iter__(self) -> Iterator[PlanResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    @property
    def leading(self) -> list[PlanResult]:
        """Those of the first policy that knows no future (of the first one, if all do)."""
        policy = next((one.policy for one in self.results if one.online), self.results[0].policy)
        return [one for one in self.results if one.policy == policy]

    @property
    def chosen(self) -> PlanResult | None:
        """Of the devices that reach the target within their memory, the cheapest, or without prices the first; None if
        none does."""
        reaching = [one for one in self.leading if one.reached]
        return min(reaching, key=lambda one: one.price or 0.0, default=None) if self.ordered_by else None

    @property
    def cheapest(self) -> PlanResult | None:
        """What is chosen by price; None without prices."""
        return self.chosen if self.ordered_by == "price" else None

    @property
    def tried(self) -> str:
        """Which limits were looked at, a clause; nothing where all were."""
        partly = {one.policy: one for one in self.results if not one.every_limit}
        if not partly:
            return ""
        counts = ", ".join(f"{name} {len(one.curve):,} of {one.limits:,}" for name, one in partly.items())
        unsure = [name for name, one in partly.items() if not one.ordered]
        doubt = f"; with {' and '.join(unsure)} a smaller cache may do" if unsure else ""
        return f"not every limit was tried ({counts}), but all around the answers{doubt}"

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        return f"{'On a synthetic trace: ' if self.trace.get('synthetic') else ''}{sentence_of_all(self)}"

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim plan --json` prints."""
        best, cheapest = (
            None if one is None else {"device": one.device.name, "quant": one.model.quant}
            for one in (self.chosen, self.cheapest)
        )
        return {
            **stamp(SCHEMA),
            "trace": self.trace,
            "ordered_by": self.ordered_by,
            "chosen": best,
            "cheapest": cheapest,
            "sentence": self.sentence,
            "results": [one.to_dict() for one in self.results],
            "notes": list(self.notes),
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per result and answer (no_cache, knee, target, memory, all_experts), those there are."""
        return self._frame(ANSWERS)

    def curve_frame(self) -> pd.DataFrame:
        """One row per result and limit that was looked at."""
        return self._frame(())

    def _frame(self, answers: tuple[str, ...]) -> pd.DataFrame:
        import pandas as pd

        rows = []
        for one in self.results:
            named = [("", point) for point in one.curve]
            if answers:
                named = [(name, getattr(one, name)) for name in answers if getattr(one, name) is not None]
            for name, point in named:
                row: dict[str, Any] = {"device": one.device.name, "quant": one.model.quant, "policy": one.policy}
                row |= {"price": one.price} | ({"answer": name} if name else {})
                row |= {f"capacity_{unit}": limit for unit, limit in point.capacity.items()}
                row |= {key: getattr(point, key) for key in ("memory_bytes", "cache_bytes", "workspace_bytes")}
                row |= {f"tpot_ms_{key}": value for key, value in point.tpot_ms.items()}
                if point.band is not None:
                    row |= {"tpot_ms_low": point.band.low, "tpot_ms_high": point.band.high}
                rows.append(row | {"waits_ms": point.waits_ms, "tokens_per_second": point.tokens_per_second})
        return pd.DataFrame(rows)

    def _sentence(self) -> str:
        return self.sentence


GIB = 2**30


def gib(size: float) -> str:
    """A size with two decimals: `9.87 GiB`; a small one in a smaller unit."""
    return f"{size / GIB:,.2f} GiB" if size >= GIB / 10 else format_bytes(size)


def cache_in_words(point: Point, experts: int) -> str:
    """What the cache of a point holds."""
    unit, limit = next(iter(point.capacity.items()))
    if unit == "page_bytes":
        return f"a page cache of {gib(limit)}"
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
    within = "" if best.band is None else f", {best.band.sentence},"
    at_best = f"{best.mean:,.2f} ms{within} with {cache_in_words(best, experts)} in {gib(best.memory_bytes)}"
    if result.target_ms is None:
        knee = result.knee
        bend = "" if knee is None else f"; the knee of its curve is at {gib(knee.memory_bytes)} and {knee.mean:,.2f} ms"
        held = f"{cache_in_words(best, experts)}, {gib(best.memory_bytes)} of {gib(there)}"
        return f"takes {best.mean:,.2f} ms per token{within} with {held}{bend}"
    wanted = f"{result.target_ms:,g} ms per token"
    point = result.target
    if point is None:
        return f"does not reach {wanted} with any cache: {_why(result)}; {gib(there)} give {at_best}"
    within = "" if point.band is None else f", {point.band.sentence}"
    what = f"{cache_in_words(point, experts)}, {point.mean:,.2f} ms{within}"
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
