"""One budget of memory: what a model takes beside routed experts, and what a cache and its workspace take."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from remoe_sim.model_sizes import SizedModel
from remoe_sim.settings import Settings
from remoe_sim.streams import Tokens
from remoe_sim.timelines import Counts, Longs
from remoe_sim.trace import Trace


@dataclass(frozen=True)
class Beside:
    """Bytes that are not for experts. weights: all that is no routed expert, output head or embedding; embedding: 0
    where it is the head; kv_cache: of the largest step, with the state of linear attention."""

    weights: int
    head: int
    embedding: int
    kv_cache: int

    @property
    def total(self) -> int:
        return self.weights + self.head + self.embedding + self.kv_cache

    @classmethod
    def of(cls, model: SizedModel, kv_tokens: int, requests: int) -> Beside:
        """kv_tokens: cached tokens in all of a step of so many requests; a sliding window bounds each request's."""
        cached = 0.0
        for per_token, window in zip(model.kv_bytes_per_token, model.kv_window_tokens, strict=True):
            cached += (per_token or 0.0) * (kv_tokens if window is None else min(kv_tokens, window * requests))
        state = sum(model.state_bytes) * requests
        embedding = 0 if model.tied_embeddings else model.embedding_bytes
        return cls(sum(model.resident_bytes), model.head_bytes, embedding, round(cached) + state)

    def to_dict(self) -> dict[str, int]:
        return {f"{name}_bytes": size for name, size in asdict(self).items()}


@dataclass(frozen=True)
class Room:
    """What caches take: expert_bytes, experts and the largest group of every MoE layer, int64[MoE layers] each."""

    per_layer: bool
    mandatory: bool
    expert_bytes: Longs
    experts: Longs
    largest: Longs

    @classmethod
    def of(cls, trace: Trace, settings: Settings, needed: Counts) -> Room:
        sizes = np.array(trace.model.expert_bytes, np.int64)
        largest = needed.max(axis=0, initial=0).astype(np.int64)
        return cls(settings.per_layer, settings.mandatory, sizes, np.array(trace.model.experts, np.int64), largest)

    def cache(self, limit: int) -> int:
        """Bytes of the cache: `limit` experts per layer, or itself."""
        return int((np.minimum(limit, self.experts) * self.expert_bytes).sum()) if self.per_layer else limit

    def workspace(self, limit: int) -> int:
        """Bytes of the largest group beside the cache: all of it under bypass, else what the cache cannot hold; never
        more than the experts that are not in the cache."""
        if self.per_layer:
            held = np.minimum(limit, self.experts)
            outside = np.minimum(self.largest, self.experts - held)
            beyond = np.maximum(self.largest - held, 0)
            return int(((beyond if self.mandatory else outside) * self.expert_bytes).max(initial=0))
        group = int((self.largest * self.expert_bytes).max(initial=0))
        rest = int((self.experts * self.expert_bytes).sum()) - limit
        return max(0, min(group - limit if self.mandatory else group, rest))


def most_requests(trace: Trace, tokens: Tokens) -> int:
    """The most requests that a step serves."""
    rows = np.arange(trace.tokens) if tokens.rows is None else tokens.rows
    steps = np.repeat(np.arange(tokens.n_steps), np.diff(tokens.starts))
    pairs = np.unique(steps * 2**32 + trace.request[rows].astype(np.int64) % 2**32)
    return int(np.bincount(pairs // 2**32, minlength=1).max())
