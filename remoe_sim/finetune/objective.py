"""The loss of a pass: the terms of a stage, each with its weight at that step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remoe_sim.finetune.gates import Gates
from remoe_sim.finetune.recipe import Stage, Term, takes, term_functions


def loss_of(gates: Gates, stage: Stage, step: int, ids: Any, real: Any) -> tuple[Any, dict[str, float]]:
    """The loss of one pass over ids int64[B, T] in a step of a stage, and its terms before they are weighed."""
    weighed = {name: term for name, term in stage.terms.items() if term.at(step)}
    wanted = any("reference" in takes(name)[0] for name in weighed)
    logits, routings = gates.run(ids, real, reference=wanted)
    common = {"logits": logits, "ids": ids, "real": real}
    values = {name: _value(name, term, common, routings) for name, term in weighed.items()}
    loss = sum(weighed[name].at(step) * value for name, value in values.items())
    return loss, {name: float(value.detach()) for name, value in values.items()}


def _value(name: str, term: Term, common: Mapping[str, Any], routings: Any) -> Any:
    """One term: of the pass, or the mean over MoE layers."""
    needed, function = takes(name)[0], term_functions()[name]
    if all(one in common for one in needed):
        return function(**{one: _wide(common[one]) for one in needed}, **term.options)
    layers = [
        function(**{one: common[one] if one in common else getattr(layer, one) for one in needed}, **term.options)
        for layer in routings
    ]
    return sum(layers) / len(layers)


def _wide(tensor: Any) -> Any:
    """float32 for what has fewer digits."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor
