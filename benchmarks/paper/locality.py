"""Seeded traces in the shape of DeepSeek-V2-Lite with a given expert overlap rate, whose locality lasts a given time.

An expert's score is `strength · affinity + Gumbel noise`, and a token takes the best six. Affinities are standard
normal, drawn anew at each request and fading to fresh ones over `lifetime` tokens (a factor 1/e); so over many requests
all experts are used equally often, as was published (load-balance CV 0.04). The strength is the one that gives the
overlap rate. How long locality lasts was not published: that is why it is a parameter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import remoe_sim
from benchmarks.paper.published import MODEL, TOP_K
from remoe_sim import Decisions, InMemory, Model, Trace

EXPERTS, LAYERS = 64, 26
REQUEST = 512  # tokens
WHOLE_REQUEST = "request"
Lifetime = int | str


@dataclass(frozen=True)
class Scores:
    """float32[layers, tokens, experts] each."""

    affinity: npt.NDArray[np.float32]
    noise: npt.NDArray[np.float32]

    @classmethod
    def draw(cls, tokens: int, layers: int, lifetime: Lifetime, seed: int) -> Scores:
        rng = np.random.default_rng(seed)
        shape = (layers, tokens, EXPERTS)
        noise = rng.gumbel(size=shape).astype(np.float32)
        affinity = rng.standard_normal(shape, np.float32)
        keep = np.float32(1.0 if lifetime == WHOLE_REQUEST else np.exp(-1.0 / int(lifetime)))
        fresh = np.sqrt(1 - keep * keep)
        for token in range(1, tokens):
            if token % REQUEST:
                affinity[:, token] = keep * affinity[:, token - 1] + fresh * affinity[:, token]
        return cls(affinity, noise)

    def chosen(self, strength: float) -> npt.NDArray[np.uint16]:
        """uint16[layers, tokens, k]: the experts of every token."""
        score = np.float32(strength) * self.affinity + self.noise
        return np.argpartition(-score, TOP_K - 1, axis=2)[:, :, :TOP_K].astype(np.uint16)


def overlap_rate(chosen: npt.NDArray[np.uint16]) -> float:
    """The share of a token's experts that the token before it in the request used too."""
    layers, tokens, _ = chosen.shape
    used = np.zeros((layers, tokens, EXPERTS), np.bool_)
    np.put_along_axis(used, chosen.astype(np.int64), True, axis=2)
    both = (used[:, 1:] & used[:, :-1]).sum(axis=(0, 2))
    return float(both[np.arange(1, tokens) % REQUEST != 0].mean() / layers / TOP_K)


def trace_with(rate: float, lifetime: Lifetime, tokens: int, layers: int, seed: int) -> tuple[Trace, float]:
    """A trace with that overlap rate, and the strength that gives it.

    Raises ValueError if no strength does: locality then fades before the next token.
    """
    from scipy.optimize import brentq

    scores = Scores.draw(tokens, layers, lifetime, seed)
    try:
        strength = brentq(lambda s: overlap_rate(scores.chosen(s)) - rate, 0.0, 12.0, xtol=1e-3)
    except ValueError:
        raise ValueError(f"no strength gives an overlap rate of {rate} with a lifetime of {lifetime} tokens") from None
    column = np.arange(tokens, dtype=np.int32)
    return Trace(
        column // np.int32(REQUEST),
        column % np.int32(REQUEST),
        column,
        np.ones(tokens, np.uint8),  # decode
        tuple(range(1, layers + 1)),
        Model((EXPERTS,) * layers, (TOP_K,) * layers, MODEL),
        InMemory([Decisions(layer) for layer in scores.chosen(strength)]),
    ), strength


def miss_rates(trace: Trace) -> npt.NDArray[np.float64]:
    """float64[65]: share of the lookups that a per-layer LRU cache of so many experts misses, once it is warm."""
    frame = remoe_sim.curve(trace, "lru", warmup=min(REQUEST, trace.tokens // 2))
    return np.append(1.0, 1 - frame[frame["layer"] == "all"].sort_values("capacity")["hit_rate"].to_numpy())
