"""Routing that looks at the cache: what a token would have chosen, or left out, had its router known the residents.

One layer with an LRU cache of its own. All tokens of a step see what is resident before it; then the step's group is
touched in order of last appearance, and the cache keeps the most recent. Both ways return (row, fault) of the first
fault, or (-1, 0).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.compile import kernel
from remoe_sim.kernels.lists import clear, push_front, remove

PRIOR, MAX_RANK, CUMULATIVE, SUBSTITUTE = 0, 1, 2, 3
NO_DISTRIBUTION, NOT_THE_LARGEST = 1, 2
SMALLEST = 2.0**-24  # of the positive numbers that float16 holds


class Rows(NamedTuple):
    """The decisions of a layer.

    experts: uint16[rows, k], rewritten
    valid: bool[rows, k], rewritten
    decode: bool[rows], the tokens that may be re-routed
    starts: int64[n_steps + 1], the first row of each step
    """

    experts: npt.NDArray[np.uint16]
    valid: npt.NDArray[np.bool_]
    decode: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]


class Cache(NamedTuple):
    """An empty cache: its capacity in experts, recency int64[2, E + 1] and resident bool[E], all false."""

    capacity: int
    recency: npt.NDArray[np.int64]
    resident: npt.NDArray[np.bool_]

    @classmethod
    def empty(cls, capacity: int, experts: int) -> Cache:
        return cls(capacity, np.empty((2, experts + 1), np.int64), np.zeros(experts, np.bool_))


class Changed(NamedTuple):
    """What becomes of each decision, written: how many slots change, and the share of its mass that it loses."""

    slots: npt.NDArray[np.int64]
    lost: npt.NDArray[np.float64]


@kernel
def settle(experts, valid, first, last, capacity, held, recency, resident):
    """Touch the group of rows first to last - 1 and keep the most recent; returns how many experts are held."""
    head = resident.size
    for row in range(first, last):
        for slot in range(experts.shape[1]):
            if not valid[row, slot]:
                continue
            expert = np.int64(experts[row, slot])
            if resident[expert]:
                remove(recency, 0, expert)
            else:
                resident[expert] = True
                held += 1
            push_front(recency, 0, head, expert)
    while held > capacity:
        oldest = recency[1, head]
        remove(recency, 0, oldest)
        resident[oldest] = False
        held -= 1
    return held


@kernel
def drop_cold(rows, weights, threshold, keep, cache, changes):
    """Leave out slots whose expert is not resident and has less than threshold / slots of its decision's weight.

    The `keep` largest weights of a decision always stay, of equal ones the first. weights float32[rows, k].
    """
    experts, valid, decode, starts = rows
    capacity, recency, resident = cache
    changed, lost = changes
    clear(recency, 0, resident.size)
    held = 0
    leaves = np.empty(experts.shape[1], np.bool_)
    for step in range(starts.size - 1):
        for row in range(starts[step], starts[step + 1]):
            if not decode[row]:
                continue
            slots = 0
            total = 0.0
            for slot in range(leaves.size):
                if valid[row, slot]:
                    slots += 1
                    total += np.float64(weights[row, slot])
                    if not 0 <= weights[row, slot] < np.inf:
                        return row, NO_DISTRIBUTION
            if slots == 0:
                continue
            if not total > 0:
                return row, NO_DISTRIBUTION
            dropped = 0.0
            for slot in range(leaves.size):
                weight = np.float64(weights[row, slot])
                leaves[slot] = (
                    valid[row, slot]
                    and not resident[np.int64(experts[row, slot])]
                    and weight * slots < threshold * total
                    and place(weights[row], valid[row], slot) >= keep
                )
                if leaves[slot]:
                    dropped += weight
                    changed[row] += 1
            for slot in range(leaves.size):
                valid[row, slot] = valid[row, slot] and not leaves[slot]
            lost[row] = dropped / total
        held = settle(experts, valid, starts[step], starts[step + 1], capacity, held, recency, resident)
    return -1, 0


@kernel
def place(weights, valid, slot):
    """How many valid slots weigh more than `slot`, or as much and come before it."""
    before = 0
    for other in range(weights.size):
        if valid[other]:
            before += weights[other] > weights[slot] or (weights[other] == weights[slot] and other < slot)
    return before


@kernel
def prefer_resident(rows, probs, method, amount, keep, cache, changes):
    """Replace experts that are not resident by residents that the router nearly chose: the most probable resident that
    was not chosen takes the place of the least probable of them, as often as the method allows.

    PRIOR: while its log-probability + amount · Δ is larger, where Δ is the mean range (largest minus smallest) of the
    log-probabilities of all tokens so far; this is the cache-prior of Skliar et al., arXiv 2412.00099. MAX_RANK: while
    it is one of the `amount` most probable of all. CUMULATIVE: while those that are more probable have less than
    `amount` of the probability (both same paper). SUBSTITUTE: while it has at least `amount` of the probability of the
    expert whose place it takes. The `keep` most probable of a decision always stay. A decision with a
    null slot stays as it is; one that changed is in order of probability. probs float32[rows, E].
    """
    experts, valid, decode, starts = rows
    capacity, recency, resident = cache
    changed, lost = changes
    clear(recency, 0, resident.size)
    held = 0
    chosen = np.zeros(resident.size, np.bool_)
    ranges = 0.0
    tokens = 0
    for step in range(starts.size - 1):
        for row in range(starts[step], starts[step + 1]):
            slots = 0
            for slot in range(experts.shape[1]):
                slots += valid[row, slot]
            if slots == 0:
                continue
            least, most, total = spread(probs[row])
            if not (least >= 0 and 0 < most < np.inf):
                return row, NO_DISTRIBUTION
            ranges += log(most) - log(least)
            tokens += 1
            if not decode[row] or slots < experts.shape[1]:
                continue
            limit = np.float64(amount)
            if method == PRIOR:
                limit *= ranges / tokens
            elif method == CUMULATIVE:
                limit *= total
            fault, changed[row], lost[row] = replace_cold(
                experts[row], valid[row], probs[row], method, limit, keep, resident, chosen
            )
            if fault:
                return row, fault
        held = settle(experts, valid, starts[step], starts[step + 1], capacity, held, recency, resident)
    return -1, 0


@kernel
def log(probability):
    """The logarithm; what float16 rounds to 0 counts as the smallest number that it does not."""
    return np.log(max(np.float64(probability), SMALLEST))


@kernel
def spread(probs):
    """The least and the largest of some probabilities, and their sum; the least is -1 if any is no probability."""
    least = np.inf
    most = 0.0
    total = 0.0
    for expert in range(probs.size):
        value = np.float64(probs[expert])
        if not value >= 0:
            return -1.0, most, total
        least = min(least, value)
        most = max(most, value)
        total += value
    return least, most, total


@kernel
def replace_cold(decision, valid, probs, method, limit, keep, resident, chosen):
    """Re-route one decision, uint16[k]; returns a fault, how many slots changed, and the share of the mass that was
    lost. chosen bool[E]: scratch, all false, and left so."""
    k = decision.size
    original = decision.copy()
    weights = np.empty(k, np.float64)
    before = 0.0
    for slot in range(k):
        weights[slot] = probs[np.int64(decision[slot])]
        before += weights[slot]
        chosen[np.int64(decision[slot])] = True
    weakest = weights.min()
    fault = 0
    for expert in range(probs.size):
        if not chosen[expert] and probs[expert] > weakest:
            fault = NOT_THE_LARGEST
    changes = 0
    while not fault:
        cold = -1
        for slot in range(k):
            if resident[np.int64(decision[slot])] or place(weights, valid, slot) < keep:
                continue
            if cold < 0 or weights[slot] <= weights[cold]:
                cold = slot
        best = -1
        for expert in range(probs.size):
            if resident[expert] and not chosen[expert] and (best < 0 or probs[expert] > probs[best]):
                best = expert
        if cold < 0 or best < 0:
            break
        if method == PRIOR:
            if not log(weights[cold]) - log(probs[best]) < limit:
                break
        elif method == SUBSTITUTE:
            if not np.float64(probs[best]) >= limit * weights[cold]:
                break
        else:
            rank, mass = more_probable(probs, original, best)
            if not (rank if method == MAX_RANK else mass) < limit:
                break
        chosen[np.int64(decision[cold])] = False
        chosen[best] = True
        decision[cold] = best
        changes += 1
    after = 0.0
    for slot in range(k):
        after += np.float64(probs[np.int64(decision[slot])])
        chosen[np.int64(decision[slot])] = False
    if changes == 0:
        return fault, 0, 0.0
    sort(decision, probs, original)
    return fault, changes, (before - after) / before


@kernel
def more_probable(probs, original, expert):
    """How many experts rank before one, and their probability; of equal ones the chosen rank first, then lower ids."""
    rank = 0
    mass = 0.0
    for other in range(probs.size):
        if probs[other] > probs[expert] or (
            probs[other] == probs[expert] and among_equals(original, other) < among_equals(original, expert)
        ):
            rank += 1
            mass += np.float64(probs[other])
    return rank, mass


@kernel
def among_equals(original, expert):
    """The place of an expert among those that are as probable."""
    for slot in range(original.size):
        if original[slot] == expert:
            return slot
    return original.size + np.int64(expert)


@kernel
def sort(decision, probs, original):
    """Sort a decision by probability, the largest first; equal ones as in `more_probable`."""
    for slot in range(1, decision.size):
        expert = decision[slot]
        at = slot
        while at > 0:
            other = decision[at - 1]
            if probs[np.int64(other)] > probs[np.int64(expert)] or (
                probs[np.int64(other)] == probs[np.int64(expert)]
                and among_equals(original, other) < among_equals(original, expert)
            ):
                break
            decision[at] = other
            at -= 1
        decision[at] = expert
