"""`reroute`: how much a router that prefers cached experts could save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.cache.replay import replay
from remoe_sim.cache.results import ReplayResult, describe
from remoe_sim.cache.settings import known_sizes
from remoe_sim.kernels import reroute as kernels
from remoe_sim.policy.route import DROP, KERNEL_METHODS, Rule
from remoe_sim.trace.accesses import select_tokens
from remoe_sim.trace.holdings import of_decisions
from remoe_sim.trace.reader import as_trace
from remoe_sim.trace.trace import DECODE, Decisions, Trace, TraceLike
from remoe_sim.trace.weights import MOVED, with_ordered_slots
from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.threads import map_layers
from remoe_sim.util.units import plural, rate

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "remoe-sim.reroute.v1"
WARNING = (
    "open loop: later tokens are those of the original routing, so the gain is an upper bound, and what the changed "
    "experts do to the text is not measured"
)


@dataclass(frozen=True, repr=False)
class RerouteReport(Shown):
    """Decode tokens before and after re-routing, under LRU with mandatory admission.

    rule: the method and its settings; decisions, slots: those of decode tokens; changed_slots: replaced or left out;
    lost: float64[decisions], the share of the mass of the chosen experts (probability, or gate weight for `drop`) that
    each decision lost; rerouted: the trace with the new decisions.
    """

    trace: dict[str, Any]
    rule: dict[str, Any]
    decisions: int
    slots: int
    changed_slots: int
    lost: npt.NDArray[np.float64]
    before: ReplayResult
    after: ReplayResult
    rerouted: Trace
    open_loop: bool = True
    warning: str = WARNING

    @property
    def changed_share(self) -> float | None:
        """Changed slots per slot."""
        return rate(self.changed_slots, self.slots)

    @property
    def lost_mass(self) -> dict[str, Any]:
        """Mean and 95th percentile of `lost`, null over nothing, and what was lost."""
        some = self.lost.size > 0
        return {
            "of": "gate weight" if self.rule["method"] == "drop" else "probability",
            "mean": float(self.lost.mean()) if some else None,
            "p95": float(np.quantile(self.lost, 0.95)) if some else None,
        }

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim reroute --json` prints."""
        return {
            **stamp(SCHEMA),
            "trace": self.trace,
            **self.rule,
            "policy": self.before.policy,
            "scope": self.before.scope,
            "admission": self.before.admission,
            "open_loop": self.open_loop,
            "upper_bound": True,
            "warning": self.warning,
            "decisions": self.decisions,
            "slots": self.slots,
            "changed_slots": self.changed_slots,
            "changed_share": self.changed_share,
            "lost_mass": self.lost_mass,
            "before": _counts(self.before),
            "after": _counts(self.after),
        }

    def to_frame(self) -> pd.DataFrame:
        """One row; nested values become columns such as `before_hit_rate`."""
        import pandas as pd

        row: dict[str, Any] = {}
        for name, value in self.to_dict().items():
            if isinstance(value, dict) and name != "trace":
                row.update({f"{name}_{key}": inner for key, inner in value.items()})
            elif name not in ("schema", "trace"):
                row[name] = value
        return pd.DataFrame([row])


def _counts(result: ReplayResult) -> dict[str, Any]:
    """The decode lookups of a result; reads are misses."""
    decode = result.decode
    return {
        **decode.to_dict(),
        "misses": decode.lookups - decode.hits,
        "bytes_read_per_token": result.bytes_read_per_token,
    }


FAULTS = {
    kernels.NO_DISTRIBUTION: "weights or probabilities that are negative, no numbers, or all 0; import the trace again",
    kernels.NOT_THE_LARGEST: "an expert that was not chosen is more probable than one that was, so the router chose by "
    "something that the trace does not have, and re-routing it means nothing; use method drop",
}


def reroute(
    trace: TraceLike,
    cache: int | str,
    method: str = "cache-aware",
    bias: float | str | None = None,
    threshold: float | str | None = None,
    max_rank: int | str | None = None,
    keep: int | str = 1,
    expert_bytes: int | str | Sequence[int] | None = None,
) -> RerouteReport:
    """Re-route the decode tokens of a trace towards an LRU cache of `cache` experts per layer.

    Residents are what a layer's cache holds before the step; prefill tokens fill it but are not re-routed.

    method "cache-aware": the log-probabilities of residents are raised by bias · Δ and the k largest are taken, Δ being
    the mean range of log-probabilities so far in the layer (the cache-prior of Skliar et al., "Mixture of
    Cache-Conditional Experts for Efficient Mobile Device Inference", arXiv 2412.00099). "max-rank", "cumulative" (same
    paper): residents among the `max_rank` most probable experts, or among the most probable that have `threshold` of
    the probability, go first. All three need probs_NN. "drop": an expert that is not resident is left out if it has
    less than threshold / k of its decision's gate weight (as BigMoeOnEdge's --drop-cold-experts); needs weights_NN, or
    probs_NN in their place. The `keep` strongest experts of a decision always stay. bias=0 and threshold=0 change
    nothing.

    The slots of a decision are put in the order of gate weights (or probabilities), so their order in the trace does
    not matter where these differ. The report has the re-routed trace, which replays as any other. Raises ValueError
    for arguments that are not possible, TraceError for a trace that lacks what the method needs.
    """
    rule = Rule.of(method, {"bias": bias, "threshold": threshold, "max_rank": max_rank}, keep, cache)
    trace = as_trace(trace)
    trace = known_sizes(trace, expert_bytes)
    given = trace
    trace, ordered = with_ordered_slots(given)
    changed = Rerouted(trace, rule)
    layers = list(map_layers(changed.changes, trace.moe_layers, changed.layer_bytes))
    after = replace(
        trace,
        source=changed,
        origin={**trace.origin, "reroute": rule.to_dict()},
        notes="; ".join(filter(None, (trace.notes, MOVED if ordered.moved else "", _sentence(rule)))),
    )
    before_result, after_result = (replay(one, cache=rule.cache, policy="lru")["lru"] for one in (trace, after))
    return RerouteReport(
        trace=describe(given),
        rule=rule.to_dict(),
        decisions=sum(layer.lost.size for layer in layers),
        slots=sum(layer.slots for layer in layers),
        changed_slots=sum(layer.changed for layer in layers),
        lost=np.concatenate([layer.lost for layer in layers]),
        before=before_result,
        after=after_result,
        rerouted=after,
    )


