"""`estimate`: time per token from sizes and a hit rate, without a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.devices.band import Band, band_of, class_of
from remoe_sim.devices.costs import Costs, costs_of
from remoe_sim.devices.device import Device
from remoe_sim.devices.draws import distinct_experts, draw, drawable
from remoe_sim.devices.fits import Fit, beside_experts, fit_of
from remoe_sim.devices.hybrid import Hybrid
from remoe_sim.devices.machine import machine
from remoe_sim.devices.mapped import (
    CACHED,
    MAPPED,
    RESIDENT,
    ExpectedFaults,
    Pages,
    check_residency,
    expected_faults,
    page_bytes,
)
from remoe_sim.devices.measured_tpot import Scale, check_measured, scale_to
from remoe_sim.devices.steps import Reads, Steps
from remoe_sim.devices.timeline import Log, Times, check_overlap, compute_factor, log, run, with_compute
from remoe_sim.devices.what_if import Change, changes, limited_by
from remoe_sim.models.model import model as find_model
from remoe_sim.models.sizes import SizedModel
from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.units import MOST_LANES, MOST_TOKENS, parse_bytes, parse_count, parse_number

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.devices.engine import Engine
    from remoe_sim.devices.host import Host
    from remoe_sim.devices.storage import Storage


SCHEMA = "remoe-sim.estimate.v1"
DEFAULT_CONTEXT = 512


@dataclass(frozen=True)
class Estimate:
    """Time per output token of one model on one device.

    hit_rate: share of the lookups of decode; bytes_per_token: what misses read, as it was given or as it follows from
    the hit rate; both are means. times: modelled, of steps whose misses are drawn from a binomial distribution.
    scale: factors of times that a measured one gave; again: the same with something changed, None if nothing can be.
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

    @property
    def tpot_ms(self) -> float:
        return float(self.times.seconds.mean()) * 1e3

    @property
    def band(self) -> Band:
        """Where 80 % of comparable measured runs were, in ms."""
        place = self.costs.misses_from if self.hit_rate < 1 else "resident"
        return band_of(self.tpot_ms, class_of(self.device, place, self._compute_known))

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
        return (*self.costs.notes, *faults, *([remark] if remark else []))

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
        return {
            "model": self.model.name,
            "quant": self.model.quant,
            "device": self.device.name,
            **self.device.parts,
            **self.said,
            "hit_rate": self.hit_rate,
            "bytes_read_per_token": self.bytes_per_token,
            "tpot_ms": {"mean": self.tpot_ms, "band": self.band.to_dict()},
            "tokens_per_second": self.said["batch"] * 1e3 / self.tpot_ms,
            "parts_ms": self.times.parts_ms,
            **self.fit.to_dict(),
            "limited_by": self.limits[0],
            "saved_without_ms": self.limits[1],
            "what_if": [one.to_dict() for one in self.what_if],
            "scaled": None if self.scale is None else self.scale.to_dict(),
            "pages": None if self.faults is None else self.faults.to_dict(self.said["batch"]),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, repr=False)
class EstimateReport(Shown):
    """Estimates, one per combination of quantisation and device that was asked for."""

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
        for result in self.to_dict()["results"]:
            parts = {f"{name}_ms": value for name, value in result.pop("parts_ms").items()}
            for name in ("saved_without_ms", "what_if", "scaled"):
                del result[name]
            tpot = result["tpot_ms"]
            pages, tpot = result.pop("pages"), result["tpot_ms"]
            parts["page_bytes"] = None if pages is None else pages["memory_bytes"]
            band = {"tpot_ms": tpot["mean"], "tpot_ms_low": tpot["band"]["low"], "tpot_ms_high": tpot["band"]["high"]}
            rows.append({**result, **band, **parts, "notes": "; ".join(result["notes"])})
        return pd.DataFrame(rows)


