"""Per lookup, what the past says of its entry: the raw material of keys."""

from __future__ import annotations

import numpy as np

from remoe_sim.compile import kernel


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
