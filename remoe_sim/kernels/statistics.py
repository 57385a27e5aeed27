"""Which tokens follow each other, how often experts are chosen, how many distinct ones a stretch of tokens needs."""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import kernel


@kernel
def ascends(order, request, position):
    """Whether `order` is sorted by request, then position, none twice.

    order int64[tokens], rows; request, position int32[rows].
    """
    for i in range(1, order.size):
        row, before = order[i], order[i - 1]
        if request[row] < request[before] or (request[row] == request[before] and position[row] <= position[before]):
            return False
    return True


@kernel
def link(order, request, position, previous):
    """Write previous int64[rows]: where a row of `order` directly follows another in its request, that other's row.

    order int64[tokens], rows by request, then position; request, position int32[rows]. Other rows stay as they are.
    """
    for i in range(1, order.size):
        row, before = order[i], order[i - 1]
        if request[row] == request[before] and np.int64(position[row]) - np.int64(position[before]) == 1:
            previous[row] = before


@kernel
def count_uses(experts, valid, routed, uses):
    """Add to uses int64[n_experts] how many slots chose each expert.

    experts uint16[rows, k]; valid bool[rows, k] or bool[0, 0]; routed bool[rows] or bool[0].
    """
    rows, k = experts.shape
    masked = valid.size > 0
    for row in range(rows):
        if routed.size and not routed[row]:
            continue
        for slot in range(k):
            if not masked or valid[row, slot]:
                uses[np.int64(experts[row, slot])] += 1


@kernel
def working_sets(experts, valid, routed, order, request, span, marks):
    """How many whole windows of `span` tokens there are, and the distinct experts of each, summed.

    Windows follow each other from the start of every request and do not overlap; a token that was not routed here is
    in none, and a rest shorter than `span` is left out. experts uint16[rows, k]; valid bool[rows, k] or bool[0, 0];
    routed bool[rows] or bool[0]; order int64[tokens], rows by request, then position; request int32[rows]; marks
    int64[n_experts], all -1.
    """
    k = experts.shape[1]
    masked = valid.size > 0
    windows = 0
    total = 0
    begin = 0  # where in `order` the window starts
    tokens = 0
    distinct = 0
    for i in range(order.size):
        row = order[i]
        if i and request[row] != request[order[i - 1]]:
            begin, tokens, distinct = i, 0, 0
        if routed.size and not routed[row]:
            continue
        for slot in range(k):
            if masked and not valid[row, slot]:
                continue
            expert = np.int64(experts[row, slot])
            if marks[expert] < begin:
                distinct += 1
            marks[expert] = i
        tokens += 1
        if tokens == span:
            windows += 1
            total += distinct
            begin, tokens, distinct = i + 1, 0, 0
    return windows, total


@kernel
def triad(a, b, c, factor):
    """a = b + factor · c over float64[n]: 24 bytes per element, as STREAM counts them (McCalpin, 1995)."""
    for i in range(a.size):
        a[i] = b[i] + factor * c[i]
