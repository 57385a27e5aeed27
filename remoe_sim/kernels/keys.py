"""Keys of stack policies: what the history of an expert says, and ranks in place of keys."""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import borrowed, kernel
from remoe_sim.kernels.lists import at


@kernel
def use_counts(offsets, entries, epochs, count, counts):
    """counts int64[N], written: how often the entry was used in its epoch, this time included.

    offsets int64[groups + 1]; entries[N]; epochs int64[n + 1], group bounds; count int64[n_entries], how often each
    entry was used in the first epoch before, and afterwards in the last.
    """
    for epoch in range(epochs.size - 1):
        if epoch:
            count[:] = 0
        for i in range(offsets[epochs[epoch]], offsets[epochs[epoch + 1]]):
            entry = np.int64(entries[i])
            count[entry] += 1
            counts[i] = count[entry]


@kernel
def latest(entries, values, kept):
    """kept[n_entries], written where there is one: the value at the last lookup of an entry. entries[N], values[N]."""
    for i in range(entries.size):
        kept[np.int64(entries[i])] = values[i]


MOST = 2**31 - 2
NEVER = np.uint32(MOST)


@kernel
def next_ranks(offsets, entries, epochs, upcoming, ranks):
    """Belady's: the next group that uses the entry, then the entry; those not used again come last, by entry.

    upcoming uint32[n_entries] is scratch; (groups + 1) · n_entries must be below MOST.
    """
    entries, upcoming, ranks = borrowed(entries), borrowed(upcoming), borrowed(ranks)
    n = upcoming.size
    groups = offsets.size - 1
    for epoch in range(epochs.size - 2, -1, -1):
        for entry in range(n):
            upcoming[entry] = groups * n + entry
        for group in range(epochs[epoch + 1] - 1, epochs[epoch] - 1, -1):
            for i in range(offsets[group], offsets[group + 1]):
                entry = at(entries[at(i)])
                ranks[at(i)] = upcoming[entry]
                upcoming[entry] = group * n + np.int64(entry)


@kernel
def count_ranks(offsets, entries, epochs, count, ranks):
    """LFU's: more uses since the cache was empty come first, of equal ones the more recent; count int64[n_entries] is
    scratch."""
    entries, count, ranks = borrowed(entries), borrowed(count), borrowed(ranks)
    fewer = np.zeros(offsets.size + 2, np.int64)  # by uses: lookups with fewer
    for epoch in range(epochs.size - 1):
        count[:] = 0
        for i in range(offsets[epochs[epoch]], offsets[epochs[epoch + 1]]):
            entry = at(entries[at(i)])
            uses = count[entry] + 1
            count[entry] = uses
            ranks[at(i)] = uses
            fewer[at(uses + 1)] += 1
    for uses in range(1, fewer.size):
        fewer[uses] += fewer[uses - 1]
    for i in range(ranks.size):
        uses = at(ranks[at(i)])
        ranks[at(i)] = ranks.size - 1 - fewer[uses]
        fewer[uses] += 1


@kernel
def ranks_before(offsets, entries, epochs, ranks, last, before):
    """before uint32[N], written: the rank of the entry by its last use, NEVER if there was none; last uint32[n_entries]
    is scratch."""
    entries, ranks, last, before = borrowed(entries), borrowed(ranks), borrowed(last), borrowed(before)
    for epoch in range(epochs.size - 1):
        last[:] = NEVER
        for i in range(offsets[epochs[epoch]], offsets[epochs[epoch + 1]]):
            entry = at(entries[at(i)])
            before[at(i)] = last[entry]
            last[entry] = ranks[at(i)]
