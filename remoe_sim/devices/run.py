"""Run counted misses on a device: which device and model, and how long each step takes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.devices.band import Band, band_around
from remoe_sim.devices.costs import Costs, costs_of
from remoe_sim.devices.device import Device
from remoe_sim.devices.doubts import NO_CARD
from remoe_sim.devices.fits import Fit, beside_experts, fit_of
from remoe_sim.devices.fits import cache_bytes as cache_bytes_of
from remoe_sim.devices.hybrid import Hybrid
from remoe_sim.devices.machine import machine
from remoe_sim.devices.mapped import CACHED, MAPPED, RESIDENT, Faults, Pages, check_residency, page_bytes, page_faults
from remoe_sim.devices.measured_tpot import Scale, check_measured, scale_to
from remoe_sim.devices.steps import Counts, Reads, Steps
from remoe_sim.devices.timeline import DEFAULT_OVERLAP, Log, Times, check_overlap, log, run, with_compute
from remoe_sim.devices.what_if import limited_by
from remoe_sim.models.model import model as find_model
from remoe_sim.models.sizes import SizedModel
from remoe_sim.trace.accesses import DECODE_LOOKUP, PREFILL_LOOKUP
from remoe_sim.trace.trace import PREFILL, Trace
from remoe_sim.util.cards import card_names
from remoe_sim.util.units import MOST_LANES, MOST_TOKENS, parse_count, parse_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from remoe_sim.devices.engine import Engine
    from remoe_sim.devices.host import Host
    from remoe_sim.devices.step_counts import StepCounts
    from remoe_sim.devices.storage import Storage
    from remoe_sim.trace.accesses import Tokens
    from remoe_sim.util.arrays import Longs

MOST_PAIRS = 2_000_000  # of steps and MoE layers by which it is told what limits a run
TENSORS = 3  # gate, up and down, taken as equally large


def model_of_trace(trace: Trace) -> SizedModel | None:
    """The sizes that a trace knows; None if it does not know those of its experts and of its dense layers."""
    known = trace.model
    if known.expert_bytes is None or known.dense_bytes is None or len(set(known.experts)) > 1:
        return None
    layers = len(known.dense_bytes)
    tensors = tuple((size - 2 * (size // TENSORS), size // TENSORS, size // TENSORS) for size in known.expert_bytes)
    return SizedModel(
        name=known.name or "unnamed",
        title=known.name or "unnamed model",
        quant=known.quant or "",
        layers=layers,
        moe_layers=trace.layer_numbers,
        experts=known.experts[0],
        top_k=max(known.top_k),
        hidden_size=0,
        expert_intermediate=0,
        vocabulary=0,
        tied_embeddings=False,
        expert_tensor_bytes=tensors,
        expert_bytes=known.expert_bytes,
        shared_expert_bytes=(0,) * trace.moe_layers,
        dense_bytes=known.dense_bytes,
        resident_bytes=known.dense_bytes,
        head_bytes=0,
        embedding_bytes=0,
        kv_bytes_per_token=(None,) * layers,
        kv_window_tokens=(None,) * layers,
        state_bytes=(0,) * layers,
        expert_flops=0.0,
        dense_flops=(0.0,) * layers,
        head_flops=0.0,
        parameters=0,
        active_parameters=0,
        published_parameters=None,
        published_active_parameters=None,
        total_bytes=sum(known.dense_bytes) + sum(size * known.experts[0] for size in known.expert_bytes),
        routed_bytes=sum(size * known.experts[0] for size in known.expert_bytes),
        status="derived",
        source="sizes in the trace",
        unknown=(NO_CARD,),
        unverified=(),
        assumptions=(),
        notes=(),
    )


_QUANTS = r"(ud-)?(q\d_k_[sml]|q\d_k|q\d_[01]|iq\d_\w+?|mxfp4|nvfp4|bf16|fp16|fp8|int8)(?=$|\W)"


@dataclass(frozen=True, kw_only=True)
class RunsOn:
    """What a call runs on, and whose sizes it takes; `asked` and `of` check it.

    model, quant: None for what the name of the trace says
    lanes: reads in flight, None for the number of the device
    context: tokens that attention reads, None for the positions of the trace
    compute_ms: measured computing time per token, None for the modelled one
    misses_from: where missing experts are, None for the nearest place that the device has
    hybrid: what the CPU computes
    measured_ms: what a token took on this machine, to which modelled times are scaled, None if nobody measured
    residency: what holds the weights (`remoe_sim.devices.mapped`); pages: of mapped ones
    """

    device: Device
    model: str | Path | SizedModel | None = None
    quant: str | None = None
    overlap: str = DEFAULT_OVERLAP
    lanes: int | None = None
    context: int | None = None
    compute_ms: float | None = None
    misses_from: str | None = None
    hybrid: Hybrid = field(default_factory=Hybrid)
    measured_ms: float | None = None
    residency: str = CACHED
    pages: Pages = field(default_factory=Pages)

    @classmethod
    def asked(cls, *, device: str | Path | Device | None = None, **others: Any) -> RunsOn | None:
        """Check what was given, None standing for "not given".

        Returns None without a device, and then raises ValueError if any of the others was given.
        """
        if device is not None:
            return cls.of(device=device, **others)
        if any(one is not None for one in others.values()):
            raise ValueError("model, quant, overlap and what else makes times go with --device; name one")
        return None

    @classmethod
    def of(
        cls,
        *,
        device: str | Path | Device,
        host: str | Path | Host | None = None,
        storage: str | Path | Storage | None = None,
        engine: str | Path | Engine | None = None,
        model: str | Path | SizedModel | None = None,
        quant: str | None = None,
        overlap: str | None = None,
        lanes: int | str | None = None,
        context: int | str | None = None,
        compute_ms: float | str | None = None,
        misses_from: str | None = None,
        cpu_share: float | str | None = None,
        cpu_moe_layers: int | str | None = None,
        gpu_moe_layers: int | str | None = None,
        residency: str | None = None,
        page_rule: str | None = None,
        page_memory: int | str | None = None,
        fault_threads: int | str | None = None,
        measured_tpot: float | str | None = None,
    ) -> RunsOn:
        """Check what was given with a device; ValueError for what is not possible."""
        on = machine(device, host, storage, engine)
        where = check_residency(residency, on, misses_from)
        pages = Pages.of(where, page_rule, page_memory, fault_threads)
        lanes = None if lanes is None else parse_count(lanes, "lanes", most=MOST_LANES)
        if lanes == 0:
            raise ValueError("lanes 0 are not possible; give a whole number from 1")
        return cls(
            device=on,
            model=model,
            quant=quant,
            overlap=check_overlap(overlap),
            lanes=lanes,
            context=None if context is None else parse_count(context, "context", most=MOST_TOKENS),
            compute_ms=None if compute_ms is None else parse_number(compute_ms, "compute time in ms"),
            misses_from="storage" if where == MAPPED else misses_from,
            hybrid=Hybrid.of(check_overlap(overlap), misses_from, cpu_share, cpu_moe_layers, gpu_moe_layers),
            measured_ms=check_measured(measured_tpot, compute_ms),
            residency=where,
            pages=pages,
        )

    def sized(self, trace: Trace) -> tuple[Trace, SizedModel]:
        """The trace and its model with the same sizes of experts, as `with_model` gives them."""
        return with_model(trace, self.model, self.quant)

    def timed(
        self, trace: Trace, model: SizedModel, tokens: Tokens, counts: StepCounts, cache_bytes: int = 0
    ) -> list[Timed]:
        """The times of every policy whose misses were counted; cache_bytes: what the cache takes of the memory.

        A measured time is that of the first policy, and the times of the others are scaled alike.
        """
        found = self._modelled(trace, model, tokens, counts, cache_bytes)
        if self.measured_ms is None or not found or found[0].times.tpot_ms is None:
            return found
        first = found[0]
        scale = scale_to(self.measured_ms, first.costs, lambda costs: replace(first, costs=costs).mean_ms)
        return [replace(one, costs=scale.of(one.costs), scale=scale) for one in found]

    def _modelled(
        self, trace: Trace, model: SizedModel, tokens: Tokens, counts: StepCounts, cache_bytes: int
    ) -> list[Timed]:
        costs = self.costs(trace, model)
        steps = self.steps(trace, tokens, counts.needed)
        if self.residency != CACHED:
            reads = Reads.of(costs, np.zeros_like(counts.needed))
            if self.residency == RESIDENT:
                return [Timed(self, model, costs, steps, reads) for _ in counts.missed]
            held = page_bytes(self.pages, self.device, model, steps, cache_bytes)
            found = [page_faults(self.pages, self.device, model, held, *one) for one in counts.accesses()]
            return [Timed(self, model, costs, steps, reads, faults) for faults in found]
        cached = [Reads.of(costs, missed, self.overlap) for missed in counts.missed]
        return [Timed(self, model, costs, steps, one) for one in cached]

    def costs(self, trace: Trace, model: SizedModel) -> Costs:
        """What the parts of a step cost."""
        return costs_of(model, self.device, self.lanes, self.misses_from, max(trace.model.top_k), self.hybrid)

    def steps(self, trace: Trace, tokens: Tokens, needed: Counts) -> Steps:
        """What every step has to do; prompts are those that are counted, turn by turn."""
        rows = np.arange(trace.tokens) if tokens.rows is None else tokens.rows
        kinds, count = tokens.kinds, np.diff(tokens.starts)
        of_token = np.repeat(np.arange(tokens.n_steps), count)
        request, position = trace.request[rows], trace.position[rows]
        decode = np.bincount(of_token, kinds == DECODE_LOOKUP, tokens.n_steps).astype(np.int64)
        cached, requests = self._cached(of_token, request, position, tokens.n_steps)
        return Steps(count, cached, decode, needed, _prompts(trace, rows, of_token, kinds), requests)

    def _cached(self, of_token: Longs, request: np.ndarray, position: np.ndarray, n_steps: int) -> tuple[Longs, int]:
        """Cached tokens that attention reads in each step, up to the last of each request; the most requests of one."""
        last = np.lexsort((position, request, of_token))
        ends = np.ones(last.size, np.bool_)  # the last token of a request in a step
        ends[:-1] = (np.diff(of_token[last]) != 0) | (np.diff(request[last]) != 0)
        last = last[ends]
        reach = position[last].astype(np.int64) + 1 if self.context is None else np.full(last.size, self.context)
        requests = int(np.bincount(of_token[last], minlength=1).max())
        return np.bincount(of_token[last], reach, n_steps).astype(np.int64), requests


def with_model(trace: Trace, model: str | Path | SizedModel | None, quant: str | None) -> tuple[Trace, SizedModel]:
    """The trace and its model with the same sizes of experts: those of a quantisation that was asked for, else those
    that the trace knows, else those of the card.

    model, quant: None for what the name of the trace says. Raises ValueError if there is no card for the model,
    TraceError if the card does not fit the trace.
    """
    sized = model_of(trace, model, quant)
    if len(sized.moe_layers) != trace.moe_layers or any(e > sized.experts for e in trace.model.experts):
        raise trace.error(
            f"it has {trace.moe_layers} MoE layers of {max(trace.model.experts)} experts, but model '{sized.name}' "
            f"has {len(sized.moe_layers)} of {sized.experts}; name the right one with --model"
        )
    known = trace.model.expert_bytes
    if known is None or quant is not None:
        return trace.with_sizes(list(sized.expert_bytes)), sized
    return trace, replace(sized, expert_bytes=known)


def model_of(trace: Trace, given: str | Path | SizedModel | None, quant: str | None) -> SizedModel:
    """The model that was given, or that the trace's name says, in a quantisation; TraceError where none is known."""
    if isinstance(given, SizedModel):
        return given
    spoken = re.sub(r"[\s_/]+", "-", " ".join(filter(None, (trace.model.name, trace.model.quant))).lower())
    name = given or max((card for card in card_names("model") if card in spoken), key=len, default=None)
    if name is None:
        own = model_of_trace(trace) if quant is None else None
        if own is not None:
            return own
        raise trace.error(
            f"its model ('{trace.model.name or 'unnamed'}') has no card of that name; name one that 'remoe-sim "
            "list models' shows, or your own card, config.json or GGUF file, with --model"
        )
    if quant is None and Path(name).suffix != ".gguf":
        found = re.search(_QUANTS, spoken.replace("-k-", "_k_"))
        quant = found[2] if found else None
    return find_model(name, quant)


