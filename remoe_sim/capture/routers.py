"""Find the routers of a model, and read what they choose."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from remoe_sim.util.arrays import Flags, Floats

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


UNWEIGHTED = "gate weights left out, because those of some layers are negative; slots are in their order all the same"
CLOSE = 0.02  # mean difference of gate weights up to which a scoring function counts as the router's


@dataclass(frozen=True)
class Choice:
    """Of n tokens: experts [n, k], gate weights [n, k] or None, logits [n, E] or None; guessed: the experts are the
    largest logits, because the router does not say which it chose."""

    experts: Any
    weights: Any
    logits: Any
    guessed: bool = False


def tables_of(output: Any) -> list[Any]:
    """The tensors of a router's output that have a row for every token, [n, …] each."""
    values = output if isinstance(output, tuple | list) else [output]
    return [one.detach().reshape(-1, one.shape[-1]) for one in values if getattr(one, "ndim", 0) > 1]


def read_choice(router: Router, tensors: list[Any]) -> Choice:
    """The experts that a router chose, from `tables_of` its output; ValueError if they do not tell.

    Most return logits [n, E], weights [n, k] and experts [n, k], in this order; some scores of all experts [n, E]
    instead of weights, some scores and logits without the experts, and a plain linear layer logits alone.
    """
    floats = [one for one in tensors if one.is_floating_point()]
    wide = [one for one in floats if one.shape[1] == router.experts]
    top_k = router.top_k
    chosen = [one for one in tensors if not one.is_floating_point() and top_k in (None, one.shape[1])]
    if chosen:
        experts = chosen[0]
        if experts.shape[1] == router.experts:  # all are chosen: shapes do not tell logits from weights, order does
            return Choice(experts, floats[-1] if floats else None, floats[0] if len(floats) > 1 else None)
        narrow = [one for one in floats if one.shape == experts.shape]
        if narrow or not wide:
            return Choice(experts, narrow[0] if narrow else None, wide[0] if wide else None)
        return Choice(experts, wide[0].gather(1, experts.long()), None)
    if not wide or not top_k:
        raise ValueError(f"the output of '{router.name}' does not tell which experts it chose; {ADVICE}")
    logits = wide[-1]
    experts = logits.topk(min(top_k, router.experts), dim=-1).indices
    return Choice(experts, wide[0].gather(1, experts) if len(wide) > 1 else None, logits, guessed=len(wide) == 1)


def checked_weights(name: str, weights: Floats, there: Flags | slice = slice(None)) -> bool:
    """Whether numbers [tokens, k] can be gate weights: negative ones order the experts, but they are something else.

    there: the tokens that count. Raises ValueError, naming the router or layer, where one is infinite or NaN.
    """
    counted = weights[there]
    if not np.isfinite(counted).all():
        row = int(np.flatnonzero(~np.isfinite(counted).all(axis=1))[0])
        raise ValueError(
            f"the gate weights of {name} are {counted[row].tolist()} for recorded token {row}, so what the model "
            "computed cannot be used; load it in another precision"
        )
    return not (counted < 0).any()


def is_sigmoid(choice: Choice) -> bool:
    """Whether gate weights are those of sigmoid scores and not of a softmax, told from the weights themselves."""
    if choice.weights is None or choice.logits is None or not len(choice.weights):
        return False
    logits, weights = choice.logits.float(), choice.weights.float()
    experts = choice.experts.long()

    def difference(scores: Any) -> float:
        of_chosen = scores.gather(1, experts)
        if experts.shape[1] == 1:
            return float((of_chosen - weights).abs().mean())
        return float((of_chosen / of_chosen.sum(1, True) - weights / weights.sum(1, True)).abs().mean())

    sigmoid = difference(logits.sigmoid())
    return sigmoid < CLOSE and sigmoid < difference(logits.softmax(-1))


def probabilities(logits: Any, sigmoid: bool) -> Any:
    """float16[n, E] that sum to one: a softmax, or sigmoid scores divided by their sum."""
    logits = logits.float()
    if not sigmoid:
        return logits.softmax(-1).half()
    scores = logits.sigmoid()
    return (scores / scores.sum(-1, keepdim=True)).half()
