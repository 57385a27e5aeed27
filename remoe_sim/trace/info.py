"""What is in a trace and how its model routes, in one object: `info`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.kernels.predictors import count_foreseen
from remoe_sim.trace.metrics import SPANS, WINDOWS, LayerStatistics, WorkingSet, layer_statistics
from remoe_sim.trace.sources import layers_stage
from remoe_sim.trace.trace import DECODE, Model, Trace
from remoe_sim.util.display import stamp
from remoe_sim.util.units import format_bytes, rate

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "remoe-sim.info.v1"
PerLayer = int | list[int]  # one number, or one per MoE layer where layers differ


@dataclass(frozen=True)
class WindowReuse:
    """Slots of decode tokens, over all layers: how many are wanted, and how many the last `window` tokens shared."""

    window: int
    shared: int
    wanted: int
    reuse_rate: float | None


@dataclass(frozen=True)
class WorkingSetSize:
    """Whole windows of `window` decode tokens of one request, over all layers, and their distinct experts, the mean."""

    window: int
    windows: int
    mean_experts: float | None


@dataclass(frozen=True)
class LayerInfo:
    """The facts of one MoE layer: counts are integers, rates fractions of one, None where not defined.

    reuse_rate, reuse_rate_w8: with the last token, and with the last 8; working_set_16, working_set_16_windows and so
    on: distinct experts of a window of 16 decode tokens, on average, and how many whole windows there are. The rest is
    as in `Info`.
    """

    layer: int
    experts: int
    top_k: int
    expert_bytes: int | None
    decisions: int
    null_decisions: int
    dropped_slots: int
    slots: int
    decode_slots: int
    shared: int
    wanted: int
    reuse_rate: float | None
    reuse_rate_w2: float | None
    reuse_rate_w4: float | None
    reuse_rate_w8: float | None
    routing_entropy: float | None
    routing_entropy_normalised: float | None
    load_balance_cv: float | None
    distinct_experts: int
    popularity_top10_slots: int
    popularity_top10_share: float | None
    streaks: int
    mean_streak: float | None
    working_set_16: float | None
    working_set_16_windows: int
    working_set_64: float | None
    working_set_64_windows: int
    working_set_256: float | None
    working_set_256_windows: int


@dataclass(frozen=True)
class AheadRecall:
    """How much of what a layer's tokens chose its router said `distance` MoE layers earlier: foreseen / wanted.

    layer: whose experts; wanted, foreseen: chosen experts of all tokens that have a look-ahead, and how many of them it
    named; by_rank: the recall of the first choice, of the second, and so on.
    """

    distance: int
    layer: int
    wanted: int
    foreseen: int
    recall: float | None
    by_rank: list[float | None]


@dataclass(frozen=True)
class Info:
    """The facts of a trace, over all MoE layers; `layers` has the same per layer. None where something is not defined.

    experts, top_k, expert_bytes: of a layer (bytes of one expert), a list where layers differ; total_expert_bytes: all
    experts of all layers; token_cycle_bytes: what one decode token touches, Σ k · expert_bytes.
    decisions, null_decisions, slots, decode_slots, dropped_slots: summed over layers; slots are the non-null ones.
    reuse_rate, and reuse for several windows: Σ shared / Σ wanted over layers (see `remoe_sim.reuse`).
    reuse_rate_by_request: the mean over requests of adjacent reuse, Σ shared / Σ wanted over the layers of one request;
    reuse_requests: how many requests that is, those with two adjacent decode tokens.
    routing_entropy (in nats), routing_entropy_normalised (by ln E), load_balance_cv: the mean over layers that have any
    slot, since experts of different layers cannot be pooled.
    distinct_experts: pairs of layer and expert that were chosen at least once.
    popularity_top10_share: popularity_top10_slots / slots, the slots that the ⌈E / 10⌉ most used experts of each layer
    (each layer has its own) take.
    mean_streak: decode_slots / streaks, tokens that an expert stays chosen for; streaks: how many such runs there are.
    working_set: per window of so many decode tokens of one request, how many whole windows there are, summed over
    layers, and the distinct experts of one, on average over all of these windows.
    ahead: recall of the look-ahead choices, for each distance and layer; empty, and not in the JSON, where the trace
    has none.
    """

    path: str
    model: str | None
    tokens: int
    requests: int
    steps: int
    phases: dict[str, int]
    moe_layers: int
    experts: PerLayer
    top_k: PerLayer
    expert_bytes: PerLayer | None
    total_expert_bytes: int | None
    token_cycle_bytes: int | None
    decisions: int
    null_decisions: int
    dropped_slots: int
    slots: int
    decode_slots: int
    reuse_rate: float | None
    reuse_rate_by_request: float | None
    reuse_requests: int
    reuse: list[WindowReuse]
    routing_entropy: float | None
    routing_entropy_normalised: float | None
    load_balance_cv: float | None
    distinct_experts: int
    popularity_top10_slots: int
    popularity_top10_share: float | None
    streaks: int
    mean_streak: float | None
    working_set: list[WorkingSetSize]
    notes: str
    source: dict[str, Any]
    layers: list[LayerInfo]
    ahead: list[AheadRecall] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `remoe-sim info --json`, as plain Python objects."""
        facts = asdict(self)
        if not self.ahead:
            del facts["ahead"]
        return {**stamp(SCHEMA), **facts}

    def to_frame(self) -> pd.DataFrame:
        """One row per MoE layer."""
        import pandas as pd

        return pd.DataFrame(self.layers)

    def facts(self) -> list[tuple[str, str]]:
        """Pairs of a name and a value as people read them, without the layers."""
        return list(_facts(self))

    def __repr__(self) -> str:
        return "\n".join(f"{name:<24} {value}" for name, value in self.facts())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(n)}</th><td>{escape(v)}</td></tr>" for n, v in self.facts()
        )
        return f"<table>{rows}</table>{self.to_frame().to_html(index=False, na_rep='', float_format='%.4g')}"