def estimate(
    model: str | Path | SizedModel,
    device: str | Path | Device | Sequence[str | Path | Device],
    quant: str | Sequence[str] | None = None,
    hit_rate: float | str | None = None,
    bytes_per_token: int | str | None = None,
    top_k: int | str | None = None,
    batch: int | str = 1,
    overlap: str | None = None,
    lanes: int | str | None = None,
    context: int | str = DEFAULT_CONTEXT,
    compute_ms: float | str | None = None,
    misses_from: str | None = None,
    host: str | Path | Host | None = None,
    storage: str | Path | Storage | None = None,
    engine: str | Path | Engine | None = None,
    cpu_share: float | str | None = None,
    cpu_moe_layers: int | str | None = None,
    gpu_moe_layers: int | str | None = None,
    measured_tpot: float | str | None = None,
    residency: str | None = None,
    page_rule: str | None = None,
    page_memory: int | str | None = None,
    fault_threads: int | str | None = None,
) -> EstimateReport:
    """Time per output token without a trace.

    model, quant, device: as `model` and `device` take them; several of the last two, a list or "a,b", give an estimate
    of each combination. One of hit_rate (share of the lookups of decode that hit) and bytes_per_token (what misses
    read, such as "480.38MiB", per generated token); with neither, nothing is cached. top_k: experts per token, if not
    the model's own number; batch: tokens of different requests per step, whose experts are drawn evenly and
    independently; overlap: `none`, `layer` (if not given) or `prefetch` (perfect, one layer ahead); lanes: reads in
    flight; context: tokens that attention reads; compute_ms: a measured computing time per step in place of the
    modelled one; misses_from: `host`, `storage` or `cpu`; host, storage, engine: as in `machine`.
    cpu_share: of the misses of a step and layer that the CPU computes while the others are uploaded, 0 to 1, or `auto`
    for as many as finish first; cpu_moe_layers: the CPU has the experts of the first so many layers, as in llama.cpp's
    --n-cpu-moe; gpu_moe_layers: the device has those of the last so many MoE layers. measured_tpot: what one token
    took on this machine, such as "55ms", to which modelled times are scaled, computing times first.
    residency: `cached` (if not given), `resident` (all weights in memory) or `mapped` (a file in the page cache, which
    by approximation keeps dense weights if what a step reads fits; experts hit as `hit_rate_curve` says for the share
    that is left, or with hit_rate); page_rule (`lru` alone), page_memory and fault_threads as in `replay`.

    Raises ValueError for arguments that are not possible.
    """
    overlap = check_overlap(overlap)
    if hit_rate is not None and bytes_per_token is not None:
        raise ValueError("hit rate and bytes per token both say what is missed; give one of them")
    number: dict[str, Any] = {
        "top_k": None if top_k is None else parse_count(top_k, "top-k"),
        "batch": parse_count(batch, "batch", 1, MOST_TOKENS),
        "lanes": None if lanes is None else parse_count(lanes, "lanes", 1, MOST_LANES),
        "context": parse_count(context, "context", most=MOST_TOKENS),
    }
    hybrid = Hybrid.of(overlap, misses_from, cpu_share, cpu_moe_layers, gpu_moe_layers)
    number |= hybrid.placement
    measured = None if compute_ms is None else parse_number(compute_ms, "compute time in ms")
    hits = None if hit_rate is None else parse_number(hit_rate, "hit rate", 1)
    read = None if bytes_per_token is None else parse_bytes(bytes_per_token)
    whole = check_measured(measured_tpot, compute_ms)
    models = _models(model, quant, number["top_k"])
    devices = _devices(device, host=host, storage=storage, engine=engine)
    if whole is not None and len(models) * len(devices) > 1:
        raise ValueError("a measured TPOT is that of one machine; give one device and one quantisation with it")
    if residency in (RESIDENT, MAPPED) and read is not None:
        raise ValueError(f"residency '{residency}' says what is read; leave out --bytes-per-token")
    if residency == RESIDENT and hits is not None:
        raise ValueError("resident weights are always hit; leave out --hit-rate")
    pages = Pages.of(residency or CACHED, page_rule, page_memory, fault_threads)
    results = []
    for quantised in models:
        for one in devices:
            where = check_residency(residency, one, misses_from)
            place = "storage" if where == MAPPED else misses_from
            costs = costs_of(quantised, one, number["lanes"], place, None, hybrid)
            if where == MAPPED:
                results.append(_mapped(quantised, one, costs, number, overlap, hits, measured, pages))
                continue
            rate = 1.0 if where == RESIDENT else hits
            found = _estimate(quantised, one, costs, number, overlap, rate, read, measured, whole)
            again = _again(found, model, number, overlap, rate, read, place, hybrid)
            results.append(replace(found, said={**found.said, "residency": where}, again=again))
    return EstimateReport(tuple(results))


def _again(
    found: Estimate, named: str | Path | SizedModel, number: dict[str, Any], overlap: str, hits: float | None,
    read: float | None, misses_from: str | None, hybrid: Hybrid,
) -> Callable[..., Estimate]:  # fmt: skip
    """A function that makes the same estimate with another device, quantisation, batch, overlap or CPU share; what was
    measured or given stays as a factor of the modelled times."""
    scale, compute_ms = found.scale, found.said["compute_ms"]
    if compute_ms is not None:
        factor = compute_factor(found.costs, found.times.steps, found.reads, overlap, compute_ms)
        scale = Scale(found.tpot_ms, factor)

    def again(
        device: Device = found.device, quant: str | None = None, batch: int = number["batch"], ahead: str = overlap,
        cpu_share: float | str | None = hybrid.cpu_share,
    ) -> Estimate:  # fmt: skip
        model = found.model
        if quant is not None:
            (model,) = _models(named, quant, number["top_k"])
        place = None if cpu_share is not None and misses_from == "cpu" else misses_from
        costs = costs_of(model, device, number["lanes"], place, None, replace(hybrid, cpu_share=cpu_share))
        bytes_read = None
        if read is not None:
            bytes_read = read * _bytes_per_token(model, batch) / _bytes_per_token(found.model, number["batch"])
        changed = {**number, "batch": batch}
        return _estimate(model, device, costs, changed, ahead, hits, bytes_read, None, None, scale)

    return again


