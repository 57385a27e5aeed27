"""What the parts of a loaded model weigh, counted in its own tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoe_sim.capture.routers import Router, decoder_of, text_config
from remoe_sim.trace.trace import Model

_NAMES = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}


@dataclass(frozen=True)
class ModelFacts:
    """The model as a trace describes it, what its source is called, and sentences on what is not known."""

    model: Model
    path: str
    notes: tuple[str, ...]


def weigh(model: Any, routers: Sequence[Router], top_k: tuple[int, ...]) -> ModelFacts:
    """Sizes as loaded: of one expert per MoE layer, and of what a token reads of each layer besides routed experts."""
    config = text_config(model)
    name = str(getattr(model.config, "name_or_path", "") or getattr(config, "model_type", type(model).__name__))
    if Path(name).exists():
        name = Path(name).resolve().name
    experts = [_Experts(router) for router in routers]
    layers = getattr(config, "num_hidden_layers", None)
    matrices = [one.bytes for one in experts]
    known = all(size and size % one.count == 0 for size, one in zip(matrices, experts, strict=True))
    about = Model(
        experts=tuple(router.experts for router in routers),
        top_k=top_k,
        name=name,
        layers=layers,
        expert_bytes=tuple(size // one.count for size, one in zip(matrices, experts, strict=True)) if known else None,
        dense_bytes=_dense(model, layers, routers, experts, top_k) if known and layers else None,
        quant=_quant(model, experts) if known else None,
    )
    notes = "sizes are those of the weights as loaded" if known else "sizes are unknown: weights of experts not found"
    return ModelFacts(about, name.rpartition("/")[2], (notes,))


class _Experts:
    """The tensors of a layer's routed experts: bytes of all their matrices, and of their biases, which a token reads
    with the rest of the layer."""

    def __init__(self, router: Router) -> None:
        self.count = router.experts
        self.tensors = [] if router.weights is None else list(_tensors(router.weights).values())
        fused = not hasattr(router.weights, "__len__")  # else a module for each expert
        self.matrices = [one for one in self.tensors if one.dim() >= 2 + fused]
        self.bytes = sum(map(_bytes, self.matrices))
        self.biases = sum(map(_bytes, self.tensors)) - self.bytes


def _dense(
    model: Any, layers: int, routers: Sequence[Router], experts: Sequence[_Experts], top_k: tuple[int, ...]
) -> tuple[int, ...] | None:
    prefix = routers[0].name.partition(f".{routers[0].layer}.")[0]
    try:
        blocks = list(decoder_of(model).get_submodule(prefix))
    except (AttributeError, TypeError):
        return None
    if len(blocks) != layers:
        return None
    dense = [sum(map(_bytes, _tensors(block).values())) for block in blocks]
    for router, one, k in zip(routers, experts, top_k, strict=True):
        dense[router.layer] -= one.bytes + one.biases - one.biases * k // one.count
    return tuple(dense)


def _tensors(module: Any) -> dict[str, Any]:
    values: dict[str, Any] = module.state_dict(keep_vars=True)
    return {name: one for name, one in values.items() if hasattr(one, "element_size")}


def _bytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def _quant(model: Any, experts: Sequence[_Experts]) -> str:
    quantised = getattr(model.config, "quantization_config", None)
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
        return str(getattr(method, "value", method))
    kind = str(experts[0].matrices[0].dtype)
    return _NAMES.get(kind, kind.removeprefix("torch."))
