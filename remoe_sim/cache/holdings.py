"""Estimate the memory that work on the caches of a call takes, from above."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remoe_sim.trace.holdings import ACCESS, DECISION, GROUP, LANE, REPLAYED, RESTING

if TYPE_CHECKING:
    from remoe_sim.cache.caches import Caches


def of_replay(caches: Caches) -> int:
    """Bytes of a layer from its decisions to what a policy makes of it."""
    return of_accesses(caches) + _lookups(caches) * REPLAYED + _groups(caches) * RESTING


def of_lane(caches: Caches) -> int:
    """Bytes of each of many layers that are replayed at once."""
    return of_accesses(caches) + _lookups(caches) * LANE + _groups(caches) * 8


def of_accesses(caches: Caches) -> int:
    """Bytes of a layer's decisions and accesses."""
    slots = max(caches.trace.model.top_k) * DECISION
    read = caches.trace.tokens * slots
    taken = 0 if caches.tokens.rows is None else caches.tokens.kinds.size * slots
    return read + taken + _lookups(caches) * ACCESS + _groups(caches) * GROUP


def of_outcomes(caches: Caches, policies: int) -> int:
    """Bytes of what is kept of a replayed layer until all layers before it are folded in."""
    return _groups(caches) * (4 + 4 * policies)


def _lookups(caches: Caches) -> int:
    return caches.tokens.kinds.size * max(caches.trace.model.top_k)


def _groups(caches: Caches) -> int:
    return _lookups(caches) if caches.settings.order == "sequential" else caches.tokens.n_steps
