"""`estimate`: time per token from sizes and a hit rate, without a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.devices.costs import Costs, costs_of
from remoe_sim.devices.device import Device
from remoe_sim.devices.draws import STEPS, distinct_experts, draw, drawable
from remoe_sim.devices.estimate_result import Estimate, EstimateReport
from remoe_sim.devices.expected import Expected, expected_in_memory, expected_of_slots
from remoe_sim.devices.hybrid import Hybrid
from remoe_sim.devices.machine import machine
from remoe_sim.devices.mapped import (
    CACHED,
    MAPPED,
    RESIDENT,
    Pages,
    check_residency,
    expected_faults,
    page_bytes,
)
from remoe_sim.devices.measured_tpot import Scale, check_measured, scale_to
from remoe_sim.devices.steps import Reads, Steps
from remoe_sim.devices.timeline import Times, check_overlap, compute_factor, run
from remoe_sim.models.model import model as find_model
from remoe_sim.models.sizes import SizedModel
from remoe_sim.util.units import MOST_LANES, MOST_TOKENS, parse_bytes, parse_count, parse_number

if TYPE_CHECKING:
    from remoe_sim.devices.engine import Engine
    from remoe_sim.devices.host import Host
    from remoe_sim.devices.storage import Storage


DEFAULT_CONTEXT = 512
HIT_RATES = (0.0, 0.5, 0.8, 0.9, 0.95, 1.0)  # of which times are told where nothing says what hits


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
    memory: int | str | None = None,
    cache: int | str | None = None,
) -> EstimateReport:
    """Time per output token without a trace.

    model, quant, device: as `model` and `device` take them; several of the last two, a list or "a,b", give an estimate
    of each combination. One of hit_rate (share of the lookups of decode that hit), bytes_per_token (what misses read,
    such as "480.38MiB", per generated token), memory (bytes of the device; experts get what the rest of the model, the
    context and 512 MiB of workspace leave) and cache (experts per layer), of which a curve tells the hit rate that is
    expected; with none of them, a table at 0, 50, 80, 90, 95 and 100 %. top_k: experts per token, if not
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
    asked = {"hit rate": hit_rate, "bytes per token": bytes_per_token, "memory": memory, "cache": cache}
    if len(said := [name for name, value in asked.items() if value is not None]) > 1:
        raise ValueError(f"{' and '.join(said)} {'both' if len(said) == 2 else 'all'} say what is missed; give one of "
                         "them")  # fmt: skip
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
    room = None if memory is None else parse_bytes(memory)
    slots = None if cache is None else parse_count(cache, "cache")
    open_rates = not said and not hybrid.placed and residency in (None, CACHED) and whole is None
    results = []
    for quantised in models:
        known: Expected | None = None
        if room is not None:
            known = expected_in_memory(quantised, room, number["context"], number["batch"])
        elif slots is not None:
            known = expected_of_slots(quantised, slots)
        for one in devices:
            where = check_residency(residency, one, misses_from)
            place = "storage" if where == MAPPED else misses_from
            costs = costs_of(quantised, one, number["lanes"], place, None, hybrid)
            if where == MAPPED:
                results.append(_mapped(quantised, one, costs, number, overlap, hits, measured, pages))
                continue
            rates = HIT_RATES if open_rates else (1.0 if where == RESIDENT else hits,)
            for rate in rates if known is None else (known.hits.rate,):
                found = _estimate(quantised, one, costs, number, overlap, rate, read, measured, whole)
                again = _again(found, model, number, overlap, rate, read, place, hybrid)
                found = replace(found, said={**found.said, "residency": where}, again=again)
                results.append(found if known is None else _between(found, costs, number, known))
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


def _between(made: Estimate, costs: Costs, number: dict[str, Any], found: Expected) -> Estimate:
    """The same with where its hit rate is from, and the times at the ends of that."""
    overlap, measured = made.said["overlap"], made.said["compute_ms"]
    best, worst = (
        _estimate(made.model, made.device, costs, number, overlap, rate, None, measured).tpot_ms
        for rate in (found.hits.high, found.hits.low)
    )
    return replace(made, expected=found, ends_ms=(best, worst))


def estimate_one(
    model: SizedModel, device: Device, *, overlap: str, lanes: int | None, hit_rate: float | None,
    bytes_per_token: float | None, compute_ms: float | None, misses_from: str | None,
    hybrid: Hybrid | None = None, context: int = DEFAULT_CONTEXT, steps: int = STEPS, batch: int = 1,
) -> Estimate:  # fmt: skip
    """One estimate from arguments that were checked before. steps: fewer are quicker and less exact."""
    number = {"batch": batch, "context": context, "steps": steps, **({} if hybrid is None else hybrid.placement)}
    costs = costs_of(model, device, lanes, misses_from, None, hybrid)
    return _estimate(model, device, costs, number, overlap, hit_rate, bytes_per_token, compute_ms)


def _estimate(
    model: SizedModel, device: Device, costs: Costs, number: dict[str, Any], overlap: str, hits: float | None,
    read: float | None, compute_ms: float | None, measured_ms: float | None = None, scale: Scale | None = None,
) -> Estimate:  # fmt: skip
    batch, context, many = number["batch"], number["context"], number.get("steps", STEPS)
    lookups = distinct_experts(model.experts, model.top_k, batch)
    all_bytes = _bytes_per_token(model, batch)
    miss_rate = 1.0 - hits if hits is not None else 1.0 if read is None else min(1.0, read / all_bytes)
    read_bytes = miss_rate * all_bytes if read is None else float(read)
    layers, sizes = len(model.moe_layers), np.array(model.expert_bytes)
    drawn_rate = drawable(layers, lookups, miss_rate, many)
    share = miss_rate / drawn_rate if drawn_rate else 1.0  # of the steps have misses at that rate, the others none
    needed, missing = draw(layers, lookups, drawn_rate, many)
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
        reads = Reads.of(costs, draw(layers, lookups, miss_rate, many)[1], overlap)
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
