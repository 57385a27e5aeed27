"""What a plan returns: per device, quantisation and policy the answers and the curve they are taken from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remoe_sim.device_cards import Device
from remoe_sim.model_sizes import SizedModel
from remoe_sim.plan_curves import Point
from remoe_sim.plan_memory import Beside
from remoe_sim.showing import Shown
from remoe_sim.stamps import stamp

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "remoe-sim.plan.v1"
ANSWERS = ("no_cache", "knee", "target", "memory", "all_experts")


@dataclass(frozen=True)
class PlanResult:
    """Answers for one policy on one device.

    online: the policy knows no future; memory_bytes: what there is, the device's own unless another was given; beside:
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
    def sentence(self) -> str:
        from remoe_sim.plan_sentences import sentence

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
        from remoe_sim.plan_sentences import sentence_of_all

        return sentence_of_all(self)

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
                rows.append(row | {"waits_ms": point.waits_ms, "tokens_per_second": point.tokens_per_second})
        return pd.DataFrame(rows)

    def _sentence(self) -> str:
        return self.sentence