def _prompts(trace: Trace, rows: Longs, of_token: Longs, kinds: np.ndarray) -> Longs:
    """int64[turns, 2]: first and last step of the prompt of each turn, request by request, in the order of execution.

    A prompt is a run of prefill tokens of a request, up to its next decode token; those that are not counted from their
    first token on are left out. rows, of_token, kinds: of the tokens that take part, their rows, steps and kinds.
    """
    order = np.argsort(trace.request, kind="stable")
    request, prefill = trace.request[order], trace.phase[order] == PREFILL
    begins = prefill.copy()
    begins[1:] &= (request[1:] != request[:-1]) | ~prefill[:-1]
    turn = np.empty(order.size, np.int64)
    turn[order] = np.cumsum(begins)
    own = trace.phase[rows] == PREFILL
    turns, steps, counted = turn[rows][own], of_token[own], kinds[own] == PREFILL_LOOKUP
    if not turns.size:
        return np.zeros((0, 2), np.int64)
    order = np.argsort(turns, kind="stable")
    begins = np.flatnonzero(np.diff(turns[order], prepend=-1))
    first, last = order[begins], order[np.append(begins[1:], order.size) - 1]
    prompts: Longs = np.stack([steps[first], steps[last]], axis=1)[counted[first]]
    return prompts


