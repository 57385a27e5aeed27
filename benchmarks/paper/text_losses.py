"""The loss of a model on each of some texts, and how far two models differ, with an interval over texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remoe_sim.capture.running import load
from remoe_sim.finetune.terms import language_model
from remoe_sim.finetune.texts import in_batches, padded
from remoe_sim.studies.bootstrap import Ratios, differences
from remoe_sim.util.files import replacing

CONFIDENCE, RESAMPLES = 0.95, 1999


def measure(checkpoint: Path, pieces: Sequence[list[int]], batch: int, device: str, output: Path) -> None:
    """Write what a model loses on every piece of token ids, in nats, and how many tokens of it are predicted."""
    import torch

    model, _ = load(str(checkpoint), device)
    nats = []
    for rows in in_batches(pieces, batch):
        ids, real = padded(rows, model.device)
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=real.long(), use_cache=False).logits.float()
        one_by_one = zip(logits[:, None], ids[:, None], real[:, None], strict=True)
        nats += [
            float(language_model(*one)) * (len(row) - 1) for one, row in zip(one_by_one, rows, strict=True)
        ]  # fmt: skip
    with replacing(output) as beside:
        beside.write_text(json.dumps({"nats": nats, "tokens": [len(row) - 1 for row in pieces]}) + "\n")


def compare(original: Path, tuned: Path) -> dict[str, Any]:
    """Nats per predicted token of both on the same pieces, and the interval of the difference, paired by piece."""
    sides = []
    for path in (original, tuned):
        found = json.loads(path.read_text())
        sides.append(Ratios(np.array([found["nats"]]), np.array([found["tokens"]], np.float64)))
    low, high = differences(*sides, True, RESAMPLES, 0).interval(0, 1 - CONFIDENCE) or (None, None)
    a, b = (float(one.values[0]) for one in sides)
    return {"original": a, "tuned": b, "difference": b - a, "change": b / a - 1, "low": low, "high": high}
