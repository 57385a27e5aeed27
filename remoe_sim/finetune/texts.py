"""From texts to batches: token ids, cut into pieces, in an order that a seed fixes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from remoe_sim.capture.inputs import Prompt, read_prompts

HELD_OUT = 0.05  # of the texts, where no validation texts are given
MOST_HELD_OUT = 64


def read_texts(given: str | os.PathLike[str] | Sequence[str], tokenizer: Any, length: int) -> list[list[list[int]]]:
    """The pieces of each text: lists of at most `length` token ids, and at least 2."""
    return [_pieces(_ids(tokenizer, one), length) for one in read_prompts(given)]


def split(texts: Sequence[list[list[int]]], seed: int) -> tuple[list[list[list[int]]], list[list[list[int]]]]:
    """Texts to train on, and those held out: 5 % of them, at least 1 and at most 64."""
    if len(texts) < 2:
        raise ValueError("one text cannot be divided; give more, or texts for validation too")
    held = min(max(1, round(HELD_OUT * len(texts))), MOST_HELD_OUT)
    out = set(np.random.default_rng(seed).permutation(len(texts))[:held].tolist())
    return [one for at, one in enumerate(texts) if at not in out], [texts[at] for at in sorted(out)]


def flat(texts: Sequence[list[list[int]]], what: str) -> list[list[int]]:
    """All pieces; ValueError where there is none."""
    pieces = [piece for text in texts for piece in text]
    if not pieces:
        raise ValueError(f"{what} have no text of two tokens or more; give longer ones")
    return pieces


def digest(pieces: Sequence[list[int]]) -> str:
    """A name for exactly these pieces."""
    return hashlib.sha256(repr(pieces).encode()).hexdigest()


def picked(count: int, batch: int, number: int, seed: Sequence[int]) -> list[int]:
    """Which of `count` pieces the batch with that number has: each once in every round, rounds shuffled by the seed."""
    return [_order(count, at // count, tuple(seed))[at % count] for at in range(number * batch, (number + 1) * batch)]


_ORDERS: dict[tuple[int, int, tuple[int, ...]], list[int]] = {}


def _order(count: int, epoch: int, seed: tuple[int, ...]) -> list[int]:
    key = count, epoch, seed
    if key not in _ORDERS:
        while len(_ORDERS) > 1:  # a batch may lie in two rounds
            _ORDERS.pop(next(iter(_ORDERS)))
        _ORDERS[key] = np.random.default_rng([*seed, epoch]).permutation(count).tolist()
    return _ORDERS[key]


def padded(rows: Sequence[list[int]], device: Any) -> tuple[Any, Any]:
    """ids int64[B, T] and real bool[B, T] of rows, filled up on the right."""
    import torch

    widest = max(map(len, rows))
    ids = torch.zeros((len(rows), widest), dtype=torch.long)
    real = torch.zeros((len(rows), widest), dtype=torch.bool)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
        real[at, : len(row)] = True
    return ids.to(device), real.to(device)


def in_batches(pieces: Sequence[list[int]], batch: int) -> Iterator[list[list[int]]]:
    """The pieces in their order, so many at a time."""
    for start in range(0, len(pieces), batch):
        yield list(pieces[start : start + batch])


def _pieces(ids: list[int], length: int) -> list[list[int]]:
    pieces = [ids[start : start + length] for start in range(0, len(ids), length)]
    return [piece for piece in pieces if len(piece) > 1]


def _ids(tokenizer: Any, one: Prompt) -> list[int]:
    if one.messages is None:
        text = (one.text or "") + (one.completion or "")
        return list(tokenizer(text)["input_ids"])
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"{one.where}: the model has no chat template; give a text instead of messages")
    text = tokenizer.apply_chat_template(one.messages, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
