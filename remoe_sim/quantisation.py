"""Quantisations by name: which type each weight of a model is stored in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from remoe_sim.errors import unknown
from remoe_sim.gguf_mixtures import MIXTURES, mixture_types
from remoe_sim.model_shapes import Shape
from remoe_sim.tensor_types import (
    EMBEDDING,
    EXPERT_BIAS,
    HEAD,
    ROUTED,
    ROUTER,
    TYPES,
    VECTOR,
    Tensor,
    TensorType,
)

WHOLE = {"bf16": "bf16", "fp16": "f16", "f16": "f16", "fp32": "f32", "f32": "f32"}
ALIKE = ("fp8", "int8", "nvfp4")  # every matrix but router, embedding and head
_GROUPS = re.compile(r"int4(?:-g(\d{1,5}))?")
_BITS = re.compile(r"bpw:(\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?))?")
_FORMS = ("int4-g128", "bpw:2.6", "bpw:2.6/4")
_ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}  # as llama.cpp's own tool takes them


@dataclass(frozen=True)
class Stored:
    """What a quantisation does to a model: its name, a type per tensor, and what was assumed, in sentences."""

    name: str
    types: tuple[TensorType, ...]
    assumptions: tuple[str, ...]


def quantise(quant: str, shape: Shape, tensors: Sequence[Tensor]) -> Stored:
    """Types of all tensors under a quantisation; ValueError with all valid names if there is none of that name."""
    name = quant.strip().lower()
    name = _ALIASES.get(name, name)
    if name in MIXTURES or name == "mxfp4_moe":
        return _mixture(name, shape, tensors)
    if name in WHOLE:
        return Stored(name, tuple(TYPES[WHOLE[name]] for _ in tensors), ())
    routed, linear, assumptions = _rule(name)
    rest = TYPES["bf16"]
    types = [routed if one.part == ROUTED else linear if _linear(one) else rest for one in tensors]
    return Stored(name, tuple(types), assumptions)


def _rule(name: str) -> tuple[TensorType, TensorType, tuple[str, ...]]:
    """Types of routed experts and of the other matrices, and what was assumed; all else is bf16."""
    plain = "router, norms, embedding and head are bf16"
    if name == "mxfp4":
        return TYPES[name], TYPES["bf16"], ("only the routed experts are MXFP4, all else is bf16",)
    if name in ALIKE:
        scales = {
            "nvfp4": "one scale per tensor is not counted",
            "fp8": "scales per block of 128 × 128 or per tensor, under 0.1 % of the bytes, are not counted",
            "int8": "scales per row, under 0.3 % of the bytes, are not counted",
        }
        return TYPES[name], TYPES[name], (plain, scales[name])
    if (match := _GROUPS.fullmatch(name)) and (group := int(match[1] or 128)) >= 2:
        four = TensorType(name, group, group / 2 + 2)
        return four, four, (plain, f"one fp16 scale per group of {group} weights and no zero points")
    if match := _BITS.fullmatch(name):
        bits, others = float(match[1]), float(match[2] or 16)
        if 0 < bits <= 64 and 0 < others <= 64:
            return TensorType(name, 1, bits / 8), TensorType(name, 1, others / 8), (plain,)
    valid = [*WHOLE, *ALIKE, "mxfp4", "mxfp4_moe", *MIXTURES, *_FORMS]
    raise unknown("quantisation", name, valid)


def _linear(tensor: Tensor) -> bool:
    return tensor.part not in (EMBEDDING, HEAD, EXPERT_BIAS) and tensor.role not in (VECTOR, ROUTER)


def _mixture(name: str, shape: Shape, tensors: Sequence[Tensor]) -> Stored:
    first = next((one.queries_per_key for one in shape.attention if one.queries_per_key > 1), 1)
    types = mixture_types(name, tensors, shape.layers, shape.experts, first, shape.expert_type)
    assumptions = ["types per tensor by the rules of llama.cpp's quantiser; another quantiser chooses others"]
    if name.startswith("iq"):
        assumptions.append("made with an importance matrix")
    if any(one.role in ("attn_k_b", "ssm_out", "conv_in", "compressor") for one in tensors):
        assumptions.append("the attention's weights are split and named as in llama.cpp's present conversion")
    if shape.expert_type:
        assumptions.append(f"the routed experts stay {shape.expert_type.upper()}, as they are published")
    return Stored(name, tuple(types), tuple(assumptions))
