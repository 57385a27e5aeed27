"""`estimate`: time per token from sizes and a hit rate, without a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.devices.band import Band, band_of, class_of
from remoe_sim.devices.costs import Costs, costs_of
from remoe_sim.devices.device import Device
from remoe_sim.devices.expected import Expected, expected_in_memory, expected_of_slots
from remoe_sim.devices.hybrid import Hybrid
from remoe_sim.devices.machine import machine
from remoe_sim.devices.timeline import Counts, Log, Reads, Steps, Times, check_overlap, log, run
from remoe_sim.models.model import model as find_model
from remoe_sim.models.sizes import SizedModel
from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.units import MOST_LANES, MOST_TOKENS, parse_bytes, parse_count, parse_number

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.devices.engine import Engine
    from remoe_sim.devices.host import Host
    from remoe_sim.devices.storage import Storage

STEPS = 256
LEAST_MISSES = 128  # of a draw, which is then right within half a per cent


def distinct_experts(experts: int, top_k: int, batch: int) -> float:
    """Experts that `batch` tokens need together when each draws its top_k evenly: E (1 - (1 - k/E)^B)."""
    return experts * (1 - (1 - top_k / experts) ** batch)


def drawable(layers: int, lookups: float, miss_rate: float, steps: int = STEPS) -> float:
    """The lowest miss rate from `miss_rate` on of which steps can be drawn; 0 for 0.

    Fewer misses are too few to be spread over so few steps. They are so rare that they do not meet, and what they take
    is their share of what that rate takes.
    """
    return min(1.0, max(miss_rate, LEAST_MISSES / (steps * layers * lookups))) if miss_rate else 0.0


@lru_cache(maxsize=256)
def draw(layers: int, lookups: float, miss_rate: float, steps: int = STEPS) -> tuple[Counts, Counts]:
    """uint16[steps, layers] each: experts needed, `lookups` on average, and those of them that are missing."""
    rng = np.random.default_rng(0)
    even = (np.arange(steps) + 0.5) / steps
    needed = np.floor(lookups + rng.permuted(np.tile(even, (layers, 1)), axis=1)).astype(np.int64)
    part = rng.permuted(np.tile(np.arange(steps), (layers, 1)), axis=1)
    mean = np.zeros((layers, steps))
    for count in np.unique(needed).tolist():
        there = needed == count
        mean[there] = _means(count, min(max(miss_rate, 0.0), 1.0), steps)[part[there]]
    missing = np.minimum(_rounded(mean, part), needed)
    answer = needed.T.astype(np.uint16), missing.T.astype(np.uint16)
    for counts in answer:
        counts.flags.writeable = False  # they are kept for the next call
    return answer


def _means(lookups: int, miss_rate: float, parts: int) -> npt.NDArray[np.float64]:
    """float64[parts]: the means of equal parts of a binomial distribution, in ascending order."""
    from scipy.stats import binom

    ends = np.arange(parts + 1) / parts
    below = binom.cdf(np.arange(lookups), lookups, miss_rate)  # a quantile is the number of these that are below it
    upto = np.maximum(ends[:, None] - below[None, :], 0.0).sum(axis=1)
    means: npt.NDArray[np.float64] = np.diff(upto) * parts
    return means


def _rounded(mean: npt.NDArray[np.float64], part: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Round means up or down so that their running sum, over layers and in each from part to part, stays right."""
    order = np.argsort(part, axis=1)
    sums = np.cumsum(np.take_along_axis(mean, order, axis=1).ravel())
    ends = np.floor(sums + 0.5 + 1e-9)
    rounded = np.empty(mean.shape, np.int64)
    np.put_along_axis(rounded, order, np.diff(ends, prepend=0.0).astype(np.int64).reshape(mean.shape), axis=1)
    return rounded


SCHEMA = "remoe-sim.estimate.v1"
DEFAULT_CONTEXT = 512
HIT_RATES = (0.0, 0.5, 0.8, 0.9, 0.95, 1.0)  # of which times are told where nothing says what hits


