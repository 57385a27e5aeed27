"""The model of a trace that has no card: as far as the trace's own sizes tell."""

from __future__ import annotations

from remoe_sim.model_sizes import SizedModel
from remoe_sim.trace import Trace

TENSORS = 3  # gate, up and down, taken as equally large

NO_CARD = (
    "the model has no card, so its sizes are those of the trace: output head, KV cache and arithmetic are not known "
    "and not counted; name a card with --model to count them"
)


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