def info(trace: Trace) -> Info:
    """The facts of a trace: sizes, phases, expert reuse, and how evenly and how steadily experts are used.

    Every layer is read once, so memory is bounded by one layer of the trace per processor.
    """
    with layers_stage("measuring", trace):
        return info_of(trace, list(layer_statistics(trace)))


def info_of(trace: Trace, layers: Sequence[LayerStatistics]) -> Info:
    """The same from statistics of all layers that are known already."""
    model, sizes = trace.model, trace.model.expert_bytes
    decode = int(np.count_nonzero(trace.phase == DECODE))
    wanted = sum(layer.reuse.wanted for layer in layers)
    shares = [sum(layer.reuse.shared[at] for layer in layers) for at in range(len(WINDOWS))]
    reuse = [
        WindowReuse(width, shared, wanted, rate(shared, wanted)) for width, shared in zip(WINDOWS, shares, strict=True)
    ]
    shared, asked = np.sum([layer.reuse.by_request for layer in layers], axis=0).T
    slots = sum(layer.slots for layer in layers)
    decode_slots = sum(layer.reuse.decode_slots for layer in layers)
    top10_slots = sum(layer.top10_slots for layer in layers)
    streaks = sum(layer.streaks for layer in layers)
    return Info(
        path=trace.path,
        model=model.name,
        tokens=trace.tokens,
        requests=trace.requests,
        steps=int(np.count_nonzero(np.diff(trace.step))) + (trace.tokens > 0),
        phases={"prefill": trace.tokens - decode, "decode": decode},
        moe_layers=trace.moe_layers,
        experts=_one_or_all(model.experts),
        top_k=_one_or_all(model.top_k),
        expert_bytes=None if sizes is None else _one_or_all(sizes),
        total_expert_bytes=None if sizes is None else _products(model.experts, sizes),
        token_cycle_bytes=None if sizes is None else _products(model.top_k, sizes),
        decisions=sum(layer.decisions for layer in layers),
        null_decisions=sum(layer.null_decisions for layer in layers),
        dropped_slots=sum(layer.dropped_slots for layer in layers),
        slots=slots,
        decode_slots=decode_slots,
        reuse_rate=reuse[0].reuse_rate,
        reuse_rate_by_request=_mean((shared[asked > 0] / asked[asked > 0]).tolist()),
        reuse_requests=int(np.count_nonzero(asked)),
        reuse=reuse,
        routing_entropy=_mean(layer.routing_entropy for layer in layers),
        routing_entropy_normalised=_mean(layer.routing_entropy_normalised for layer in layers),
        load_balance_cv=_mean(layer.load_balance_cv for layer in layers),
        distinct_experts=sum(layer.distinct_experts for layer in layers),
        popularity_top10_slots=top10_slots,
        popularity_top10_share=rate(top10_slots, slots),
        streaks=streaks,
        mean_streak=rate(decode_slots, streaks),
        working_set=[_working_set(span, [layer.working_sets[at] for layer in layers]) for at, span in enumerate(SPANS)],
        notes=trace.notes,
        source=trace.origin,
        layers=[_layer(model, trace.layer_numbers[layer.index], layer) for layer in layers],
        ahead=_ahead(trace),
    )


