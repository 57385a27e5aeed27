"""The shape of a model: what a card says of it, and the list of weights that follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remoe_sim.models.attention import KINDS, Attention
from remoe_sim.models.tensors import DENSE, EMBEDDING, EXPERT_BIAS, HEAD, ROUTED, ROUTER, SHARED, TYPES, VECTOR, Tensor
from remoe_sim.util.cards import Fact, facts
from remoe_sim.util.errors import unknown

FORM = "see the cards in remoe_sim/models/cards for the form"
_TOP = ("title", "repository", "status", "source")
_MOST_LAYERS, _MOST_SIZE = 10_000, 10**8


@dataclass(frozen=True)
class Shape:
    """Sizes count numbers, not bytes. attention: one per layer; moe_layers: the layers that have experts.

    expert_input: width that routed experts work on, 0 for hidden_size; where it is another, two matrices per layer lead
    to it and back (latent experts, as in Kimi-K3)
    shared_intermediate: width of all shared experts of a layer together
    dense_intermediate: width of the layers without experts
    shared_gate: a learned gate on the shared experts
    router_bias, expert_biases, norm_bias, head_bias: whether there are such vectors
    hyper_connections: parallel residual streams (DeepSeek-V4), 0 for the usual one
    expert_type: the type that the experts are published in where it is not the checkpoint's
    published_…: counts that its makers state, None if they do not; notes and unverified: sentences
    """

    title: str
    layers: int
    hidden_size: int
    vocabulary: int
    moe_layers: tuple[int, ...]
    experts: int
    top_k: int
    expert_intermediate: int
    attention: tuple[Attention, ...]
    expert_input: int = 0
    shared_intermediate: int = 0
    dense_intermediate: int = 0
    tied_embeddings: bool = False
    shared_gate: bool = False
    router_bias: bool = False
    expert_biases: bool = False
    norm_bias: bool = False
    head_bias: bool = False
    hyper_connections: int = 0
    expert_type: str | None = None
    published_parameters: float | None = None
    published_active_parameters: float | None = None
    status: str = "verified"
    source: str = ""
    notes: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()

    def tensors(self) -> list[Tensor]:
        """All weights, in the order of the layers: embedding, layers, head."""
        found = [Tensor("token_embd", self.vocabulary, self.hidden_size, part=EMBEDDING)]
        routed = set(self.moe_layers)
        for layer, attention in enumerate(self.attention):
            block = [*attention.tensors(self.hidden_size), *self._norms()]
            block += self._experts() if layer in routed else _ffn(self.dense_intermediate, self.hidden_size, DENSE)
            found += [dataclasses.replace(tensor, layer=layer) for tensor in block]
        return found + self._head()

    def _norms(self) -> list[Tensor]:
        vectors = [Tensor(VECTOR, 1, self.hidden_size)] * (4 if self.norm_bias else 2)
        streams = self.hyper_connections
        if streams:
            mixes = (2 + streams) * streams
            vectors += [Tensor(VECTOR, mixes, streams * self.hidden_size), Tensor(VECTOR, 1, mixes + 3)] * 2
        return vectors

    def _experts(self) -> list[Tensor]:
        found = [Tensor(ROUTER, self.experts, self.hidden_size)]
        found += _ffn(self.expert_intermediate, self.expert_input or self.hidden_size, ROUTED, self.experts)
        if self.expert_input:
            found.append(Tensor("ffn_latent_down", self.expert_input, self.hidden_size))
            found.append(Tensor("ffn_latent_up", self.hidden_size, self.expert_input))
        if self.router_bias:
            found.append(Tensor(VECTOR, 1, self.experts))
        if self.expert_biases:
            sizes = (self.expert_intermediate, self.expert_intermediate, self.expert_input or self.hidden_size)
            found += [Tensor(VECTOR, 1, size, part=EXPERT_BIAS, count=self.experts) for size in sizes]
        if self.shared_intermediate:
            found += _ffn(self.shared_intermediate, self.hidden_size, SHARED)
        if self.shared_gate:
            found.append(Tensor(VECTOR, 1, self.hidden_size, part=SHARED))
        return found

    def _head(self) -> list[Tensor]:
        found = [Tensor(VECTOR, 1, self.hidden_size * (1 + self.norm_bias), part=HEAD)]
        if not self.tied_embeddings:
            found.append(Tensor("output", self.vocabulary, self.hidden_size, part=HEAD))
        if self.head_bias:
            found.append(Tensor(VECTOR, 1, self.vocabulary, part=HEAD))
        if self.hyper_connections:
            found.append(Tensor(VECTOR, self.hyper_connections, self.hyper_connections * self.hidden_size, part=HEAD))
        return found


def _ffn(width: int, hidden: int, part: str, count: int = 1) -> list[Tensor]:
    if not width:
        return []
    return [
        Tensor("ffn_gate", width, hidden, part=part, count=count),
        Tensor("ffn_up", width, hidden, part=part, count=count),
        Tensor("ffn_down", hidden, width, part=part, count=count),
    ]


_COUNTS = ("layers", "hidden_size", "vocabulary", "experts", "top_k", "expert_intermediate")
_MAY_COUNT = (
    "expert_input",
    "shared_intermediate",
    "dense_intermediate",
    "hyper_connections",
    "first_moe_layer",
    "moe_layer_step",
)
_NOT_NONE = ("heads", "kv_heads", "head_dim", "output_groups", "kernel")
_FLAGS = ("tied_embeddings", "shared_gate", "router_bias", "expert_biases", "norm_bias", "head_bias")


def shape_of_card(card: Mapping[str, Any], where: str) -> Shape:
    """The shape that a card's tables describe; ValueError, naming `where`, for what is missing or impossible."""
    for name in card:
        valid = [*_TOP, "notes", "unverified", "shape", "attention", "published"]
        if name not in valid:
            raise ValueError(f"{where}: {unknown('entry', name, valid)}")
    for name in (*_TOP[2:], "shape", "attention"):
        if name not in card:
            raise ValueError(f"{where}: '{name}' is missing; {FORM}")
    plain = (str(card["status"]), str(card["source"]))
    shape = facts(
        _table(card["shape"], f"{where}: shape"),
        _COUNTS,
        (*_MAY_COUNT, *_FLAGS, "expert_type"),
        where=f"{where}: shape",
        plain=plain,
    )
    numbers = {name: _whole(name, shape[name], where) for name in (*_COUNTS, *_MAY_COUNT) if name in shape}
    flags = {name: _flag(name, shape[name], where) for name in _FLAGS if name in shape}
    layers, first = numbers["layers"], numbers.pop("first_moe_layer", 0)
    check_layers(layers, where)
    moe_layers = tuple(range(first, layers, max(numbers.pop("moe_layer_step", 1), 1)))
    stated = facts(
        _table(card.get("published", {}), where), (), ("parameters", "active_parameters"), where=f"{where}: published"
    )
    attention, doubts = _attention(card["attention"], layers, plain, where)
    doubts += [_doubt(name, fact) for name, fact in shape.items() if _own_doubt(fact, plain)]
    doubts += [_doubt(f"published {name}", fact) for name, fact in stated.items() if fact.doubtful]
    doubts += [f"everything is {plain[0]}: {plain[1]}"] if Fact(None, *plain).doubtful else []
    values: dict[str, Any] = {**numbers, **flags}
    made = Shape(
        title=str(card.get("title", where)),
        moe_layers=moe_layers,
        attention=attention,
        expert_type=shape["expert_type"].value if "expert_type" in shape else None,
        published_parameters=stated["parameters"].value if "parameters" in stated else None,
        published_active_parameters=stated["active_parameters"].value if "active_parameters" in stated else None,
        status=plain[0],
        source=plain[1],
        notes=tuple(card.get("notes", ())),
        unverified=(*card.get("unverified", ()), *doubts),
        **values,
    )
    check_shape(made, where)
    return made


