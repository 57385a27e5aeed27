"""LRU at every byte budget in one pass, sizes equal or not, by a tree of sizes over the order of last use.

An entry is resident at budget B exactly if the bytes touched more recently plus its own fit into B (tree-based stack
distance: Bennett and Kruskal, 1975; Almási, Caşcaval and Padua, 2002; here with a weight per entry).
"""

from __future__ import annotations

import numpy as np

from remoe_sim.compile import kernel

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
