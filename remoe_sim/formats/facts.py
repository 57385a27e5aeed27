"""What a file says of its model next to the routing, under the names that people use, and whether that agrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from remoe_sim.formats.columns import plain
from remoe_sim.trace.trace import MOST_EXPERTS, MOST_LAYERS

if TYPE_CHECKING:
    from remoe_sim.formats.source import Source
    from remoe_sim.trace.trace import Trace

_EXPERTS = (
    "num_experts", "n_experts", "experts_per_layer", "num_routed_experts", "n_routed_experts", "num_local_experts",
    "n_expert", "expert_count", "n_expert_per_layer",
)  # fmt: skip
_TOP_K = (
    "top_k", "topk", "experts_per_token", "num_experts_per_tok", "num_experts_per_token", "router_top_k",
    "n_expert_used", "num_selected_experts",
)  # fmt: skip
_NAMES = ("model_id", "model_name", "hf_model_id", "model")
_MOE_LAYERS = ("num_moe_layers", "n_moe_layers", "moe_layers")
_ROWS = ("num_entries", "n_entries", "num_rows", "num_records", "n_records")


@dataclass(frozen=True)
class StatedFacts:
    """experts and top_k of each MoE layer, name of the model, how many MoE layers and how many rows there are; None
    for what is not said."""

    experts: int | None = None
    top_k: int | None = None
    name: str | None = None
    moe_layers: int | None = None
    rows: int | None = None

    def checked(self, source: Source, trace: Trace) -> Trace:
        """The trace with its model's name; TraceError where the file says other numbers than it holds."""
        for what, stated, found in (
            ("experts per token", self.top_k, set(trace.model.top_k)),
            ("MoE layers", self.moe_layers, {trace.moe_layers}),
        ):
            if stated is not None and found != {stated}:
                there = " and ".join(map(str, sorted(found)))
                raise source.error(f"it says {stated} {what}, but its routing has {there}; record it again")
        return replace(trace, model=replace(trace.model, name=self.name)) if self.name else trace


def facts_of(fields: Mapping[str, Any]) -> StatedFacts:
    """What an object says of the model; numbers that are not possible are left out."""
    named = {plain(name): value for name, value in fields.items()}

    def number(names: tuple[str, ...], most: int) -> int | None:
        values = (named.get(name) for name in names)
        return next((one for one in values if type(one) is int and 0 < one <= most), None)

    names = (named.get(name) for name in _NAMES)
    return StatedFacts(
        number(_EXPERTS, MOST_EXPERTS),
        number(_TOP_K, MOST_EXPERTS),
        next((one for one in names if isinstance(one, str) and one), None),
        number(_MOE_LAYERS, MOST_LAYERS),
        number(_ROWS, 2**62),
    )


def has_facts(fields: Mapping[str, Any]) -> bool:
    """Whether an object says something of a model."""
    return facts_of(fields) != StatedFacts()
