"""What `estimate` answers: times per token, what bounds them, and what changes would buy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from remoe_sim.devices.band import Band, band_of, class_of
from remoe_sim.devices.costs import Costs
from remoe_sim.devices.device import Device
from remoe_sim.devices.draws import distinct_experts
from remoe_sim.devices.expected import Expected
from remoe_sim.devices.fits import Fit, beside_experts, fit_of
from remoe_sim.devices.mapped import ExpectedFaults
from remoe_sim.devices.measured_tpot import Scale
from remoe_sim.devices.steps import Reads
from remoe_sim.devices.timeline import Log, Times, log, run, with_compute
from remoe_sim.devices.what_if import Change, changes, limited_by
from remoe_sim.models.sizes import SizedModel
from remoe_sim.util.display import Shown, stamp

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "remoe-sim.estimate.v1"


@dataclass(frozen=True)
class Estimate:
    """Time per output token of one model on one device.

    hit_rate: share of the lookups of decode; bytes_per_token: what misses read, as it was given or as it follows from
    the hit rate; both are means. times: modelled, of steps whose misses are drawn from a binomial distribution.
    scale: factors of times that a measured one gave; again: the same with something changed, None if nothing can be.
    expected: where the hit rate is from if it is of a curve; ends_ms: the times at the highest and the lowest hit rate
    of that curve.
    """

    model: SizedModel
    device: Device
    said: dict[str, Any]
    hit_rate: float
    bytes_per_token: float
    times: Times
    costs: Costs
    reads: Reads
    scale: Scale | None = None
    again: Callable[..., Estimate] | None = field(default=None, compare=False, repr=False)
    faults: ExpectedFaults | None = None
    expected: Expected | None = None
    ends_ms: tuple[float, float] | None = None

    @property
    def tpot_ms(self) -> float:
        return float(self.times.seconds.mean()) * 1e3

    @property
    def band(self) -> Band:
        """Where 80 % of comparable measured runs were, in ms; wider if the hit rate itself is of a curve."""
        place = self.costs.misses_from if self.hit_rate < 1 else "resident"
        band = band_of(self.tpot_ms, class_of(self.device, place, self._compute_known))
        return band if self.ends_ms is None else band.widened(self.tpot_ms, *self.ends_ms)

    @property
    def _compute_known(self) -> bool:
        return self.said["compute_ms"] is not None or self.scale is not None

    @cached_property
    def limits(self) -> tuple[str, dict[str, float]]:
        """The term without which a token would take least, and the ms that each saves if it alone took no time."""
        steps, reads, overlap = self.times.steps, self.reads, self.said["overlap"]
        costs = with_compute(self.costs, steps, reads, overlap, self.said["compute_ms"])
        return limited_by(costs, lambda one: float(run(one, steps, reads, overlap).seconds.mean()) * 1e3)

    @cached_property
    def what_if(self) -> tuple[Change, ...]:
        """What each change would buy, of those that are possible."""
        said = self.said
        if self.again is None:
            return ()
        return tuple(
            changes(
                self.again, self.tpot_ms, said["batch"], self.costs, self.device, said["overlap"],
                self.model.quant, self.hit_rate < 1,
            )
        )  # fmt: skip

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what nobody has checked or what is not known."""
        remark = self.band.remark
        faults = () if self.faults is None else self.faults.notes
        whose = () if self.expected is None else (f"the hit rate is not of a trace: {self.expected.hits.source}",)
        return (*whose, *self.costs.notes, *faults, *([remark] if remark else []))

    @property
    def fit(self) -> Fit:
        """Whether it fits, as far as that is known without the bytes of the cache.

        With no hit the device keeps the experts of one layer, with nothing but hits all.
        """
        model, batch = self.model, self.said["batch"]
        group = distinct_experts(model.experts, model.top_k, batch) * max(model.expert_bytes, default=0)
        held = round(group) if self.hit_rate <= 0 else model.routed_bytes if self.hit_rate >= 1 else None
        beside = beside_experts(model, self.said["context"] * batch, batch)
        return fit_of(self.device, model, beside, held, self.said["misses_from"])

    def log(self, steps: int) -> Log:
        """The events of the first steps."""
        return log(self.costs, self.times.steps, self.reads, self.said["overlap"], steps)

    def to_dict(self) -> dict[str, Any]:
        return self.entries([one.to_dict() for one in self.what_if])

    def entries(self, what_if: list[dict[str, Any]]) -> dict[str, Any]:
        """The same with what changes would buy as it is given, since each change is an estimate of its own."""
        return {
            "model": self.model.name,
            "quant": self.model.quant,
            "device": self.device.name,
            **self.device.parts,
            **self.said,
            "hit_rate": self.hit_rate,
            "hit_rate_band": None if self.expected is None else self.expected.to_dict(),
            "bytes_read_per_token": self.bytes_per_token,
            "tpot_ms": {"mean": self.tpot_ms, "band": self.band.to_dict()},
            "tokens_per_second": self.said["batch"] * 1e3 / self.tpot_ms,
            "parts_ms": self.times.parts_ms,
            **self.fit.to_dict(),
            "limited_by": self.limits[0],
            "saved_without_ms": self.limits[1],
            "what_if": what_if,
            "scaled": None if self.scale is None else self.scale.to_dict(),
            "pages": None if self.faults is None else self.faults.to_dict(self.said["batch"]),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, repr=False)
class EstimateReport(Shown):
    """Estimates, one per combination of quantisation, device and hit rate that was asked for."""

    results: tuple[Estimate, ...]

    def __getitem__(self, index: int) -> Estimate:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def to_dict(self) -> dict[str, Any]:
        """What `remoe-sim estimate --json` prints: `results`, and where there is one its entries beside it."""
        results = [one.to_dict() for one in self.results]
        return {**stamp(SCHEMA), **(results[0] if len(results) == 1 else {}), "results": results}

    def to_frame(self) -> pd.DataFrame:
        """One row per estimate; parts become columns such as `dense_ms`."""
        import pandas as pd

        rows = []
        for one in self.results:
            result = one.entries(what_if=[])
            parts = {f"{name}_ms": value for name, value in result.pop("parts_ms").items()}
            for name in ("saved_without_ms", "what_if", "scaled"):
                del result[name]
            pages, tpot = result.pop("pages"), result["tpot_ms"]
            parts["page_bytes"] = None if pages is None else pages["memory_bytes"]
            band = {"tpot_ms": tpot["mean"], "tpot_ms_low": tpot["band"]["low"], "tpot_ms_high": tpot["band"]["high"]}
            hits = result.pop("hit_rate_band") or {"low": None, "high": None}
            band |= {"hit_rate_low": hits["low"], "hit_rate_high": hits["high"]}
            rows.append({**result, **band, **parts, "notes": "; ".join(result["notes"])})
        return pd.DataFrame(rows)
