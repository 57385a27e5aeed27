"""Stacks of several caches side by side, one in each lane of a vector: hits at every capacity without a branch.

In one stack alone, where a displaced entry comes to rest is a branch that a processor cannot foresee. Here every
member sinks through the whole stack: at each depth the better of the two stays and the worse sinks on (Mattson et al.,
1970, section 4), a minimum and a maximum that serve LANES caches at once. Entries are known by rank alone: unique
numbers of which the smaller is kept (`ranks`). One that was used before has the rank of its last use, so members are
found, and taken out, by comparing ranks.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import kernel
from remoe_sim.kernels.lists import at

LANES = 16  # 32-bit numbers in the widest vectors there are
SOUGHT, SUNK, DEEP = 8, 2, 4  # members taken out at a time; members that sink at a time, through how many depths
HOLE = np.uint32(2**32 - 1)
BEHIND = np.uint32(2**31)  # set in ranks of all but the running group, whose members come before all others


@kernel
def lane_hits(offsets, before, ranks, kinds, fresh, mandatory, depths, counts):
    """Add to counts uint32[3, ≥ depths · LANES]: lookups of each kind by their depth · LANES + lane.

    offsets int64[LANES, steps + 1]: bounds of each step's group in each lane; before, ranks uint32[LANES, N]: rank of
    the member by its last use and by this one; kinds uint8[steps]: what the lookups of a step count as; fresh
    bool[steps]: the caches are emptied before the step; depths: a multiple of DEEP, at least the entries of any cache.
    """
    stack = np.full(depths * LANES, HOLE)
    sought = np.empty((depths + SOUGHT) * LANES, np.uint32)
    sinking = np.empty((depths + SOUGHT) * LANES, np.uint32)
    rear = np.uint32(0) if mandatory else BEHIND
    for step in range(kinds.size):
        if fresh[step]:
            stack[:] = HOLE
        width = np.int64(0)
        for lane in range(LANES):
            width = max(width, offsets[at(lane), at(step + 1)] - offsets[at(lane), at(step)])
        padded = (width + SOUGHT - 1) // SOUGHT * SOUGHT * LANES
        for lane in range(LANES):
            begin, end = offsets[at(lane), at(step)], offsets[at(lane), at(step + 1)]
            place = lane
            for i in range(begin, end):
                sought[at(place)] = before[at(lane), at(i)] | BEHIND
                sinking[at(place)] = ranks[at(lane), at(i)] | rear
                place += LANES
            while place < padded:
                sought[at(place)], sinking[at(place)] = HOLE - np.uint32(1), HOLE
                place += LANES
        for first in range(0, padded, SOUGHT * LANES):
            _take_out(stack, sought, first, counts[kinds[step]])
        for first in range(0, width * LANES, SUNK * LANES):
            _sink(stack, sinking, first)


@kernel
def _take_out(stack, sought, first, counts):
    """Leave holes where SOUGHT members are, and count their depths; from now on all others are BEHIND.

    Arrays are flat, and the inner loop has a fixed length, so that it becomes a few vector instructions.
    """
    for depth in range(0, stack.size, LANES):
        for lane in range(LANES):
            rank = stack[at(depth) + at(lane)] | BEHIND
            member = rank == sought[at(first) + at(lane)]
            for other in range(1, SOUGHT):
                member |= rank == sought[at(first) + at(other * LANES + lane)]
            counts[at(depth) + at(lane)] += np.uint32(member)
            stack[at(depth) + at(lane)] = HOLE if member else rank


@kernel
def _sink(stack, sinking, first):
    """Let SUNK members sink, and whom they displace in their stead, until a hole takes them."""
    for depth in range(0, stack.size, DEEP * LANES):
        for lane in range(LANES):
            a, b = sinking[at(first) + at(lane)], sinking[at(first) + at(LANES + lane)]
            for below in range(DEEP):
                here = stack[at(depth) + at(below * LANES + lane)]
                better, a = min(a, here), max(a, here)
                best, b = min(b, better), max(b, better)
                stack[at(depth) + at(below * LANES + lane)] = best
            sinking[at(first) + at(lane)], sinking[at(first) + at(LANES + lane)] = a, b
