"""LRU at one limit, entry sizes equal or not: the accesses themselves are the list of what is resident.

An access is live as long as it is the last one of its entry, and all live accesses from `tail` on are the residents,
the oldest first. To evict is to move the tail up, which passes every access once; nothing is linked or moved.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.compile import kernel
from remoe_sim.kernels.borrowed import borrowed
from remoe_sim.kernels.lists import at


@kernel
def recency_replay(offsets, entries, epochs, preload, sizes, weights, limit, mandatory, hit, resting, running):
    """Arguments as in `limits`; returns the evictions. Members of a group are younger than all others, the last the
    youngest, under either admission. What is preloaded counts as accessed before the first access, the best last."""
    entries, sizes, weights, hit = borrowed(entries), borrowed(sizes), borrowed(weights), borrowed(hit)
    n = sizes.size
    last = np.empty(n, np.int64)
    evictions = 0
    for epoch in range(epochs.size - 1):
        start = offsets[epochs[epoch]]
        last[:] = start - n - 1
        used = np.int64(0)
        held = np.int64(0)
        tail = start
        for rank in range(preload.size):
            entry = np.int64(preload[rank])
            if used + sizes[entry] > limit:
                break
            used += sizes[entry]
            held += weights[entry]
            tail -= 1
            last[entry] = tail
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            for i in range(begin, end):
                entry = at(entries[at(i)])
                resident = last[entry] >= tail
                hit[at(i)] = resident
                used += sizes[entry] * (not resident)
                held += weights[entry] * (not resident)
                last[entry] = i
            together = held  # S ∪ R
            outside = np.int64(0)  # bytes of the members that are not kept
            while used > limit:
                entry = at(preload[at(start - 1 - tail)]) if tail < start else at(entries[at(tail)])
                if last[entry] == tail:
                    used -= sizes[entry]
                    held -= weights[entry]
                    if tail < begin:
                        evictions += 1
                    else:
                        outside += weights[entry]
                        evictions += hit[at(tail)]
                tail += 1
            resting[group] = held
            running[group] = held + outside if mandatory else together
    return evictions
