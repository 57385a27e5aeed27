"""Real numbers in the cells of a policy's state, which are int64: the same 64 bits."""

from __future__ import annotations

import numpy as np

from remoe_sim.compile import kernel


@kernel
def real(state, row, column):
    return state[row].view(np.float64)[column]


@kernel
def set_real(state, row, column, value):
    state[row].view(np.float64)[column] = value
