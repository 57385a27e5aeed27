"""Decisions drawn at random, where popular experts and those that were used lately are chosen more often.

The experts of a layer form a stack, the most recently used on top, token by token. An expert is chosen with a weight:
its popularity times the pull of its depth in the stack. A decision draws k experts one after the other, none twice.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import kernel
from remoe_sim.kernels.state import RANGE, draw

FIRST_TOKEN, PREFILL_TOKEN, DECODE_TOKEN, ABSENT_TOKEN = 0, 1, 2, 3  # nothing pulls at the first of a request
STRATA = 64  # tokens among which each slot's random numbers are spread evenly
_BLOCK = 8


@kernel
def draw_decisions(kinds, popularity, pull, stack, used, state, strata, experts, counts, uses):
    """Write experts uint16[tokens, k], 0 for tokens that are ABSENT_TOKEN; returns how many experts were used by then.

    kinds uint8[tokens]; popularity float64[E]; pull float64[3, E + 1], by kind and depth, the last for experts that
    were never used; stack int64[E], all experts, the first `used` of them by recency; state int64[1, 2], where the
    random sequence is and how many tokens were drawn; strata uint8[k, STRATA]. Added to: counts int64[3, E + 1], how
    often each depth was chosen; uses int64[E], how often each expert was. All but kinds, popularity and pull carry on
    from one call to the next.

    Random numbers are stratified: among STRATA tokens a slot draws once from each of as many equal parts of [0, 1), in
    random order (Latin hypercube; McKay, Beckman, Conover, 1979), so short traces too have the depths they should.
    """
    n = stack.size
    k = experts.shape[1]
    blocks = (n + _BLOCK - 1) // _BLOCK
    weights = np.zeros(blocks * _BLOCK, np.float64)  # by depth
    sums = np.empty(blocks, np.float64)  # of each block of weights
    chosen = np.empty(k, np.int64)
    for token in range(experts.shape[0]):
        kind = kinds[token]
        if kind == ABSENT_TOKEN:
            for slot in range(k):
                experts[token, slot] = 0
            continue
        stratum = state[0, 1] % STRATA
        if stratum == 0:
            _shuffle(strata, state)
        state[0, 1] += 1
        for depth in range(used):
            weights[depth] = pull[kind, depth] * popularity[stack[depth]]
        for depth in range(used, n):
            weights[depth] = pull[kind, n] * popularity[stack[depth]]
        for block in range(blocks):
            at = block * _BLOCK
            left = (weights[at] + weights[at + 1]) + (weights[at + 2] + weights[at + 3])
            sums[block] = left + ((weights[at + 4] + weights[at + 5]) + (weights[at + 6] + weights[at + 7]))
        for slot in range(k):
            total = 0.0
            for block in range(blocks):
                total += sums[block]
            rest = total * (strata[slot, stratum] + (draw(state, 0, 0) + 0.5) / RANGE) / STRATA
            block = 0
            while block < blocks - 1 and rest >= sums[block]:
                rest -= sums[block]
                block += 1
            depth = _within(weights, block, rest)
            chosen[slot] = depth
            experts[token, slot] = stack[depth]
            counts[kind, depth if depth < used else n] += 1
            uses[stack[depth]] += 1
            weights[depth] = 0.0
            sums[block] = 0.0
            for at in range(block * _BLOCK, (block + 1) * _BLOCK):
                sums[block] += weights[at]
        used = _to_front(stack, used, chosen, k)
    return used


@kernel
def _within(weights, block, rest):
    """The depth in a block at which the running sum of weights exceeds `rest`; the last that has a weight if rounding
    left more, and in the block before if this one has none."""
    last = -1
    while last < 0:
        for at in range(block * _BLOCK, (block + 1) * _BLOCK):
            if weights[at] > 0.0:
                last = at
                if rest < weights[at]:
                    return at
                rest -= weights[at]
        block -= 1
    return last


@kernel
def _shuffle(strata, state):
    """A new random order of 0 to STRATA - 1 in every row (Fisher and Yates)."""
    for slot in range(strata.shape[0]):
        for at in range(STRATA):
            strata[slot, at] = at
        for at in range(STRATA - 1, 0, -1):
            other = draw(state, 0, 0) * (at + 1) // RANGE
            kept = strata[slot, at]
            strata[slot, at] = strata[slot, other]
            strata[slot, other] = kept


@kernel
def _to_front(stack, used, chosen, count):
    """Put the experts at `count` different depths on top, the last of them topmost; returns how many were ever used."""
    deepest = 0
    new = 0
    for slot in range(count):
        deepest = max(deepest, chosen[slot])
        new += chosen[slot] >= used
    for slot in range(count):
        depth = chosen[slot]
        chosen[slot] = stack[depth]
        stack[depth] = -1
    to = deepest
    for at in range(deepest, -1, -1):
        if stack[at] >= 0:
            stack[to] = stack[at]
            to -= 1
    for slot in range(count):
        stack[count - 1 - slot] = chosen[slot]
    return used + new


@kernel
def count_depths(experts, valid, kinds, stack, counts, uses, exposed):
    """Count as `draw_decisions` does, for decisions that are there: counts int64[3, E + 1] and uses int64[E].

    experts uint16[tokens, k], in the order in which the tokens follow one another; valid bool[tokens, k] or bool[0, 0];
    kinds uint8[tokens]; stack int64[E], all experts. Also added to: exposed int64[3, E + 1], how many experts there
    were to choose at each depth.
    """
    n = stack.size
    k = experts.shape[1]
    used = 0
    chosen = np.empty(k, np.int64)
    for token in range(experts.shape[0]):
        kind = kinds[token]
        if kind == ABSENT_TOKEN:
            continue
        exposed[kind, n] += n - used
        for depth in range(used):
            exposed[kind, depth] += 1
        count = 0
        for slot in range(k):
            if valid.size and not valid[token, slot]:
                continue
            expert = np.int64(experts[token, slot])
            depth = 0
            while stack[depth] != expert:
                depth += 1
            counts[kind, depth if depth < used else n] += 1
            uses[expert] += 1
            chosen[count] = depth
            count += 1
        used = _to_front(stack, used, chosen, count)
