"""A counting Bloom filter inside a policy's state: how often entries were used of late, or more.

Its sizes and hashes are those of libCacheSim, so that estimates err alike. ERROR is the chance that all HASHES counters
of an entry that was never used are taken by others, if as many entries were used as the sketch is made for. With two
XXH64 of its number, a and b, an entry has the counters a + i b (Kirsch, Mitzenmacher: Less hashing, same performance,
2006).

ROWS rows from `row`: a and b of each entry, which `hashes` makes; the others are taken for one array of 32-bit numbers,
HASHES places for each entry, then the counters.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.compile import kernel
from remoe_sim.kernels.lists import at

ERROR = 0.001
COUNTERS_PER_ENTRY = -math.log(ERROR) / 0.480453013918201  # (ln 2)²
HASHES = 10  # COUNTERS_PER_ENTRY · ln 2, rounded up
ROWS = 15  # two, and 26 numbers of 32 bits per entry


@lru_cache(maxsize=4)
def hashes(n_entries: int) -> npt.NDArray[np.int64]:
    """int64[2, n_entries]: the lower halves of two hashes of each entry's number."""
    from xxhash import xxh64_intdigest

    numbers = [entry.to_bytes(8, "little") for entry in range(n_entries)]
    return np.array(
        [[xxh64_intdigest(number, seed) % 2**32 for number in numbers] for seed in (0x12345678, 0x12344321)], np.int64
    )


@kernel
def clear_sketch(state, row, entries):
    """No uses; made for `entries` entries, at most all there are."""
    n = state.shape[1] - 2
    cells = _cells(state, row)
    counters = max(np.int64(math.ceil(COUNTERS_PER_ENTRY * entries)), 2 * HASHES)
    for entry in range(n):
        for i in range(HASHES):
            place = ((state[row, entry] + i * state[row + 1, entry]) & 0xFFFFFFFF) % counters
            cells[HASHES * entry + i] = HASHES * n + place
    cells[HASHES * n :] = 0


@kernel
def count_sketched(state, row, entry):
    """One use more."""
    cells = _cells(state, row)
    for i in range(HASHES * entry, HASHES * (entry + 1)):
        cells[at(cells[at(i)])] += 1


@kernel
def estimate(state, row, entry):
    """Uses of an entry, or more."""
    cells = _cells(state, row)
    least = cells[at(cells[at(HASHES * entry)])]
    for i in range(HASHES * entry + 1, HASHES * (entry + 1)):
        least = min(least, cells[at(cells[at(i)])])
    return least


@kernel
def halve(state, row):
    """Half of every count."""
    cells = _cells(state, row)
    for i in range(HASHES * (state.shape[1] - 2), cells.size):
        cells[i] >>= 1


@kernel
def _cells(state, row):
    return state[row + 2 : row + ROWS].reshape(-1).view(np.int32)