def _bytes_per_token(model: SizedModel, batch: int) -> float:
    """What a token reads if nothing is cached."""
    return distinct_experts(model.experts, model.top_k, batch) * sum(model.expert_bytes) / batch


def estimate_one(
    model: SizedModel, device: Device, *, overlap: str, lanes: int | None, hit_rate: float | None,
    bytes_per_token: float | None, compute_ms: float | None, misses_from: str | None,
) -> Estimate:  # fmt: skip
    """One estimate at batch 1 from arguments that were checked before."""
    number = {"batch": 1, "context": DEFAULT_CONTEXT}
    costs = costs_of(model, device, lanes, misses_from)
    return _estimate(model, device, costs, number, overlap, hit_rate, bytes_per_token, compute_ms)


def _estimate(
    model: SizedModel, device: Device, costs: Costs, number: dict[str, Any], overlap: str, hits: float | None,
    read: float | None, compute_ms: float | None, measured_ms: float | None = None, scale: Scale | None = None,
) -> Estimate:  # fmt: skip
    batch, context = number["batch"], number["context"]
    lookups = distinct_experts(model.experts, model.top_k, batch)
    all_bytes = _bytes_per_token(model, batch)
    miss_rate = 1.0 - hits if hits is not None else 1.0 if read is None else min(1.0, read / all_bytes)
    read_bytes = miss_rate * all_bytes if read is None else float(read)
    layers, sizes = len(model.moe_layers), np.array(model.expert_bytes)
    drawn_rate = drawable(layers, lookups, miss_rate)
    share = miss_rate / drawn_rate if drawn_rate else 1.0  # of the steps have misses at that rate, the others none
    needed, missing = draw(layers, lookups, drawn_rate)
    drawn = share * float((missing * sizes.astype(np.float64)).sum()) / missing.shape[0] / batch
    costs = costs.with_reads_times(read_bytes / drawn if drawn else 1.0)  # exactly what was asked for is read
    count = needed.shape[0]
    steps = Steps(np.full(count, batch), np.full(count, batch * context), np.full(count, batch), needed)
    reads = Reads.of(costs, missing, overlap)
    no_reads = Reads.of(costs, np.zeros_like(missing), overlap)

    def times_of(costs: Costs) -> Times:
        times = run(costs, steps, reads, overlap, compute_ms)
        return times if share == 1 else run(costs, steps, no_reads, overlap, compute_ms).towards(times, share)

    if measured_ms is not None:
        scale = scale_to(measured_ms, costs, lambda one: float(times_of(one).seconds.mean()) * 1e3)
    costs = costs if scale is None else scale.of(costs)
    times = times_of(costs)
    if share < 1:
        reads = Reads.of(costs, draw(layers, lookups, miss_rate)[1], overlap)
    said = {
        "top_k": model.top_k, "batch": batch, "overlap": overlap, "misses_from": costs.misses_from,
        "lanes": next((int(lanes) for lanes in costs.lanes if lanes), None),
        "context": context, "compute_ms": compute_ms, "cpu_share": times.cpu_share,
        "cpu_moe_layers": number.get("cpu_moe_layers"), "gpu_moe_layers": number.get("gpu_moe_layers"),
        "residency": CACHED,
    }  # fmt: skip
    return Estimate(model, device, said, 1.0 - miss_rate, read_bytes, times, costs, reads, scale)


def _mapped(
    model: SizedModel, device: Device, costs: Costs, number: dict[str, Any], overlap: str, hits: float | None,
    compute_ms: float | None, pages: Pages,
) -> Estimate:  # fmt: skip
    """An estimate as of resident weights, which then waits for faults."""
    batch = number["batch"]
    resident = _estimate(model, device, costs, number, overlap, 1.0, None, compute_ms)
    held = page_bytes(pages, device, model, resident.times.steps, 0)
    faults = expected_faults(pages, device, model, held, distinct_experts(model.experts, model.top_k, batch), hits)
    return replace(
        resident,
        said={**resident.said, "residency": MAPPED},
        hit_rate=faults.hit_rate,
        bytes_per_token=faults.bytes / batch,
        times=resident.times.waiting(np.full(resident.times.seconds.size, faults.seconds)),
        faults=faults,
    )


def _models(model: str | Path | SizedModel, quant: str | Sequence[str] | None, top_k: int | None) -> list[SizedModel]:
    if isinstance(model, SizedModel):
        if quant is not None or top_k is not None:
            raise ValueError("a sized model has its quantisation and top-k already; leave them out or name the model")
        return [model]
    return [find_model(model, one, top_k) for one in (_listed(quant) if quant is not None else [None])]


def _devices(given: str | Path | Device | Sequence[str | Path | Device], **parts: Any) -> list[Device]:
    return [machine(one, **parts) for one in _listed(given)]


def _listed(given: Any) -> list[Any]:
    if isinstance(given, str):
        return [one.strip() for one in given.split(",")]
    return [given] if isinstance(given, (Path, Device)) else list(given)
