"""What is watched while a model is tuned: loss and reuse on texts that are not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from remoe_sim.finetune.gates import Gates
from remoe_sim.finetune.terms import language_model
from remoe_sim.finetune.texts import in_batches, padded


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
