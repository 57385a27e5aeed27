"""The terms of the loss, one function each: what a recipe may weigh.

A term takes what its parameters name: `logits`, `ids` and `real` of the whole pass, and of one MoE layer `logp` (log
probabilities of all experts), `reference` (the same from the frozen copy of the gate, on the same hidden states) and
`experts` (those chosen). Any other parameter is an option that a recipe may set. Terms of a layer are averaged over
layers. Every row is a text of its own, so nothing here compares tokens of different rows; a padded token (`real` is
False) counts in no mean. Where there is nothing to average, a term is zero.

B rows, T tokens, E experts of which K are chosen, V words. Sources: ReMoE, arXiv 2605.27081, unless another is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TINY = 1e-8  # within the logarithm, as in the paper


def language_model(logits: Any, ids: Any, real: Any) -> Any:
    """Mean negative log-likelihood of each token given those before it in its row, in nats per token.

    logits: float[B, T, V]; ids: int64[B, T]; real: bool[B, T].
    """
    counted = real[:, 1:] & real[:, :-1]
    logp = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return _mean(-logp, counted)


def reuse(logp: Any, experts: Any, real: Any) -> Any:
    """−log of the mean probability, divided by K, that a token's gate gives to the experts of the token before it.

    logp: float[B, T, E]; experts: int64[B, T, K], no gradient; real: bool[B, T]. Not below log K.
    """
    pairs = real[:, 1:] & real[:, :-1]
    mass = logp[:, 1:].exp().gather(-1, experts[:, :-1]).sum(-1) / experts.shape[-1]
    return -(_mean(mass, pairs) + TINY).log() if pairs.any() else logp.sum() * 0


def smooth(logp: Any, real: Any) -> Any:
    """Mean symmetric Kullback-Leibler divergence, in nats, of the distributions of adjacent tokens.

    logp: float[B, T, E]; real: bool[B, T]. The mean of both directions.
    """
    return lag(logp, real, lags=(1,))


def lag(logp: Any, real: Any, lags: Sequence[int] = (1, 2, 4, 8, 16)) -> Any:
    """`smooth` over several distances between tokens: the mean of those distances that occur.

    logp: float[B, T, E]; real: bool[B, T]; lags: distances in tokens, 1 or more.
    """
    found = []
    for distance in lags:
        pairs = real[:, distance:] & real[:, :-distance]
        if pairs.any():
            now, before = logp[:, distance:], logp[:, :-distance]
            found.append(_mean(((now.exp() - before.exp()) * (now - before)).sum(-1) / 2, pairs))
    return sum(found) / len(found) if found else logp.sum() * 0


def working_set(logp: Any, real: Any, window: int = 16) -> Any:
    """Mean entropy, in nats, of the mean distribution in windows of so many tokens that follow one another.

    logp: float[B, T, E]; real: bool[B, T]; window: tokens. Windows begin where rows begin and do not overlap; those
    that are not full are left out.
    """
    rows, tokens, experts = logp.shape
    whole = tokens // window * window
    full = real[:, :whole].reshape(rows, -1, window).all(-1)
    mean = logp[:, :whole].exp().reshape(rows, -1, window, experts).mean(2)
    return _mean(-(mean * (mean + TINY).log()).sum(-1), full)


def trust(logp: Any, reference: Any, real: Any) -> Any:
    """Mean KL(P ‖ P of the frozen gate on the same hidden state), in nats per token.

    logp: float[B, T, E]; reference: float[B, T, E], log probabilities, no gradient; real: bool[B, T].
    """
    return _mean((logp.exp() * (logp - reference)).sum(-1), real)


def load_balance(logp: Any, experts: Any, real: Any) -> Any:
    """E · Σ (share of slots an expert gets) · (its mean probability): 1 where all are used alike, E where one is.

    logp: float[B, T, E]; experts: int64[B, T, K], no gradient; real: bool[B, T]. Source: Switch Transformers, section
    2.2 (arXiv 2101.03961), with slots for tokens where K > 1.
    """
    import torch

    count = logp.shape[-1]
    slots = torch.bincount(experts[real].flatten(), minlength=count).to(logp.dtype)
    mean = logp.exp().masked_fill(~real[..., None], 0).sum((0, 1)) / max(int(real.sum()), 1)
    return count * (slots / max(float(slots.sum()), 1.0) * mean).sum()


def _mean(values: Any, counted: Any) -> Any:
    """The mean of values [B, n] where counted [B, n]; zero, with a gradient of zero, where nothing is."""
    return values.masked_fill(~counted, 0).sum() / max(int(counted.sum()), 1)