def _ahead(trace: Trace) -> list[AheadRecall]:
    found = []
    for distance in range(1, trace.most_ahead + 1):
        for target in range(distance, trace.moe_layers):
            named = trace.ahead(target - distance, distance)
            if named is None:
                continue
            chosen = trace.decisions(target)
            wanted, foreseen = np.zeros((2, trace.model.top_k[target]), np.int64)
            marks = np.full(trace.model.experts[target], -1, np.int64)
            count_foreseen(named.experts, named.mask, chosen.experts, chosen.mask, marks, wanted, foreseen)
            by_rank = [rate(int(right), int(of)) for right, of in zip(foreseen, wanted, strict=True)]
            of, right = int(wanted.sum()), int(foreseen.sum())
            found.append(AheadRecall(distance, int(trace.layer_numbers[target]), of, right, rate(right, of), by_rank))
    return found


def _layer(model: Model, number: int, layer: LayerStatistics) -> LayerInfo:
    """Collect one entry of `layers`."""
    sets: dict[str, Any] = {}
    for found in layer.working_sets:
        sets[f"working_set_{found.window}"] = found.mean_experts
        sets[f"working_set_{found.window}_windows"] = found.windows
    rates = [rate(shared, layer.reuse.wanted) for shared in layer.reuse.shared]
    return LayerInfo(
        layer=int(number),
        experts=int(model.experts[layer.index]),
        top_k=int(model.top_k[layer.index]),
        expert_bytes=None if model.expert_bytes is None else int(model.expert_bytes[layer.index]),
        decisions=layer.decisions,
        null_decisions=layer.null_decisions,
        dropped_slots=layer.dropped_slots,
        slots=layer.slots,
        decode_slots=layer.reuse.decode_slots,
        shared=layer.reuse.shared[0],
        wanted=layer.reuse.wanted,
        reuse_rate=rates[0],
        reuse_rate_w2=rates[1],
        reuse_rate_w4=rates[2],
        reuse_rate_w8=rates[3],
        routing_entropy=layer.routing_entropy,
        routing_entropy_normalised=layer.routing_entropy_normalised,
        load_balance_cv=layer.load_balance_cv,
        distinct_experts=layer.distinct_experts,
        popularity_top10_slots=layer.top10_slots,
        popularity_top10_share=rate(layer.top10_slots, layer.slots),
        streaks=layer.streaks,
        mean_streak=layer.mean_streak,
        **sets,
    )


