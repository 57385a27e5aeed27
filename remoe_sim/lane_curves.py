"""Curves of several layers at once, which is several times as fast as one after the other (`kernels.lanes`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from remoe_sim.caches import Caches
from remoe_sim.kernels import lanes
from remoe_sim.kernels.ranks import ranks_before
from remoe_sim.policy import Policy, Ranks, StackPolicy
from remoe_sim.streams import Longs, Stream, Tokens
from remoe_sim.threads import most_threads

LEAST, MOST_EXPERTS = 4, 512  # layers for which it pays, and experts of each
MOST_LOOKUPS = 2**22  # of a layer: what is held for LANES layers is 512 MiB then


def in_lanes(caches: Caches, policies: Sequence[Policy]) -> bool:
    """Whether layers are replayed side by side: whole steps, each of one kind, by caches that start empty."""
    tokens, trace = caches.tokens, caches.trace
    lookups = tokens.kinds.size * max(trace.model.top_k)
    return (
        trace.moe_layers >= LEAST
        and max(trace.model.experts) <= MOST_EXPERTS
        and 0 < lookups <= MOST_LOOKUPS
        and caches.settings.order == "set"
        and not caches.preload.counts
        and any(isinstance(policy, StackPolicy) and policy.ranked for policy in policies)
        and _step_kinds(tokens) is not None
    )


def batches(layers: int, most: int) -> list[list[int]]:
    """Layers that are replayed together: none with more than `most`, a task for every thread to the end, and the
    smaller ones last, so that threads end together."""
    parts, threads = -(-layers // most), most_threads()
    parts = min(layers, -(-parts // threads) * threads)
    return [part.tolist() for part in np.array_split(np.arange(layers), parts)]


def _step_kinds(tokens: Tokens) -> npt.NDArray[np.uint8] | None:
    """What the lookups of each step count as, None if those of one step count as different things."""
    if tokens.one_per_step:
        return tokens.kinds
    least = np.minimum.reduceat(tokens.kinds, tokens.starts[:-1])
    return least if (least == np.maximum.reduceat(tokens.kinds, tokens.starts[:-1])).all() else None


def lane_curves(policy: Policy, caches: Caches, streams: Sequence[Stream]) -> list[Longs] | None:
    """Of each layer, int64[3, E + 1]: hits of each kind of lookup at 0 to E experts; None if the policy has no ranks.

    streams: the accesses of at most LANES layers, groups in the order of steps.
    """
    kinds = _step_kinds(caches.tokens)
    before = np.empty((lanes.LANES, max(stream.entries.size for stream in streams)), np.uint32)
    ranks = np.empty_like(before)
    offsets = np.zeros((lanes.LANES, caches.tokens.n_steps + 1), np.int64)
    for lane, stream in enumerate(streams):
        own = policy.ranks(stream) if isinstance(policy, StackPolicy) else None
        if own is None or kinds is None:
            return None
        _fill(stream, own, before[lane], ranks[lane], offsets[lane])
    depths = -(-max(stream.n_entries for stream in streams) // lanes.DEEP) * lanes.DEEP
    counts = np.zeros((3, depths * lanes.LANES), np.uint32)
    mandatory = caches.settings.mandatory
    lanes.lane_hits(offsets, before, ranks, kinds, caches.tokens.fresh, mandatory, depths, counts)
    by_depth = counts.reshape(3, depths, lanes.LANES).astype(np.int64)
    hits = np.concatenate([np.zeros_like(by_depth[:, :1]), np.cumsum(by_depth, axis=1)], axis=1)
    return [hits[:, : stream.n_entries + 1, lane] for lane, stream in enumerate(streams)]


def _fill(stream: Stream, own: Ranks, before: Ranks, ranks: Ranks, offsets: Longs) -> None:
    """One lane of each array."""
    size = stream.entries.size
    ranks[:size] = own
    last = np.empty(stream.n_entries, np.uint32)
    ranks_before(stream.offsets, stream.entries, stream.epochs, own, last, before[:size])
    if stream.steps.size == offsets.size - 1:
        offsets[:] = stream.offsets
    else:
        offsets[stream.steps + 1] = np.diff(stream.offsets)
        np.cumsum(offsets, out=offsets)
