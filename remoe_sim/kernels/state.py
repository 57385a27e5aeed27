"""What policies keep in their state: draws by chance, and real numbers."""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import kernel

RANGE = 2**32
_MASK = 2**64 - 1


def first_state(seed: int) -> int:
    """Where the sequence of a seed starts, int64 and never 0: the first output of splitmix64 (Steele et al., 2014)."""
    x = (seed + 1) * 0x9E3779B97F4A7C15 & _MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    x = (x ^ x >> 31) or 1
    return x - (x >> 63 << 64)


@kernel
def draw(state, row, column):
    """A number below RANGE; the cell holds where the sequence is."""
    cells = state[row].view(np.uint64)
    x = cells[column]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    cells[column] = x
    return np.int64(x >> np.uint64(32))


@kernel
def real(state, row, column):
    return state[row].view(np.float64)[column]


@kernel
def set_real(state, row, column, value):
    state[row].view(np.float64)[column] = value
