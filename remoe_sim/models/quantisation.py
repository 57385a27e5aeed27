"""Quantisation: the type that each tensor of a model has."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from remoe_sim.models.tensors import EMBEDDING, EXPERT_BIAS, HEAD, ROUTED, ROUTER, TYPES, VECTOR, Tensor, TensorType
from remoe_sim.util.errors import unknown

if TYPE_CHECKING:
    from remoe_sim.models.shape import Shape

EIGHT = 8  # experts: models like Mixtral get more bits in their small attention tensors
_FALLBACK = {
    "q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0",
    "iq2_xxs": "iq4_nl", "iq2_xs": "iq4_nl", "iq2_s": "iq4_nl", "iq3_xxs": "iq4_nl", "iq3_s": "iq4_nl",
    "iq4_xs": "iq4_nl",
}  # fmt: skip
VALUES = ("attn_v", "attn_qkv")


@dataclass(frozen=True)
class Place:
    """Where a tensor stands: the index-th of `count` such layers, with so many query heads per key head."""

    index: int
    count: int
    queries_per_key: int
    experts: int

    @property
    def favoured(self) -> bool:
        """The first and last eighth of the layers, and every third between."""
        first = self.count // 8
        return self.index < first or self.index >= 7 * self.count // 8 or (self.index - first) % 3 == 2

    @property
    def early(self) -> bool:
        """The first eighth of the layers."""
        return self.index < self.count // 8


Choice = Callable[[Place], str | None]


@dataclass(frozen=True)
class Mixture:
    """base: the type of everything without a rule; a rule names a type, or returns None for the base."""

    base: str
    value: Choice | None = None
    down: Choice | None = None
    attention: str | None = None  # type of the attention's output projection
    queries: str | None = None  # type of queries and keys
    embedding: str | None = None
    head: str = "q6_k"
    two_bits: bool = False  # Mixtral's small tensors then get 4 bits, not 8


def _favoured(kind: str) -> Choice:
    return lambda place: kind if place.favoured else None


def _early(kind: str) -> Choice:
    return lambda place: kind if place.early else None


def _shared_keys(kind: str, otherwise: str | None = None) -> Choice:
    return lambda place: kind if place.queries_per_key >= 4 else otherwise


def _always(kind: str) -> Choice:
    return lambda place: kind


MIXTURES = {
    **{name: Mixture(name) for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q6_k")},
    "q8_0": Mixture("q8_0", head="q8_0"),
    "q2_k": Mixture("q2_k", _shared_keys("q4_k", "q3_k"), _always("q3_k"), "q3_k"),
    "q3_k_s": Mixture("q3_k"),
    "q3_k_m": Mixture(
        "q3_k",
        lambda place: "q5_k" if place.index < 2 else "q4_k",
        lambda place: "q5_k" if place.index < place.count // 16 else "q4_k",
        "q4_k",
    ),
    "q3_k_l": Mixture("q3_k", _always("q5_k"), _always("q5_k"), "q5_k"),
    "q4_k_s": Mixture("q4_k", lambda place: "q5_k" if place.index < 4 else None, _early("q5_k")),
    "q4_k_m": Mixture("q4_k", _favoured("q6_k"), _favoured("q6_k")),
    "q5_k_s": Mixture("q5_k"),
    "q5_k_m": Mixture("q5_k", _favoured("q6_k"), _favoured("q6_k")),
    "iq4_nl": Mixture("iq4_nl", _shared_keys("q5_k")),
    "iq4_xs": Mixture("iq4_xs", _shared_keys("q5_k")),
    "iq3_m": Mixture(
        "iq3_s",
        _always("q4_k"),
        lambda place: "q4_k" if place.early or (place.experts == EIGHT and place.favoured) else None,
        "q4_k",
    ),
    "iq3_s": Mixture("iq3_s", _shared_keys("q4_k")),
    "iq3_xxs": Mixture("iq3_xxs", _shared_keys("q4_k"), None, "iq3_s", "iq2_s", "iq3_s", "q5_k"),
    "iq2_xs": Mixture("iq2_xs", _always("q4_k"), _early("q2_k"), None, None, "q2_k", "q5_k", True),
    "iq2_xxs": Mixture("iq2_xxs", _always("q4_k"), _early("q2_k"), None, None, "q2_k", "q5_k", True),
}
_FIVE_BIT_OUTPUTS = {"q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m"} | {name for name in MIXTURES if name[0] == "i"}


def mixture_types(
    scheme: str, tensors: Sequence[Tensor], layers: int, experts: int, queries_per_key: int, kept: str | None
) -> list[TensorType]:
    """The type of each tensor, in layer order; scheme is a name in MIXTURES, or `mxfp4_moe`.

    layers: of the whole model; experts: routed ones of a layer; kept: the type that the routed experts are published in
    and stay in, if there is one. A model without a `head` tensor uses its embedding as one.
    """
    values = sum(tensor.role in VALUES for tensor in tensors)
    tied = not any(tensor.part == HEAD and tensor.role != VECTOR for tensor in tensors)
    found, seen = [], 0
    for tensor in tensors:
        index = seen if tensor.role in VALUES else tensor.layer or 0
        place = Place(index, values if tensor.role in VALUES else layers, queries_per_key, experts)
        seen += tensor.role in VALUES
        if tensor.role in (VECTOR, ROUTER) or tensor.part == EXPERT_BIAS:
            name = "f32"
        elif kept and tensor.part == ROUTED:
            name = kept
        elif scheme == "mxfp4_moe":
            name = "mxfp4" if tensor.part == ROUTED else "q8_0"
        else:
            head = tensor.part == HEAD or (tied and tensor.part == EMBEDDING)
            name = _fitting(_head(scheme, tensor) if head else _chosen(scheme, tensor, place), tensor.columns)
        found.append(TYPES[name])
    return found


def _head(scheme: str, tensor: Tensor) -> str:
    mixture = MIXTURES[scheme]
    return "q8_0" if tensor.columns % TYPES[mixture.base].block else mixture.head


def _chosen(scheme: str, tensor: Tensor, place: Place) -> str:
    mixture, few = MIXTURES[scheme], place.experts == EIGHT
    name: str | None = None
    if tensor.role in VALUES:
        name = mixture.value(place) if mixture.value else None
        name = ("q4_k" if mixture.two_bits else "q8_0") if few else name
    elif tensor.role == "attn_k" and few:
        name = "q4_k" if mixture.two_bits else "q8_0"
    elif tensor.role in ("attn_q", "attn_k"):
        name = mixture.queries
    elif tensor.role == "ffn_down":
        name = mixture.down(place) if mixture.down else None
    elif tensor.role == "attn_output":
        name = "q5_k" if few and scheme in _FIVE_BIT_OUTPUTS else mixture.attention
    elif tensor.part == EMBEDDING:
        name = mixture.embedding
    return name or mixture.base


def _fitting(name: str, columns: int) -> str:
    """The type itself, or what llama.cpp takes where the columns are no multiple of its block."""
    if columns % TYPES[name].block:
        name = _FALLBACK.get(name, "f16")
    return "f16" if columns % TYPES[name].block else name


WHOLE = {"bf16": "bf16", "fp16": "f16", "f16": "f16", "fp32": "f32", "f32": "f32"}
ALIKE = ("fp8", "int8", "nvfp4")  # every matrix but router, embedding and head
_GROUPS = re.compile(r"int4(?:-g(\d{1,5}))?")
_BITS = re.compile(r"bpw:(\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?))?")
_GROUPED = re.compile(r"(mlx|hqq|awq|gptq)(?:-([2-8])bit)?(?:-g(\d{1,5}))?")
_FORMS = ("int4-g128", "mlx-4bit", "mlx-6bit-g64", "hqq-4bit-g64", "awq", "gptq-4bit-g128", "bpw:2.6", "bpw:2.6/4")
# Of formats with groups: the group where none is named, bytes of scale and bias per group besides the weights, and what
# is stored that way; AWQ and GPTQ have a zero of as many bits as a weight, too.
GROUPED = {
    "mlx": (64, 4.0, "an fp16 scale and bias per group; embedding and head are quantised too, the router is not"),
    "hqq": (64, 4.0, "an fp16 scale and zero per group; router, norms, embedding and head are bf16"),
    "awq": (128, 2.0, "an fp16 scale and a zero per group; router, norms, embedding and head are bf16"),
    "gptq": (128, 2.0, "an fp16 scale and a zero per group; router, norms, embedding and head are bf16"),
}
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
    if name.startswith("mlx-"):  # embedding and head as well
        types = [rest if one.role in (VECTOR, ROUTER) or one.part == EXPERT_BIAS else routed for one in tensors]
        return Stored(name, tuple(types), assumptions)
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
    if (match := _GROUPED.fullmatch(name)) and (match[1] in ("awq", "gptq") or match[2]):
        group, beside, said = GROUPED[match[1]]
        group, bits = int(match[3] or group), int(match[2] or 4)
        if group >= 2:
            zero = bits / 8 if match[1] in ("awq", "gptq") else 0.0
            some = TensorType(name, group, group * bits / 8 + beside + zero)
            return some, some, (said,)
    if match := _BITS.fullmatch(name):
        some_bits, others = float(match[1]), float(match[2] or 16)
        if 0 < some_bits <= 64 and 0 < others <= 64:
            return TensorType(name, 1, some_bits / 8), TensorType(name, 1, others / 8), (plain,)
    valid = [*WHOLE, *ALIKE, "mxfp4", "mxfp4_moe", *MIXTURES, *_FORMS]
    raise unknown("quantisation", name, valid, "remoe-sim list quants")


def quant_names() -> dict[str, str]:
    """Quantisations by name, with what they are; forms with numbers of one's own stand with an example."""
    whole = dict.fromkeys(WHOLE, "every tensor in this type")
    rules = dict.fromkeys(ALIKE, "every matrix but router, embedding and head")
    experts = {"mxfp4": "routed experts; all else bf16", "mxfp4_moe": "routed experts; all else q8_0 (llama.cpp)"}
    mixtures = dict.fromkeys(MIXTURES, "llama.cpp's mixture of this name")
    grouped = {
        "int4-g128": "four bits, any group after g, no zero points",
        "mlx-4bit": "MLX, 2 to 8 bits, groups of 64 or as in mlx-4bit-g32",
        "hqq-4bit": "HQQ, 2 to 8 bits, groups of 64 or as in hqq-4bit-g128",
        "awq": "AWQ, four bits, groups of 128 or as in awq-g64",
        "gptq": "GPTQ, four bits or as in gptq-8bit, groups of 128 or as in gptq-g32",
    }
    free = {"bpw:2.6": "so many bits per weight of matrices; bpw:2.6/4 for experts and the rest"}
    return {**mixtures, **whole, **rules, **experts, **grouped, **free}


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