@dataclass(frozen=True)
class Estimate:
    """Time per output token of one model on one device.

    hit_rate: share of the lookups of decode; bytes_per_token: what misses read, as it was given or as it follows from
    the hit rate; both are means. times: modelled, of steps whose misses are drawn from a binomial distribution.
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
    expected: Expected | None = None
    ends_ms: tuple[float, float] | None = None

    @property
    def tpot_ms(self) -> float:
        return float(self.times.seconds.mean()) * 1e3

    @property
    def band(self) -> Band:
        """Where 80 % of comparable measured runs were, in ms; wider if the hit rate itself is of a curve."""
        place = self.costs.misses_from if self.hit_rate < 1 else "resident"
        band = band_of(self.tpot_ms, class_of(self.device, place, self.said["compute_ms"] is not None))
        return band if self.ends_ms is None else band.widened(self.tpot_ms, *self.ends_ms)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what nobody has checked or what is not known."""
        remark = self.band.remark
        whose = () if self.expected is None else (f"the hit rate is not of a trace: {self.expected.hits.source}",)
        return (*whose, *self.costs.notes, *([remark] if remark else []))

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
            "hit_rate_band": None if self.expected is None else self.expected.to_dict(),
            "bytes_read_per_token": self.bytes_per_token,
            "tpot_ms": {"mean": self.tpot_ms, "band": self.band.to_dict()},
            "tokens_per_second": self.said["batch"] * 1e3 / self.tpot_ms,
            "parts_ms": self.times.parts_ms,
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
        for result in self.to_dict()["results"]:
            parts = {f"{name}_ms": value for name, value in result.pop("parts_ms").items()}
            tpot = result["tpot_ms"]
            band = {"tpot_ms": tpot["mean"], "tpot_ms_low": tpot["band"]["low"], "tpot_ms_high": tpot["band"]["high"]}
            hits = result.pop("hit_rate_band") or {"low": None, "high": None}
            band |= {"hit_rate_low": hits["low"], "hit_rate_high": hits["high"]}
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
    --n-cpu-moe; gpu_moe_layers: the device has those of the last so many MoE layers.

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
    room = None if memory is None else parse_bytes(memory)
    slots = None if cache is None else parse_count(cache, "cache")
    rates = HIT_RATES if not said and not hybrid.placed else (hits,)
    results = []
    for quantised in _models(model, quant, number["top_k"]):
        found: Expected | None = None
        if room is not None:
            found = expected_in_memory(quantised, room, number["context"], number["batch"])
        elif slots is not None:
            found = expected_of_slots(quantised, slots)
        for one in _devices(device, host=host, storage=storage, engine=engine):
            costs = costs_of(quantised, one, number["lanes"], misses_from, None, hybrid)
            for rate in rates if found is None else (found.hits.rate,):
                made = _estimate(quantised, one, costs, number, overlap, rate, read, measured)
                results.append(made if found is None else _between(made, costs, number, found))
    return EstimateReport(tuple(results))


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
    hybrid: Hybrid | None = None, context: int = DEFAULT_CONTEXT, steps: int = STEPS,
) -> Estimate:  # fmt: skip
    """One estimate at batch 1 from arguments that were checked before. steps: fewer are quicker and less exact."""
    number = {"batch": 1, "context": context, "steps": steps, **({} if hybrid is None else hybrid.placement)}
    costs = costs_of(model, device, lanes, misses_from, None, hybrid)
    return _estimate(model, device, costs, number, overlap, hit_rate, bytes_per_token, compute_ms)


def _estimate(
    model: SizedModel, device: Device, costs: Costs, number: dict[str, Any], overlap: str, hits: float | None,
    read: float | None, compute_ms: float | None,
) -> Estimate:  # fmt: skip
    batch, context, many = number["batch"], number["context"], number.get("steps", STEPS)
    lookups = distinct_experts(model.experts, model.top_k, batch)
    all_bytes = lookups * sum(model.expert_bytes) / batch  # per token, if nothing is cached
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
    times = run(costs, steps, reads, overlap, compute_ms)
    if share < 1:
        without = run(costs, steps, Reads.of(costs, np.zeros_like(missing), overlap), overlap, compute_ms)
        times = without.towards(times, share)
        reads = Reads.of(costs, draw(layers, lookups, miss_rate, many)[1], overlap)
    said = {
        "top_k": model.top_k, "batch": batch, "overlap": overlap, "misses_from": costs.misses_from,
        "lanes": next((int(lanes) for lanes in costs.lanes if lanes), None),
        "context": context, "compute_ms": compute_ms, "cpu_share": times.cpu_share,
        "cpu_moe_layers": number.get("cpu_moe_layers"), "gpu_moe_layers": number.get("gpu_moe_layers"),
    }  # fmt: skip
    return Estimate(model, device, said, 1.0 - miss_rate, read_bytes, times, costs, reads)


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