def check_layers(layers: int, where: str) -> None:
    """Raises ValueError for more layers than any model has, before anything is made for each of them."""
    if layers > _MOST_LAYERS:
        raise ValueError(f"{where}: {layers} layers are too many; at most {_MOST_LAYERS} are possible")


def check_shape(shape: Shape, where: str) -> None:
    """Raises ValueError, naming `where`, for a shape that no model can have."""
    for name in _COUNTS:
        if not 1 <= getattr(shape, name) <= _MOST_SIZE:
            raise ValueError(f"{where}: {name} is {getattr(shape, name)}; give a whole number from 1 to {_MOST_SIZE}")
    if not shape.moe_layers:
        raise ValueError(f"{where}: no layer has experts; first_moe_layer has to be below {shape.layers}")
    if shape.top_k > shape.experts:
        raise ValueError(f"{where}: top_k is {shape.top_k} but there are {shape.experts} experts; give at most as many")
    if len(shape.moe_layers) < shape.layers and not shape.dense_intermediate:
        raise ValueError(f"{where}: layers without experts need 'dense_intermediate', the width of their network")
    for name in ("expert_input", "shared_intermediate", "dense_intermediate", "hyper_connections"):
        if getattr(shape, name) > _MOST_SIZE:
            raise ValueError(f"{where}: {name} is {getattr(shape, name)}; at most {_MOST_SIZE} is possible")
    if len(shape.attention) != shape.layers:
        raise ValueError(f"{where}: {len(shape.attention)} layers of {shape.layers} have attention; name each")
    if max(shape.moe_layers) >= shape.layers:
        raise ValueError(f"{where}: layer {max(shape.moe_layers)} has experts, but there are {shape.layers} layers")
    for one in set(shape.attention):
        _check_sizes(one, where)
    if shape.expert_type is not None and str(shape.expert_type) not in TYPES:
        raise ValueError(f"{where}: {unknown('expert_type', str(shape.expert_type), TYPES)}")


def _check_sizes(attention: Attention, where: str) -> None:
    """ValueError for a size that is impossible; all but heads, groups and kernels may be 0."""
    for field in dataclasses.fields(attention):
        value, least = getattr(attention, field.name), int(field.name in _NOT_NONE)
        if field.type == "int" and not least <= value <= _MOST_SIZE:
            raise ValueError(f"{where}: attention {field.name} is {value}; give a number from {least} to {_MOST_SIZE}")


def _attention(tables: Any, layers: int, plain: tuple[str, str], where: str) -> tuple[tuple[Attention, ...], list[str]]:
    """One attention per layer: a table with `layers`, or `first_layer` and `layer_step`, takes those that are named and
    free, one without takes all that are free."""
    found: list[Attention | None] = [None] * layers
    doubts = []
    for table in tables if isinstance(tables, list) else [tables]:
        place = f"{where}: attention"
        table = dict(_table(table, place))
        kind = table.pop("kind", None)
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(f"{place}: {unknown('kind', str(kind), KINDS)}")
        fields = dataclasses.fields(KINDS[kind])
        needed = [field.name for field in fields if field.default is dataclasses.MISSING]
        usual = [field.name for field in fields if field.default is not dataclasses.MISSING]
        read = facts(table, needed, [*usual, "layers", "first_layer", "layer_step"], where=place, plain=plain)
        doubts += [_doubt(name, fact) for name, fact in read.items() if _own_doubt(fact, plain)]
        chosen: Any = range(layers)
        if "layers" in read:
            chosen = read["layers"].value
            if not isinstance(chosen, list):
                raise ValueError(f"{place}: 'layers' is {chosen!r}; give a list of layers")
        elif "first_layer" in read:
            step = _whole("layer_step", read["layer_step"], where) if "layer_step" in read else 1
            chosen = range(_whole("first_layer", read["first_layer"], where), layers, max(step, 1))
        values = {field.name: _typed(field, read[field.name], place) for field in fields if field.name in read}
        made = KINDS[kind](**values)
        for layer in chosen:
            if type(layer) is not int or not 0 <= layer < layers:
                raise ValueError(f"{place}: there is no layer {layer}; layers go from 0 to {layers - 1}")
            found[layer] = found[layer] or made
    if None in found:
        raise ValueError(f"{where}: layer {found.index(None)} has no attention; add a table without 'layers' last")
    return tuple(one for one in found if one is not None), doubts


def _typed(field: dataclasses.Field[Any], fact: Fact, where: str) -> Any:
    if field.type == "int":
        return _whole(field.name, fact, where)
    return _flag(field.name, fact, where) if field.type == "bool" else str(fact.value)


def _whole(name: str, fact: Fact, where: str) -> int:
    if isinstance(fact.value, bool) or not isinstance(fact.value, int) or fact.value > _MOST_SIZE:
        raise ValueError(f"{where}: '{name}' is {fact.value!r}; give a whole number up to {_MOST_SIZE}")
    return fact.value


def _flag(name: str, fact: Fact, where: str) -> bool:
    if not isinstance(fact.value, bool):
        raise ValueError(f"{where}: '{name}' is {fact.value!r}; give true or false")
    return fact.value


def _table(table: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(table, dict):
        raise ValueError(f"{where}: {table!r} is no table; {FORM}")
    return table


def _own_doubt(fact: Fact, plain: tuple[str, str]) -> bool:
    """Whether a number is doubtful for a reason of its own, not for its card's."""
    return fact.doubtful and (fact.status, fact.source) != plain


def _doubt(name: str, fact: Fact) -> str:
    return f"{name} {fact.value} is {fact.status}: {fact.source}"
