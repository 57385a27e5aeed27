"""Where a model decides which experts a token gets, found by the shape of its modules and not by a list of classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_NAMED = re.compile(r"router|gat(e|ing)", re.IGNORECASE)
_CLASS = re.compile(r"router|topkgat", re.IGNORECASE)
_COUNTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk")
ADVICE = "name the routers yourself: record(model, routers={layer number: module})"


@dataclass(frozen=True)
class Router:
    """The module that chooses the experts of a layer: how many there are, how many are chosen (None: its outputs
    say), and the module that holds their weights, if that is apart."""

    layer: int
    name: str
    module: Any
    experts: int
    top_k: int | None
    weights: Any = None


def text_config(model: Any) -> Any:
    """The configuration of the part that writes text."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def decoder_of(model: Any) -> Any:
    """The part of a model that has its layers of text."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    return model if decoder is None else decoder


def find_routers(model: Any, given: Mapping[int, Any] | None = None) -> list[Router]:
    """The routers of all MoE layers, in the order of layers; those `given` by layer number if there are any.

    A router stands beside a module `experts`; it has `router` or `gate` in its name, or else a matrix with a row for
    each expert. Where nothing is called `experts`, it is a class named like a router.
    Raises ValueError for a model in which none is found, or several in a layer.
    """
    what = type(model).__name__
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ValueError(f"{what} has an encoder and a decoder; only models that are a decoder alone can be captured")
    if given:
        return [_given(model, layer, given[layer]) for layer in sorted(given)]
    decoder = decoder_of(model)
    found = list(_beside_experts(decoder)) or list(_by_class(decoder, _from_config(model, _COUNTS)))
    if not found:
        raise ValueError(f"{what} has no router that can be recognised; give a Mixture-of-Experts model, or {ADVICE}")
    chosen = _from_config(model, _CHOSEN)
    routers = [
        Router(layer_of(name), name, module, experts, _top_k(module, block, chosen), weights)
        for name, module, experts, block, weights in found
    ]
    for before, after in pairwise(routers):
        if after.layer <= before.layer:
            raise ValueError(
                f"{what} has '{before.name}' and '{after.name}', which are not one router per layer; {ADVICE}"
            )
    return routers


def layer_of(name: str) -> int:
    """The number of the layer that a module's name has: 3 for `model.layers.3.mlp.gate`."""
    number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    if number is None:
        raise ValueError(f"the router '{name}' is in no numbered layer; {ADVICE}")
    return int(number[1])


def _given(model: Any, layer: int, module: Any) -> Router:
    name = next((name for name, one in model.named_modules() if one is module), None)
    if name is None:
        raise ValueError(f"the router given for layer {layer} is not in {type(model).__name__}; give one of its own")
    experts = getattr(module, "num_experts", None) or _from_config(model, _COUNTS)
    if not experts:
        raise ValueError(f"how many experts '{name}' chooses from is unknown; set num_experts of that module")
    return Router(layer, name, module, experts, _top_k(module, module, _from_config(model, _CHOSEN)))


def _beside_experts(decoder: Any) -> Iterator[tuple[str, Any, int, Any, Any]]:
    for name, block in decoder.named_modules():
        children = dict(block.named_children())
        experts = children.pop("experts", None)
        count = _count(experts) or getattr(block, "num_experts", None)
        if experts is None or not count:
            continue
        fitting = {key: one for key, one in children.items() if "shared" not in key and _has_row_each(one, count)}
        named = {key: one for key, one in fitting.items() if _NAMED.search(key)} or fitting
        if len(named) == 1:
            key, module = next(iter(named.items()))
            yield f"{name}.{key}".lstrip("."), module, count, block, experts


def _by_class(decoder: Any, count: int | None) -> Iterator[tuple[str, Any, int, Any, Any]]:
    for name, module in decoder.named_modules():
        if count and _CLASS.search(type(module).__name__) and _has_row_each(module, count):
            yield name, module, count, module, None


def _count(experts: Any) -> int | None:
    if experts is None:
        return None
    stated = getattr(experts, "num_experts", None)
    if isinstance(stated, int):
        return stated
    return len(experts) if hasattr(experts, "__len__") else None


def _has_row_each(module: Any, experts: int) -> bool:
    return any(one.dim() == 2 and one.shape[0] == experts for one in module.parameters())


def _top_k(module: Any, block: Any, configured: int | None) -> int | None:
    stated: Iterable[Any] = (getattr(one, "top_k", None) for one in (module, block))
    return next((one for one in stated if isinstance(one, int)), configured)


def _from_config(model: Any, names: tuple[str, ...]) -> int | None:
    values = (getattr(text_config(model), name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), None)
