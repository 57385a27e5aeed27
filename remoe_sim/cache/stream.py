"""Replay one stream of accesses by one policy: check what it did, and count it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from remoe_sim.cache.caches import NONE, Entries, most_held, room_beside, starting_bytes, with_pinned, without
from remoe_sim.kernels import tallies

if TYPE_CHECKING:
    from remoe_sim.policy.base import Policy
    from remoe_sim.policy.outcome import Outcome, Rules
    from remoe_sim.trace.accesses import Stream
    from remoe_sim.util.arrays import Longs

LOOKUPS, HITS, COLD, BYTES = range(4)  # columns of a table of counts, one row per kind of lookup


@dataclass
class Tally:
    """Counts of one policy: int64[3, 4] per kind of lookup, evictions, and the most that was held at once."""

    table: Longs
    evictions: int = 0
    peak: int = 0


def check_outcome(stream: Stream, outcome: Outcome, limit: int) -> None:
    """Recompute on every run what must hold: at rest a cache is never above its limit.

    Raises RuntimeError, which is a defect of a policy or of this package, not of the input.
    """
    most = limit if stream.in_bytes else int(np.sort(stream.weights)[::-1][:limit].sum())  # `limit` of the largest
    if outcome.resting.size and int(outcome.resting.max()) > most:
        raise RuntimeError(f"residents take {outcome.resting.max()} where {most} are allowed; please report this")
    if outcome.evictions < 0:
        raise RuntimeError(f"{outcome.evictions} evictions; please report this")


def replay_stream(
    policy: Policy, stream: Stream, limit: int, rules: Rules, pinned: Entries = NONE
) -> tuple[Stream, Outcome, Tally]:
    """Replay one cache, check the outcome and count it; the stream comes back without lookups of pinned entries."""
    table = np.zeros((3, 4), np.int64)
    free, full = limit, stream
    if pinned.size:
        free = room_beside(stream, pinned, limit)
        stream, hits = without(stream, pinned)
        table[:, LOOKUPS] = table[:, HITS] = hits
    outcome = policy.replay(stream, free, rules)
    check_outcome(stream, outcome, free)
    tallies.tally(stream.entries, stream.kinds, outcome.hit, stream.first, stream.weights, table)
    peak = int(outcome.running.max(initial=0))
    if pinned.size:
        peak = most_held(full, stream, pinned, outcome, starting_bytes(stream, rules.preload, free))
        outcome = with_pinned(stream, pinned, outcome)
    return stream, outcome, Tally(table, int(outcome.evictions), peak)
