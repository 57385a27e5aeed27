"""The loss of a stage, and the loss on held-out text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remoe_sim.finetune.recipe import Stage, Term, takes, term_functions
from remoe_sim.finetune.terms import language_model
from remoe_sim.finetune.texts import in_batches, padded

if TYPE_CHECKING:
    from remoe_sim.finetune.gates import Gates


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


@dataclass(frozen=True)
class Evaluation:
    """loss: nats per predicted token; reuse: of each token's experts, the share that the token before it in the same
    text had at the same layer (None where no text has two tokens)."""

    loss: float
    reuse: float | None


def evaluate(
    gates: Gates, pieces: Sequence[list[int]], batch: int, precision: Callable[[], AbstractContextManager[Any]]
) -> Evaluation:
    """Loss and adjacent reuse over all pieces; every token and every pair counts the same."""
    import torch

    lost, predicted, shared, slots = 0.0, 0, 0, 0
    for rows in in_batches(pieces, batch):
        ids, real = padded(rows, gates.model.device)
        with torch.no_grad(), precision():
            logits, routings = gates.run(ids, real, reference=False)
        count = sum(len(row) - 1 for row in rows)
        lost += float(language_model(logits.float(), ids, real)) * count
        predicted += count
        pairs = real[:, 1:] & real[:, :-1]
        for layer in routings:
            again = (layer.experts[:, 1:, :, None] == layer.experts[:, :-1, None, :]).any(-1)
            shared += int(again[pairs].sum())
            slots += int(pairs.sum()) * layer.experts.shape[-1]
    return Evaluation(lost / predicted, shared / slots if slots else None)