def _sentence(rule: Rule) -> str:
    """What was done, for `Trace.notes`."""
    return (
        f"decode tokens re-routed ({rule.in_words()}) towards an LRU cache "
        f"of {plural(rule.cache, 'expert')} per layer, open loop: later tokens are those of the original routing"
    )


@dataclass(frozen=True)
class Changes:
    """What re-routing did to a layer. slots: those of decode tokens; changed: those of them that changed; lost:
    float64[decode decisions], the share of its mass that each lost."""

    slots: int
    changed: int
    lost: npt.NDArray[np.float64]


class Rerouted:
    """The layers of a trace, re-routed when a layer is asked for; kept if the trace keeps its own."""

    def __init__(self, trace: Trace, rule: Rule) -> None:
        self._trace, self._rule = trace, rule
        self._tokens = select_tokens(trace)
        self._kept: dict[int, Decisions] = {}
        self.resident = trace.source.resident

    @property
    def layer_bytes(self) -> int:
        """About what re-routing a layer holds: its decisions twice, scores of all experts, and what changed."""
        trace = self._trace
        width = max(trace.model.top_k if self._rule.method == DROP else trace.model.experts)
        return 2 * of_decisions(trace) + trace.tokens * (width * 6 + 24)

    def decisions(self, index: int) -> Decisions:
        return self._kept[index] if index in self._kept else self.statistics(index)[0]

    def weights(self, index: int) -> npt.NDArray[np.float32] | None:
        """Those of the router where slots were left out; unknown where experts were replaced."""
        return self._trace.source.weights(index) if self._rule.method == DROP else None

    def probs(self, index: int) -> npt.NDArray[np.float16] | None:
        return self._trace.source.probs(index)

    @property
    def most_ahead(self) -> int:
        return self._trace.most_ahead

    def ahead(self, index: int, distance: int) -> Decisions | None:
        return self._trace.ahead(index, distance)

    def changes(self, index: int) -> Changes:
        """What re-routing MoE layer `index` changes."""
        return self.statistics(index)[1]

    def statistics(self, index: int) -> tuple[Decisions, Changes]:
        """Re-route MoE layer `index`."""
        trace, rule, experts = self._trace, self._rule, self._trace.model.experts[index]
        before = trace.decisions(index)
        chosen = before.experts.copy()
        valid = np.ones(chosen.shape, np.bool_) if before.valid is None else before.valid.copy()
        decode = trace.phase == DECODE
        slots = np.count_nonzero(valid, axis=1)
        changed, lost = np.zeros(trace.tokens, np.int64), np.zeros(trace.tokens)
        column, scores = self._scores(index, before)
        rows = kernels.Rows(chosen, valid, decode, self._tokens.starts)
        common = rule.keep, kernels.Cache.empty(rule.cache, experts), kernels.Changed(changed, lost)
        if rule.method == DROP:
            row, fault = kernels.drop_cold(rows, scores, float(rule.amount), *common)
        else:
            row, fault = kernels.prefer_resident(rows, scores, KERNEL_METHODS[rule.method], float(rule.amount), *common)
        if fault:
            raise trace.error(f"row {row}, column '{column}': {FAULTS[fault]}")
        chosen[~valid] = 0
        dropped = rule.method == DROP and changed.any()
        decisions = Decisions(chosen, valid if dropped else before.valid, before.routed)
        if self.resident:
            self._kept[index] = decisions
        return decisions, Changes(int(slots[decode].sum()), int(changed.sum()), lost[decode & (slots > 0)])

    def _scores(self, index: int, before: Decisions) -> tuple[str, npt.NDArray[np.float32]]:
        """What the method goes by, gate weights [tokens, k] or probabilities [tokens, E], and its column."""
        trace, dropping = self._trace, self._rule.method == DROP
        weights, column = trace.source.weights(index) if dropping else None, trace.column(index, "weights")
        if weights is not None:
            return column, self._shaped(column, weights, before.experts.shape[1])
        probs = trace.source.probs(index)
        if probs is None and dropping:
            raise trace.error(f"column '{column}' is missing; method drop needs the gate weights of the chosen experts")
        column = trace.column(index, "probs")
        if probs is None:
            raise trace.error(
                f"column '{column}' is missing; method {self._rule.method} needs the router's whole distribution, "
                "which few captures have; use method drop if there are weights"
            )
        every = self._shaped(column, probs, trace.model.experts[index])
        return column, np.take_along_axis(every, before.experts.astype(np.int64), axis=1) if dropping else every

    def _shaped(self, column: str, values: npt.NDArray[Any], width: int) -> npt.NDArray[np.float32]:
        if values.shape != (self._trace.tokens, width):
            raise self._trace.error(f"column '{column}' has shape {values.shape}, not {(self._trace.tokens, width)}")
        return np.ascontiguousarray(values, np.float32)