@dataclass(frozen=True)
class Timed:
    """The times of one policy, and what it takes to log its events."""

    run: RunsOn
    model: SizedModel
    costs: Costs
    steps: Steps
    reads: Reads
    faults: Faults | None = None
    scale: Scale | None = None

    @property
    def requests(self) -> int:
        """The most requests of a step."""
        return self.steps.requests

    @property
    def beside(self) -> int:
        """Bytes that the device keeps next to experts, at the longest context of a step."""
        return beside_experts(self.model, int(self.steps.kv_tokens.max(initial=0)), self.requests)

    def fit(self, capacity: Mapping[str, int]) -> Fit:
        """Whether that fits with a cache, its limit given as results state it."""
        cache = cache_bytes_of(self.model, capacity)
        return fit_of(self.run.device, self.model, self.beside, cache, self.costs.misses_from)

    @property
    def mean_ms(self) -> float:
        """Mean time per output token; 0 without decode tokens."""
        tpot = self.times.tpot_ms
        return 0.0 if tpot is None else tpot["mean"]

    @cached_property
    def limits(self) -> tuple[str, dict[str, float]] | None:
        """The term without which a token would take least, and the ms that each saves if it alone took no time; of the
        first steps of a long run. None without decode tokens."""
        count = max(1, MOST_PAIRS // max(self.steps.needed.shape[1], 1))
        few = self if count >= self.steps.tokens.size else self._first(count)
        if few.times.tpot_ms is None:
            return None
        on = self.run
        costs = with_compute(few.costs, few.steps, few.reads, on.overlap, on.compute_ms)
        bare = replace(few, run=replace(on, compute_ms=None), faults=None)
        waits = few.mean_ms - replace(few, faults=None).mean_ms
        return limited_by(costs, lambda one: replace(bare, costs=one).mean_ms, waits)

    def _first(self, count: int) -> Timed:
        """The same of the first steps."""
        faults = self.faults
        if faults is not None:
            faults = replace(faults, seconds=faults.seconds[:count])
        return replace(self, steps=self.steps.first(count), reads=self.reads.first(count), faults=faults)

    @cached_property
    def times(self) -> Times:
        times = run(self.costs, self.steps, self.reads, self.run.overlap, self.run.compute_ms)
        return times if self.faults is None else times.waiting(self.faults.seconds)

    @property
    def band(self) -> Band | None:
        """Where 80 % of comparable measured runs were around the mean, in ms; None without decode tokens."""
        tpot = self.times.tpot_ms
        if tpot is None:
            return None
        known = self.run.compute_ms or self.run.measured_ms
        return band_around(tpot["mean"], self.run.device, self.costs, self.reads, known)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what nobody has checked or what is not known."""
        remark = None if self.band is None else self.band.remark
        faults = () if self.faults is None else self.faults.notes
        return (*self.costs.notes, *faults, *([remark] if remark else []))

    @property
    def late_in_decode(self) -> Longs:
        """int64[MoE layers]: experts read ahead that came late, in steps with counted decode tokens."""
        late: Longs = self.times.late[self.steps.decode > 0].sum(axis=0)
        return late

    def log(self, first: int) -> Log:
        """The events of the first steps."""
        return log(self.costs, self.steps, self.reads, self.run.overlap, first)

    def to_dict(self) -> dict[str, Any]:
        """What was timed; the times are beside it."""
        lanes = next((int(lanes) for lanes in self.costs.lanes if lanes), None)
        return {
            "device": self.run.device.name, **self.run.device.parts,
            "model": self.model.name, "quant": self.model.quant, "overlap": self.run.overlap,
            "misses_from": self.costs.misses_from, "cpu_share": self.times.cpu_share, **self.run.hybrid.placement,
            "lanes": lanes, "context": self.run.context, "compute_ms": self.run.compute_ms, "notes": list(self.notes),
            "limited_by": None if self.limits is None else self.limits[0],
            "saved_without_ms": None if self.limits is None else self.limits[1],
            "scaled": None if self.scale is None else self.scale.to_dict(),
            "residency": self.run.residency,
            "pages": None if self.faults is None else self.faults.to_dict(self.steps.decode),
        }  # fmt: skip
