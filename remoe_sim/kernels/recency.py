"""Replay of least recently used: at one limit, and with entries that differ in size."""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import borrowed, kernel
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


ABSENT = np.int64(2**63 - 1)  # above every limit


@kernel
def recency_bytes(offsets, entries, epochs, preload, sizes, needed):
    """needed int64[N], written: the smallest budget at which the lookup hits, ABSENT if none.

    offsets int64[groups + 1], entries[N], epochs int64[n + 1], preload int32[m] (best first), sizes int64[n_entries].
    The tree (Fenwick) holds the size of each entry at the slot of its last use; when the slots run out they are
    numbered anew in the same order.
    """
    n = sizes.size
    slots = 2 * n + 2
    tree = np.zeros(slots + 1, np.int64)
    slot_of = np.empty(n, np.int64)
    owner = np.empty(slots + 1, np.int64)
    for epoch in range(epochs.size - 1):
        tree[:] = 0
        slot_of[:] = 0
        owner[:] = -1
        total = np.int64(0)
        free = 1
        for rank in range(preload.size - 1, -1, -1):
            entry = np.int64(preload[rank])
            slot_of[entry] = free
            owner[free] = entry
            _add(tree, free, sizes[entry])
            total += sizes[entry]
            free += 1
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            for i in range(begin, end):
                slot = slot_of[np.int64(entries[i])]
                needed[i] = total - _sum(tree, slot - 1) if slot else ABSENT
            if free + end - begin > slots:
                free = _renumber(tree, slot_of, owner, sizes)
            for i in range(begin, end):
                entry = np.int64(entries[i])
                slot = slot_of[entry]
                if slot:
                    _add(tree, slot, -sizes[entry])
                    owner[slot] = -1
                else:
                    total += sizes[entry]
                slot_of[entry] = free
                owner[free] = entry
                _add(tree, free, sizes[entry])
                free += 1


@kernel
def _add(tree, at, amount):
    while at < tree.size:
        tree[at] += amount
        at += at & -at


@kernel
def _sum(tree, at):
    total = np.int64(0)
    while at > 0:
        total += tree[at]
        at -= at & -at
    return total


@kernel
def _renumber(tree, slot_of, owner, sizes):
    """Close the gaps between slots in use; returns the first free one."""
    free = 1
    for slot in range(1, owner.size):
        entry = owner[slot]
        if entry >= 0:
            owner[slot] = -1
            owner[free] = entry
            slot_of[entry] = free
            free += 1
    tree[:] = 0
    for slot in range(1, free):
        _add(tree, slot, sizes[owner[slot]])
    return free