def _working_set(span: int, sets: Sequence[WorkingSet]) -> WorkingSetSize:
    windows, distinct = sum(one.windows for one in sets), sum(one.distinct for one in sets)
    return WorkingSetSize(span, windows, rate(distinct, windows))


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are defined."""
    known = [value for value in values if value is not None]
    return rate(sum(known), len(known))


def _one_or_all(values: Sequence[int]) -> PerLayer:
    return int(values[0]) if len(set(values)) == 1 else [int(value) for value in values]


def _products(left: Sequence[int], right: Sequence[int]) -> int:
    return sum(int(a) * int(b) for a, b in zip(left, right, strict=True))


def _facts(info: Info) -> Iterable[tuple[str, str]]:
    """What people see first; every rate with its numerator and denominator."""
    phases = info.phases
    yield "trace", info.path or "in memory"
    yield "model", info.model or "not known"
    yield "tokens", f"{info.tokens:,} ({phases['prefill']:,} prefill, {phases['decode']:,} decode)"
    yield "requests, steps", f"{info.requests:,}, {info.steps:,}"
    yield "MoE layers", f"{info.moe_layers}, each with {_span(info.experts)} experts, top-{_span(info.top_k)}"
    if info.expert_bytes is None or info.total_expert_bytes is None or info.token_cycle_bytes is None:
        yield "expert sizes", "not known"
    else:
        yield "one expert", _sizes(info.expert_bytes)
        yield "all experts", format_bytes(info.total_expert_bytes)
        yield "token cycle", f"{format_bytes(info.token_cycle_bytes)} (what one decode token touches)"
    yield "decisions", f"{info.decisions:,} ({info.null_decisions:,} null; {info.dropped_slots:,} slots dropped)"
    for one in info.reuse:
        name = "reuse, adjacent" if one.window == 1 else f"reuse, last {one.window}"
        yield name, _ratio(one.reuse_rate, one.shared, one.wanted, "decode slots")
        if one.window == 1:
            yield (
                "reuse, by request",
                f"{_number(info.reuse_rate_by_request)} (mean of {_requests(info.reuse_requests)})",
            )
    entropy = (
        "not defined" if info.routing_entropy_normalised is None else f"{info.routing_entropy_normalised:.4f} of ln E"
    )
    yield "routing entropy", f"{entropy} (mean of layers)"
    yield "load balance CV", f"{_number(info.load_balance_cv)} (mean of layers)"
    total = info.experts * info.moe_layers if isinstance(info.experts, int) else sum(info.experts)
    yield "distinct experts", _ratio(rate(info.distinct_experts, total), info.distinct_experts, total, "layer experts")
    yield "top 10 % of experts", _ratio(info.popularity_top10_share, info.popularity_top10_slots, info.slots, "slots")
    yield (
        "mean streak",
        f"{_number(info.mean_streak)} tokens ({info.decode_slots:,} slots in {info.streaks:,} runs)",
    )
    for found in info.working_set:
        experts = "not defined" if found.mean_experts is None else f"{found.mean_experts:.1f} experts"
        yield f"working set, {found.window} tokens", f"{experts} (mean of {found.windows:,} windows in all layers)"
    for distance in sorted({one.distance for one in info.ahead}):
        some = [one for one in info.ahead if one.distance == distance]
        wanted, foreseen = sum(one.wanted for one in some), sum(one.foreseen for one in some)
        yield f"foreseen {distance} ahead", _ratio(rate(foreseen, wanted), foreseen, wanted, "chosen experts")
    if info.notes:
        yield "notes", info.notes
    origin = [str(info.source[key]) for key in ("format", "path") if info.source.get(key)]
    if origin:
        yield "source", ", ".join(origin)


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"


def _requests(count: int) -> str:
    return f"{count:,} request{'s' * (count != 1)}"


def _ratio(value: float | None, numerator: int, denominator: int, what: str) -> str:
    return f"{_number(value)} ({numerator:,} of {denominator:,} {what})"


def _span(value: PerLayer) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{min(value):,} to {max(value):,}"


def _sizes(value: PerLayer) -> str:
    ends = [value] if isinstance(value, int) else [min(value), max(value)]
    return " to ".join(format_bytes(end) for end in ends)
