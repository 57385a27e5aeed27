"""Experts needed and missed per step and MoE layer, for the timeline."""

from __future__ import annotations

import numpy as np

from remoe_sim.compile import kernel


@kernel
def count_needed(steps, offsets, columns, needed):
    """Add the size of every group to needed uint16[n_steps, layers].

    steps int32[groups]; offsets int64[groups + 1]; columns int32[groups], the MoE layer of each group.
    """
    for group in range(steps.size):
        needed[steps[group], columns[group]] += offsets[group + 1] - offsets[group]


@kernel
def count_missed(steps, offsets, columns, hit, missed):
    """Add the misses of every group to missed uint16[n_steps, layers]; hit bool[N], the rest as in `count_needed`."""
    for group in range(steps.size):
        count = np.int64(0)
        for i in range(offsets[group], offsets[group + 1]):
            count += not hit[i]
        missed[steps[group], columns[group]] += count
