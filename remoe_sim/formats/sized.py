"""A trace with the sizes of a model in a quantisation, where its layers are those of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoe_sim.trace.trace import Model, Trace

if TYPE_CHECKING:
    from remoe_sim.models.sizes import SizedModel


def find_sized(given: Any, quant: str | None) -> SizedModel | Model | None:
    """The model that was given by name, by file or as an object; ValueError for another type.

    A name without a quantisation says nothing of sizes: `with_sizes_of` takes none of it.
    """
    if given is None or isinstance(given, Model):
        if quant is not None:
            raise ValueError(f"quant '{quant}' goes with a model by name; give its name as model")
        return given
    if hasattr(given, "expert_bytes") and hasattr(given, "moe_layers"):
        found: SizedModel = given
        return found
    if not isinstance(given, str | Path):
        raise ValueError(f"model is of type {type(given).__name__}; give a name, a file or a remoe_sim.model")
    from remoe_sim.models.model import model

    sized = model(given, quant)
    if quant is None and Path(given).suffix.lower() != ".gguf":
        return replace(sized, expert_bytes=(), dense_bytes=(), quant="")
    return sized


def with_sizes_of(trace: Trace, known: SizedModel | Model, *, positions: bool = False) -> Trace:
    """The trace with what is known of its model; TraceError where layers or experts do not fit.

    positions: the layers of the trace are numbered from 0 for want of numbers, and take those of the model.
    """
    if isinstance(known, Model):
        sizes = known.expert_bytes
        if sizes is not None and len(sizes) == 1:
            sizes = sizes * trace.moe_layers
        experts = known.experts if len(known.experts) == trace.moe_layers else trace.model.experts
        about = replace(known, experts=experts, top_k=trace.model.top_k, expert_bytes=sizes, every=())
        return replace(trace, model=about)
    numbers = trace.layer_numbers
    if len(numbers) == len(known.moe_layers) and (positions or numbers == tuple(range(len(numbers)))):
        numbers = known.moe_layers
    if not set(numbers) <= set(known.moe_layers) or max(trace.model.experts) > known.experts:
        raise trace.error(
            f"it has {trace.moe_layers} MoE layers of {max(trace.model.experts)} experts, but model '{known.name}' has "
            f"{len(known.moe_layers)} of {known.experts}; name the right model"
        )
    at = {number: index for index, number in enumerate(known.moe_layers)}
    sizes = tuple(known.expert_bytes[at[number]] for number in numbers) if known.expert_bytes else None
    about = replace(
        trace.model,
        experts=(known.experts,) * len(numbers),
        name=trace.model.name or known.name,
        layers=known.layers,
        expert_bytes=sizes or trace.model.expert_bytes,
        dense_bytes=known.dense_bytes or trace.model.dense_bytes,
        quant=known.quant or trace.model.quant,
    )
    return replace(trace, layer_numbers=numbers, model=about)


def with_expert_bytes(trace: Trace, sizes: tuple[int, ...] | None) -> Trace:
    """The trace with one size for all MoE layers or one for each; the same for None."""
    if sizes is None:
        return trace
    if len(sizes) not in (1, trace.moe_layers):
        raise ValueError(
            f"expert_bytes has {len(sizes)} sizes for {trace.moe_layers} layers; give one, or one for each"
        )
    return trace.with_sizes(sizes * trace.moe_layers if len(sizes) == 1 else sizes)
