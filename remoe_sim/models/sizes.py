"""A model with a quantisation: what its parts weigh, what a token reads of them and computes with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from remoe_sim.models.tensors import DENSE, EMBEDDING, EXPERT_BIAS, HEAD, ROUTED, SHARED, Tensor

FFN = ("ffn_gate", "ffn_up", "ffn_down")


@dataclass(frozen=True)
class Context:
    """What a layer keeps of the tokens before. kv_bytes_per_token: what each token adds, None if unknown;
    window_tokens: how many of the last are looked at, None for all; state_bytes: what is kept of a sequence however
    long it is."""

    kv_bytes_per_token: float | None
    window_tokens: int | None = None
    state_bytes: int = 0


@dataclass(frozen=True)
class SizedModel:
    """Sizes of one model in one quantisation. Tuples "per MoE layer" follow `moe_layers`, those "per layer" all layers.

    expert_tensor_bytes: gate, up and down of one routed expert, per MoE layer; expert_bytes: their sums;
    shared_expert_bytes: all shared experts of a layer together, per MoE layer;
    dense_bytes: per layer, what one token reads besides routed experts: attention, norms, router, shared experts, dense
    network, and the biases of its top_k experts; resident_bytes: per layer, all that is no routed expert, which is the
    same but for the biases of all experts; head_bytes: output head and last norm, read once per token;
    embedding_bytes: the input embedding, of which a token reads one row (the same bytes as the head's where
    tied_embeddings); kv_bytes_per_token: per layer, what the context grows by, in 16 bits, None where unknown;
    kv_window_tokens: per layer, how many of the last tokens are looked at, None for all; state_bytes: per layer, what
    is kept of a sequence whatever its length;
    expert_flops: of one routed expert for one token (2 · parameters); dense_flops: per layer and token, without those
    that grow with the context; head_flops; parameters: all; active_parameters: what one token is multiplied with or
    reads, all but the input embedding; published_parameters, published_active_parameters: as the makers state them;
    total_bytes: of all weights; routed_bytes: of all routed experts;
    unknown, unverified, assumptions, notes: sentences; status: of the card, or `measured` for a file's own sizes.
    """

    name: str
    title: str
    quant: str
    layers: int
    moe_layers: tuple[int, ...]
    experts: int
    top_k: int
    hidden_size: int
    expert_intermediate: int
    vocabulary: int
    tied_embeddings: bool
    expert_tensor_bytes: tuple[tuple[int, ...], ...]
    expert_bytes: tuple[int, ...]
    shared_expert_bytes: tuple[int, ...]
    dense_bytes: tuple[int, ...]
    resident_bytes: tuple[int, ...]
    head_bytes: int
    embedding_bytes: int
    kv_bytes_per_token: tuple[float | None, ...]
    kv_window_tokens: tuple[int | None, ...]
    state_bytes: tuple[int, ...]
    expert_flops: float
    dense_flops: tuple[float, ...]
    head_flops: float
    parameters: int
    active_parameters: int
    published_parameters: float | None
    published_active_parameters: float | None
    total_bytes: int
    routed_bytes: int
    status: str
    source: str
    unknown: tuple[str, ...]
    unverified: tuple[str, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All fields, with lists for tuples."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}

    def __repr__(self) -> str:
        return "\n".join(f"{name:<12} {text}" for name, text in _lines(self))

    def _repr_html_(self) -> str:
        import html

        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in _lines(self)
        )
        return f"<table>{rows}</table>"


def size(
    tensors: Sequence[Tensor], stored_bytes: Iterable[int], contexts: Sequence[Context], top_k: int, **about: Any
) -> SizedModel:
    """The sizes that follow from tensors and the bytes of each; `about` holds the fields that are not computed here."""
    layers, moe_layers = about["layers"], about["moe_layers"]
    sizes = list(zip(tensors, stored_bytes, strict=True))
    parts: dict[str, list[int]] = {part: [0] * layers for part in (ROUTED, SHARED, DENSE, EXPERT_BIAS)}
    outside = {EMBEDDING: 0, HEAD: 0}
    experts = about["experts"]
    matrices, flops, head_flops = {name: [0] * layers for name in FFN}, [0.0] * layers, 0.0
    parameters, active = 0, 0.0
    for tensor, nbytes in sizes:
        parameters += tensor.parameters
        share = top_k / experts if tensor.part in (ROUTED, EXPERT_BIAS) else float(tensor.part != EMBEDDING)
        active += share * tensor.parameters
        computed = 2.0 * tensor.parameters * tensor.multiplied
        if tensor.layer is None:
            outside[tensor.part] += nbytes
            head_flops += computed if tensor.part == HEAD else 0
            continue
        parts[tensor.part][tensor.layer] += nbytes
        if tensor.part == ROUTED:
            matrices[tensor.role][tensor.layer] += nbytes // experts
        else:
            flops[tensor.layer] += computed
    tied: bool = about["tied_embeddings"]
    embedding = next(tensor for tensor in tensors if tensor.part == EMBEDDING)
    if tied:
        head_flops += 2.0 * embedding.parameters
        active += embedding.parameters
    first = [one for one in tensors if one.part == ROUTED and one.layer == moe_layers[0]]
    expert_weights = sum(one.rows * one.columns for one in first)
    resident = [sum(parts[part][layer] for part in (SHARED, DENSE, EXPERT_BIAS)) for layer in range(layers)]
    biases = [bias - bias * top_k // experts for bias in parts[EXPERT_BIAS]]
    expert_tensor_bytes = tuple(tuple(matrices[name][layer] for name in FFN) for layer in moe_layers)
    return SizedModel(
        top_k=top_k,
        expert_tensor_bytes=expert_tensor_bytes,
        expert_bytes=tuple(sum(three) for three in expert_tensor_bytes),
        shared_expert_bytes=tuple(parts[SHARED][layer] for layer in moe_layers),
        dense_bytes=tuple(whole - unread for whole, unread in zip(resident, biases, strict=True)),
        resident_bytes=tuple(resident),
        head_bytes=outside[HEAD] + (outside[EMBEDDING] if tied else 0),
        embedding_bytes=outside[EMBEDDING],
        kv_bytes_per_token=tuple(one.kv_bytes_per_token for one in contexts),
        kv_window_tokens=tuple(one.window_tokens for one in contexts),
        state_bytes=tuple(one.state_bytes for one in contexts),
        expert_flops=2.0 * expert_weights,
        dense_flops=tuple(flops),
        head_flops=head_flops,
        parameters=parameters,
        active_parameters=round(active),
        total_bytes=sum(nbytes for _, nbytes in sizes),
        routed_bytes=sum(parts[ROUTED]),
        **about,
    )


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, (tuple, list)) else value


def _lines(model: SizedModel) -> list[tuple[str, str]]:
    """What a person wants to see of a model, as pairs of a heading and a text."""
    from remoe_sim.util.units import format_bytes

    smallest, largest = min(model.expert_bytes), max(model.expert_bytes)
    known = [one for one in model.kv_bytes_per_token if one is not None]
    lines = [
        ("model", f"{model.title} ({model.name}), {model.quant}"),
        ("layers", f"{model.layers}, {len(model.moe_layers)} with {model.experts} experts, top-{model.top_k}"),
        ("parameters", f"{model.parameters / 1e9:.2f} B, {model.active_parameters / 1e9:.2f} B active"),
        ("expert", format_bytes(smallest) + (f" to {format_bytes(largest)}" if largest > smallest else "")),
        ("all experts", format_bytes(model.routed_bytes)),
        ("all weights", format_bytes(model.total_bytes)),
        ("KV cache", f"{format_bytes(sum(known))} per token" if len(known) == model.layers else "not known"),
    ]
    return lines + [("note", text) for text in (*model.unknown, *model.unverified, *model.assumptions, *model.notes)]


def check_top_k(top_k: int | None, usual: int, experts: int) -> int:
    """The number of experts per token: the model's own, or the one asked for if that is possible."""
    if top_k is None:
        return usual
    if not 1 <= top_k <= experts:
        raise ValueError(
            f"top_k {top_k} is not possible; give a whole number from 1 to {experts}, the experts of a layer"
        )
    return top_k
