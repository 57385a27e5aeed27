"""What work on a layer, or on all lookups of a shared cache, holds in memory while it runs: estimates from above.

They decide how many layers are worked on side by side (`remoe_sim.util.threads.fitting`), never what comes out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remoe_sim.trace.accesses import Stream
    from remoe_sim.trace.trace import Trace

DECISION = 3  # bytes of a slot: its id, and whether it is there
ACCESS = 3  # of a lookup: its entry and its kind
GROUP = 12  # of a group: where it begins and its step
REPLAYED = 23  # of a lookup by a policy: key, owner or depths, hit, first use, and a copy of the entry
RESTING = 32  # of a group by a policy: what is held at rest and meanwhile, and a copy
LANE = 8  # of a lookup of one of many layers that are replayed at once: two ranks
ORDERED = 17  # of a token where tokens are taken request by request
TIMED = 22  # of a step and layer: counts by where they are read from, and what came late


def of_decisions(trace: Trace) -> int:
    """Bytes of the decisions of the largest layer, and of the order in which tokens are taken."""
    return trace.tokens * (max(trace.model.top_k) * DECISION + ORDERED)


def of_part(trace: Trace, rows: int, policies: int) -> int:
    """Bytes of a part of a layer that is replayed by itself."""
    tokens = min(rows, trace.tokens)
    slots = tokens * max(trace.model.top_k)
    return slots * (DECISION + ACCESS + REPLAYED) + tokens * (GROUP + RESTING * policies)


def of_shared(stream: Stream) -> int:
    """Bytes of what a policy makes of a cache of all layers at one limit."""
    return stream.entries.size * REPLAYED + stream.steps.size * RESTING


def of_timeline(steps: int, layers: int) -> int:
    """Bytes of the times of all steps."""
    return steps * (layers * TIMED + 100)
