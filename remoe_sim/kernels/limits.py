"""Replay at one limit, entry sizes equal or not: what stays is chosen once for the whole group.

offsets int64[groups + 1] and entries[N] are the groups of one cache, epochs int64[n + 1] the group bounds between
which it lives, sizes int64[n_entries] what each entry takes of the limit, weights int64[n_entries] its bytes. preload
int32[m] are the entries that every epoch starts with, best first. Written: hit bool[N]; resting int64[groups], the
bytes of the residents after each group; running int64[groups], those of the residents and the running group together:
S' ∪ R under mandatory admission, S ∪ R under bypass.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.compile import kernel


@kernel
def ordered_replay(
    offsets, entries, keys, epochs, preload, preload_keys, sizes, weights, limit, mandatory, hit, resting, running
):
    """Keep the smallest keys, members of the group before all others if `mandatory`; returns the evictions.

    keys, preload_keys as in `stacks.ordered_depths`. Residents lie in a heap with the worst on top; an entry that
    was used since it was pushed is recognised by its stale key and skipped.
    """
    n = sizes.size
    key = np.empty(n, keys.dtype)
    resident = np.zeros(n, np.bool_)
    member = np.full(n, -1, np.int64)
    room = 4 * n + 16
    heap_keys = np.empty(room, keys.dtype)
    heap = np.empty(room, np.int64)
    evictions = 0
    for epoch in range(epochs.size - 1):
        resident[:] = False
        used = np.int64(0)
        held = np.int64(0)
        pushed = 0
        for rank in range(preload.size):
            entry = np.int64(preload[rank])
            if used + sizes[entry] > limit:
                break
            used += sizes[entry]
            held += weights[entry]
            resident[entry] = True
            key[entry] = preload_keys[epoch % preload_keys.shape[0], entry]
            _push(heap, heap_keys, pushed, entry, key[entry])
            pushed += 1
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            if pushed + 2 * (end - begin) > room:
                pushed = _compact(heap, heap_keys, resident, key)
            for i in range(begin, end):
                entry = np.int64(entries[i])
                hit[i] = resident[entry]
                key[entry] = keys[i]
                member[entry] = group
                if not resident[entry]:
                    used += sizes[entry]
                    held += weights[entry]
                    resident[entry] = True
            together = held  # S ∪ R
            compete = not mandatory  # whether members may leave
            if compete:
                pushed = _push_group(heap, heap_keys, pushed, entries, keys, begin, end)
            while used > limit:
                if pushed == 0:  # only members are left
                    compete = True
                    pushed = _push_group(heap, heap_keys, pushed, entries, keys, begin, end)
                worst, worst_key = heap[0], heap_keys[0]
                pushed -= 1
                _pop(heap, heap_keys, pushed)
                stale = not resident[worst] or key[worst] != worst_key
                if stale or (member[worst] == group and not compete):
                    continue
                resident[worst] = False
                used -= sizes[worst]
                held -= weights[worst]
                evictions += member[worst] != group
            outside = np.int64(0)  # bytes of the members that are not kept
            for i in range(begin, end):
                entry = np.int64(entries[i])
                if not resident[entry]:
                    outside += weights[entry]
                    evictions += hit[i]
            if not compete:
                pushed = _push_group(heap, heap_keys, pushed, entries, keys, begin, end)
            resting[group] = held
            running[group] = held + outside if mandatory else together
    return evictions


@kernel
def _push_group(heap, heap_keys, size, entries, keys, begin, end):
    for i in range(begin, end):
        _push(heap, heap_keys, size, np.int64(entries[i]), keys[i])
        size += 1
    return size


@kernel
def _push(heap, heap_keys, at, entry, key):
    """Add to a heap of size `at`; of equal keys the higher entry is the worse."""
    while at > 0:
        parent = (at - 1) >> 1
        if heap_keys[parent] > key or (heap_keys[parent] == key and heap[parent] >= entry):
            break
        heap[at], heap_keys[at] = heap[parent], heap_keys[parent]
        at = parent
    heap[at], heap_keys[at] = entry, key


@kernel
def _pop(heap, heap_keys, size):
    """Remove the top; `size` is what remains. The last element sinks from the top."""
    entry, key = heap[size], heap_keys[size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            heap_keys[right] > heap_keys[child] or (heap_keys[right] == heap_keys[child] and heap[right] > heap[child])
        ):
            child = right
        if key > heap_keys[child] or (key == heap_keys[child] and entry >= heap[child]):
            break
        heap[at], heap_keys[at] = heap[child], heap_keys[child]
        at = child
    heap[at], heap_keys[at] = entry, key


@kernel
def _compact(heap, heap_keys, resident, key):
    """Rebuild the heap from the residents, without what went stale."""
    size = 0
    for entry in range(resident.size):
        if resident[entry]:
            _push(heap, heap_keys, size, entry, key[entry])
            size += 1
    return size
