"""One pass for every capacity: the stack distance of each lookup (Mattson et al., 1970), with groups.

The experts of a cache form a stack whose first C are resident at capacity C. A lookup at depth d hits at every
capacity above d. All functions work on one cache: offsets int64[groups + 1] and entries[N] are its groups, epochs
int64[n + 1] the group bounds between which the cache lives, and before[N] receives the depth of every lookup
(n_entries when the entry is not in the stack). preload int32[m] is the stack that every epoch starts with.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import borrowed, kernel
from remoe_sim.kernels.lists import at

WIDE = 32  # positions that are moved by one instruction, where they are bytes


@kernel
def recency_depths(offsets, epochs, goes_on, n_entries, preload, entries, position, before):
    """Depths under LRU. position[a multiple of WIDE, at least n_entries], of the smallest unsigned type that holds
    n_entries, is what the call before left if the first epoch `goes_on` with it, else scratch.

    `position[e]` is the number of experts touched more recently. The members of a group are found where they were
    before it, and then go in front as if a few came at a time.
    """
    position, entries, before = borrowed(position), borrowed(entries), borrowed(before)
    for epoch in range(epochs.size - 1):
        if epoch > 0 or not goes_on:
            for entry in range(position.size):
                position[entry] = n_entries
            for rank in range(preload.size):
                position[preload[rank]] = rank
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            for i in range(begin, end):
                before[at(i)] = position[at(entries[at(i)])]
            while begin < end:
                if 4 < end - begin <= 6:
                    _bring_in_front(position, entries, begin, end, True)
                    break
                _bring_in_front(position, entries, begin, min(begin + 4, end), False)
                begin += 4


@kernel
def recency_counts_of_two(
    offsets, epochs, goes_on, n_entries, entries, kinds, position, counts, entries_2, kinds_2, position_2, counts_2
):
    """Add to counts int64[3, n_entries + 1] the lookups of each kind at each depth, and so for a second cache whose
    groups have the same offsets; arguments as in `recency_depths`, kinds uint8[N], no preload.

    In one cache every group waits for the one before it; the processor fills that time with the other's, which makes
    it 1.5 to 1.9 times as fast with byte positions, and with counting, which costs little here. Both are written out:
    a loop over caches gains little.
    """
    position, entries, kinds = borrowed(position), borrowed(entries), borrowed(kinds)
    position_2, entries_2, kinds_2 = borrowed(position_2), borrowed(entries_2), borrowed(kinds_2)
    for epoch in range(epochs.size - 1):
        if epoch > 0 or not goes_on:
            for entry in range(position.size):
                position[entry] = position_2[entry] = n_entries
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            for i in range(begin, end):  # both before either moves: half as quick again as one after the other
                counts[at(kinds[at(i)]), at(position[at(entries[at(i)])])] += 1
            for i in range(begin, end):
                counts_2[at(kinds_2[at(i)]), at(position_2[at(entries_2[at(i)])])] += 1
            while begin < end:
                if 4 < end - begin <= 6:
                    _bring_in_front(position, entries, begin, end, True)
                    _bring_in_front(position_2, entries_2, begin, end, True)
                    break
                _bring_in_front(position, entries, begin, min(begin + 4, end), False)
                _bring_in_front(position_2, entries_2, begin, min(begin + 4, end), False)
                begin += 4


@kernel(unfold=True)
def _bring_in_front(position, entries, begin, end, six):
    """Put up to 4 members in front, or up to 6, the last on top, and move every other expert down by the number of
    those that were behind it.

    All experts are gone through without a branch, and the members are put right afterwards. Who is not there is at
    depth 0, which is behind nothing. The inner loop has a fixed length, so that it becomes a few vector instructions;
    sums have the type of a position for the same reason.
    """
    kind = position.dtype.type
    last = end - begin - 1
    depth_b = depth_c = depth_d = depth_e = depth_f = kind(0)
    a = b = c = d = e = f = at(entries[at(begin)])
    depth_a = position[a]
    if last > 0:
        b = at(entries[at(begin + 1)])
        depth_b = position[b]
    if last > 1:
        c = at(entries[at(begin + 2)])
        depth_c = position[c]
    if last > 2:
        d = at(entries[at(begin + 3)])
        depth_d = position[d]
    if six:
        e = at(entries[at(begin + 4)])
        depth_e = position[e]
        if last > 4:
            f = at(entries[at(begin + 5)])
            depth_f = position[f]
    for block in range(0, position.size, WIDE):
        for place in range(WIDE):
            p = position[at(block) + at(place)]
            behind = kind(kind(p < depth_a) + kind(p < depth_b) + kind(p < depth_c) + kind(p < depth_d))
            behind = kind(behind + kind(p < depth_e) + kind(p < depth_f))
            position[at(block) + at(place)] = kind(p + behind)
    position[a] = kind(last)
    if last > 0:
        position[b] = kind(last - 1)
    if last > 1:
        position[c] = kind(last - 2)
    if last > 2:
        position[d] = kind(last - 3)
    if six:
        position[e] = kind(last - 4)
        if last > 4:
            position[f] = kind(0)


@kernel
def ordered_depths(offsets, entries, keys, epochs, preload, preload_keys, mandatory, hole, most, depth, before, after):
    """Depths under any policy that keeps the smallest key, where a key changes only when its entry is used.

    Depths of `most` and more are not told apart: they are n_entries, and the stack ends there.

    keys[N] is the key of the entry after each lookup, preload_keys[m, n_entries] the keys at the start of epoch number
    e in row e mod m (read for preloaded entries only); all are below `hole`, and ties keep the lower entry. Under
    `mandatory` admission the members of a group come before all others. Scratch: depth int32[n_entries]. Also written:
    after[N], the depth of each member after its group.

    Members leave holes in the stack, as is everything below its end. A pool of displaced entries, never more than the
    group has members, moves down and leaves its best wherever it beats what is there, or where there is a hole; it is
    empty when the last hole is filled. `pool` is sorted with the best at the end.
    """
    n = depth.size
    stack, stack_keys = np.empty(n + 1, np.int32), np.empty(n + 1, keys.dtype)  # with a hole at the end
    members, member_keys = np.empty(n, np.int32), np.empty(n, keys.dtype)
    pool, pool_keys = np.empty(n, np.int32), np.empty(n, keys.dtype)
    for epoch in range(epochs.size - 1):
        for entry in range(n):
            depth[entry] = n
        for place in range(n + 1):
            stack_keys[place] = hole
        for rank in range(min(preload.size, most)):
            entry = preload[rank]
            stack[rank], stack_keys[rank] = entry, preload_keys[epoch % preload_keys.shape[0], entry]
            depth[entry] = rank
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            count = end - begin
            for i in range(begin, end):
                entry = np.int64(entries[i])
                before[i] = depth[entry]
                if depth[entry] < n:
                    stack_keys[depth[entry]] = hole
                _insert(members, member_keys, i - begin, entry, keys[i])
            at = np.int64(0)
            waiting = np.int64(0)
            if mandatory:
                for i in range(count - most):
                    depth[members[i]] = n
                for at in range(min(count, most)):
                    if stack_keys[at] != hole:
                        _insert(pool, pool_keys, waiting, np.int64(stack[at]), stack_keys[at])
                        waiting += 1
                    member = count - 1 - at
                    stack[at], stack_keys[at] = members[member], member_keys[member]
                    depth[members[member]] = at
                at = np.int64(min(count, most))
            else:
                waiting = np.int64(count)
                for i in range(count):
                    pool[i], pool_keys[i] = members[i], member_keys[i]
            while waiting > 0:
                best, best_key = pool[waiting - 1], pool_keys[waiting - 1]
                while stack_keys[at] < best_key or (stack_keys[at] == best_key and stack[at] < best):
                    at += 1
                if at == most:  # what is still in the pool leaves
                    for i in range(waiting):
                        depth[pool[i]] = n
                    break
                displaced, displaced_key = stack[at], stack_keys[at]
                waiting -= 1
                stack[at], stack_keys[at] = best, best_key
                depth[best] = at
                if displaced_key != hole:
                    _insert(pool, pool_keys, waiting, np.int64(displaced), displaced_key)
                    waiting += 1
                at += 1
            for i in range(begin, end):
                after[i] = depth[np.int64(entries[i])]


@kernel
def _insert(pool, pool_keys, size, entry, key):
    """Put `entry` into the first `size` places, which are sorted from the worst to the best."""
    at = size
    while at > 0 and (pool_keys[at - 1] < key or (pool_keys[at - 1] == key and pool[at - 1] < entry)):
        pool[at], pool_keys[at] = pool[at - 1], pool_keys[at - 1]
        at -= 1
    pool[at], pool_keys[at] = entry, key


@kernel
def stack_replay(offsets, before, after, epochs, capacity, absent, preloaded, mandatory, hit, resting, running):
    """What a stack's depths say about one capacity; returns the evictions.

    after may be empty: the group is in front then, the last on top. absent: the depth that stands for "not in the
    stack"; preloaded: how many entries the stack starts with.
    Written: hit bool[N]; resting int64[groups], residents after each group; running int64[groups], residents that the
    group holds in memory while it is computed: S' ∪ R under mandatory admission, S ∪ R under bypass. Counts of entries.
    """
    evictions = 0
    for epoch in range(epochs.size - 1):
        size = preloaded  # of the whole stack: entries seen so far
        for group in range(epochs[epoch], epochs[epoch + 1]):
            end = offsets[group + 1]
            residents = min(size, capacity)
            misses = 0
            admitted = 0
            outside = 0
            for i in range(offsets[group], end):
                resident = before[i] < capacity
                kept = (np.int64(after[i]) if after.size else end - 1 - i) < capacity
                hit[i] = resident
                misses += not resident
                admitted += kept and not resident
                outside += not kept
                size += before[i] == absent
            resting[group] = min(size, capacity)
            running[group] = resting[group] + outside if mandatory else residents + misses
            evictions += residents + admitted - resting[group]
    return evictions
