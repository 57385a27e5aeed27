"""Requests that repeat others: shared routing prefixes, duplicates and prompts, which inflate reuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from remoe_sim.trace.trace import PREFILL, Trace

if TYPE_CHECKING:
    from remoe_sim.util.arrays import Longs

Hashes = npt.NDArray[np.uint64]
STEP = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Prefixes:
    """How far requests begin as another one does: the same sets of experts at all layers, token by token.

    shared: int64[requests], the tokens of each request, from its first, that are routed as in another request;
    lengths: int64[requests], its tokens; repeated_tokens: what is left out if each distinct prefix is counted once;
    duplicates: requests that are routed from first to last as an earlier one; prompts, distinct_prompts: requests with
    a prompt of known tokens, and how many of these prompts differ; distinct_prompts is None where token ids are not
    known or some request has no prompt.
    """

    shared: Longs
    lengths: Longs
    repeated_tokens: int
    duplicates: int
    prompts: int
    distinct_prompts: int | None

    def beginning_alike(self, tokens: int) -> int:
        """Requests whose first `tokens` tokens at least are routed as in another request."""
        return int(np.count_nonzero(self.shared >= tokens))


def routing_prefixes(trace: Trace) -> Prefixes:
    """Compare all requests of a trace by 64-bit hashes of what their tokens chose, the order of slots aside."""
    order = np.lexsort((trace.position, trace.request))  # stable: equal positions stay in order
    _, starts, lengths = np.unique(trace.request[order], return_index=True, return_counts=True)
    beginnings = _chained(_token_hashes(trace)[order], starts, lengths)
    _, inverse, counts = np.unique(beginnings, return_inverse=True, return_counts=True)
    shared = np.add.reduceat(counts[inverse] > 1, starts, dtype=np.int64) if starts.size else np.zeros(0, np.int64)
    whole = beginnings[starts + lengths - 1]
    prompts, distinct = _prompts(trace, order, starts.size)
    return Prefixes(
        shared, lengths, trace.tokens - counts.size, int(whole.size - np.unique(whole).size), prompts, distinct
    )


def _token_hashes(trace: Trace) -> Hashes:
    """uint64[tokens]: a sum over layers and slots, so that neither order nor missing slots matter."""
    total = np.zeros(trace.tokens, np.uint64)
    for index in range(trace.moe_layers):
        decisions = trace.decisions(index)
        marks = _mixed(np.arange(trace.model.experts[index], dtype=np.uint64) + np.uint64(index << 20))
        for slot in range(decisions.experts.shape[1]):
            marked = marks[decisions.experts[:, slot]]
            for there in (decisions.routed, None if decisions.valid is None else decisions.valid[:, slot]):
                if there is not None:
                    marked = np.where(there, marked, np.uint64(0))
            total += marked
    return total


def _chained(hashes: Hashes, starts: Longs, lengths: Longs) -> Hashes:
    """What each request was up to each of its tokens; sums wrap."""
    place = (np.arange(hashes.size) - np.repeat(starts, lengths)).astype(np.uint64)
    sums = np.cumsum(_mixed(hashes + place * STEP), dtype=np.uint64)
    before = np.where(starts > 0, sums[starts - 1], np.uint64(0))
    chained: Hashes = sums - np.repeat(before, lengths)
    return chained


def _prompts(trace: Trace, order: Longs, requests: int) -> tuple[int, int | None]:
    rows = order[trace.phase[order] == PREFILL]
    if trace.token_id is None or not rows.size:
        return 0, None
    _, starts, lengths = np.unique(trace.request[rows], return_index=True, return_counts=True)
    whole = _chained(trace.token_id[rows].astype(np.uint64), starts, lengths)[starts + lengths - 1]
    return starts.size, int(np.unique(whole).size) if starts.size == requests else None


def _mixed(values: Hashes) -> Hashes:
    """SplitMix64 (Steele, Lea and Flood, 2014): every bit of a number changes half of the bits of its hash."""
    values = values + STEP
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = values ^ (values >> np.uint64(31))
    return mixed
