"""From decisions to groups: which distinct experts each step needs, and when each is used next."""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import borrowed, kernel
from remoe_sim.kernels.lists import at

ID_TOO_LARGE, REPEATED = 1, 2


@kernel
def check_decisions(experts, valid, n_experts, marks):
    """First fault of a layer's decisions: (row, slot, code), or (-1, -1, 0).

    experts uint16[rows, k]; valid bool[rows, k], or bool[0, 0] when every slot is valid; marks int64[n_experts], all
    -1.
    """
    rows, k = experts.shape
    masked = valid.size > 0
    for row in range(rows):
        for slot in range(k):
            if masked and not valid[row, slot]:
                continue
            expert = np.int64(experts[row, slot])
            if expert >= n_experts:
                return row, slot, ID_TOO_LARGE
            if marks[expert] == row:
                return row, slot, REPEATED
            marks[expert] = row
    return -1, -1, 0


@kernel
def group_steps(experts, valid, kinds, starts, by_last, marks, offsets, members, member_kinds, steps):
    """Distinct experts of every step; returns how many groups there are (steps without a valid slot have none).

    experts uint16[rows, k]; valid as in `check_decisions`; kinds uint8[rows], the largest of a step wins; starts
    int64[n_steps + 1], rows of each step; by_last: order of last appearance, else of first; marks int64[n_experts],
    all -1. Written: offsets int64[n_steps + 1], members uint16[slots], member_kinds uint8[slots], steps int32[n_steps].
    """
    k = experts.shape[1]
    masked = valid.size > 0
    groups = 0
    end = 0
    offsets[0] = 0
    for step in range(starts.size - 1):
        begin = end
        first, last = starts[step], starts[step + 1]
        for i in range((last - first) * k):
            at = (last - first) * k - 1 - i if by_last else i
            row, slot = first + at // k, at % k
            if masked and not valid[row, slot]:
                continue
            expert = np.int64(experts[row, slot])
            place = marks[expert]
            if place < begin:  # marks of earlier steps lie before this step's first member
                marks[expert] = end
                members[end] = expert
                member_kinds[end] = kinds[row]
                end += 1
            elif kinds[row] > member_kinds[place]:
                member_kinds[place] = kinds[row]
        if end > begin:
            if by_last:
                for i in range((end - begin) // 2):  # `marks` may now name a mirrored place of this step: harmless
                    a, b = begin + i, end - 1 - i
                    members[a], members[b] = members[b], members[a]
                    member_kinds[a], member_kinds[b] = member_kinds[b], member_kinds[a]
            steps[groups] = step
            groups += 1
            offsets[groups] = end
    return groups


@kernel
def merge_layers(step, entry_base, offsets, members, kinds, cursor, out_offsets, out_entries, out_kinds):
    """Copy one layer's groups to their places in the execution order of all layers.

    step int32[groups] of this layer; cursor int64[n_steps], the index of the next free event of each step (advanced);
    out_offsets int64[events + 1] is already final; members become entry_base + member (out_entries uint16 or int32).
    """
    for group in range(step.size):
        event = cursor[step[group]]
        cursor[step[group]] = event + 1
        to = out_offsets[event]
        for i in range(offsets[group], offsets[group + 1]):
            out_entries[to] = entry_base + np.int64(members[i])
            out_kinds[to] = kinds[i]
            to += 1


@kernel
def next_uses(offsets, entries, epochs, base, never, upcoming, keys, first_keys):
    """Belady's key of every lookup: unique, smaller is needed sooner.

    The key is the place that the entry's next lookup would have if every group were sorted by entry, the first place
    being `base`; an entry that is not used again before the cache is emptied gets never + entry. offsets
    int64[groups + 1]; entries[N]; epochs int64[n + 1], group bounds between which the cache lives; upcoming
    int64[n_entries], the keys of all entries behind the last epoch, overwritten; keys uint32 or int64[N], written;
    first_keys int64[n_epochs, n_entries]: the key of each entry when the epoch starts, written if it has any rows.
    """
    entries, keys, upcoming = borrowed(entries), borrowed(keys), borrowed(upcoming)
    for epoch in range(epochs.size - 2, -1, -1):
        if epoch < epochs.size - 2:
            for entry in range(upcoming.size):
                upcoming[entry] = never + entry
        for group in range(epochs[epoch + 1] - 1, epochs[epoch] - 1, -1):
            begin, end = offsets[group], offsets[group + 1]
            for i in range(begin, end):
                entry = entries[at(i)]
                keys[at(i)] = upcoming[at(entry)]
                upcoming[at(entry)] = base + begin + _rank(entries, begin, end, entry)
        if first_keys.shape[0]:
            for entry in range(upcoming.size):
                first_keys[epoch, entry] = upcoming[entry]


@kernel(unfold=True)
def _rank(entries, begin, end, entry):
    """How many members of a group are below `entry`."""
    rank = 0
    for j in range(begin, end):
        rank += entries[at(j)] < entry
    return rank


@kernel
def first_places(offsets, entries, groups, base, never, places):
    """The key that `next_uses` gives to each entry before the first `groups` groups: places int64[n_entries], all
    never or more at first; those of entries that are not used stay as they are."""
    missing = places.size
    for group in range(groups):
        if missing == 0:
            break
        begin, end = offsets[group], offsets[group + 1]
        for i in range(begin, end):
            entry = np.int64(entries[i])
            if places[entry] >= never:
                places[entry] = base + begin + _rank(entries, begin, end, entry)
                missing -= 1


@kernel
def first_uses(offsets, entries, epochs, seen, first):
    """Mark the first lookup of every entry in every epoch: first bool[N], written; seen int64[n_entries], all -1."""
    for epoch in range(epochs.size - 1):
        for i in range(offsets[epochs[epoch]], offsets[epochs[epoch + 1]]):
            entry = np.int64(entries[i])
            first[i] = seen[entry] != epoch
            seen[entry] = epoch
