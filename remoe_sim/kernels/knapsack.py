"""Dividing a limit among layers: a multiple-choice knapsack, exact, by fronts of states that nothing dominates.

A state is what the layers so far hold and what that costs. Layer by layer every state is combined with every useful
capacity of the next layer; a state that holds more than another and costs no less is dropped, and so is one that cannot
end below the cost of a division that is already known (Dyer, Kayal and Walker: A branch and bound algorithm for
solving the multiple-choice knapsack problem, 1984).
"""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import kernel


@kernel
def extend(held, cost, capacities, costs, weight, limit, hull_held, hull_cost, most):
    """The front after one more layer.

    held, cost int64[n]: the front so far, held ascending and cost descending. capacities, costs int64[m]: useful
    capacities of the layer, ascending from 0, and their cost, descending; weight: what one expert takes of `limit`.
    hull_held, hull_cost int64[p]: corners of the lower convex hull of all layers after this one, ascending from 0.
    most: a bound (float); states whose cost and lower bound of the rest together are above it are dropped.
    Returns held, cost, and for each state its predecessor in the old front and its capacity here, int64 each.

    At most m · (n + size of the new front) steps of a merge; the front never has more states than `limit` + 1, nor
    more than there are different costs.
    """
    new_held, new_cost = np.empty(0, np.int64), np.empty(0, np.int64)
    origin, choice = np.empty(0, np.int64), np.empty(0, np.int64)
    for at in range(capacities.size):
        taken = capacities[at] * weight
        there = _promising(held, cost, taken, costs[at], limit, hull_held, hull_cost, most)
        new_held, new_cost, origin, choice = _merge(
            new_held, new_cost, origin, choice, held, cost, there, taken, costs[at], capacities[at]
        )
    return new_held, new_cost, origin, choice


@kernel
def _promising(held, cost, taken, price, limit, hull_held, hull_cost, most):
    """int64[≤ n]: states that fit with `taken` more and may still end below or at `most`."""
    there = np.empty(held.size, np.int64)
    count = 0
    last = hull_held.size - 1
    corner = last
    for state in range(held.size):
        room = limit - held[state] - taken  # falls from state to state
        if room < 0:
            break
        while hull_held[corner] > room:
            corner -= 1
        least = float(hull_cost[corner])
        if corner < last:
            drop = float(hull_cost[corner] - hull_cost[corner + 1])
            least -= drop / float(hull_held[corner + 1] - hull_held[corner]) * float(room - hull_held[corner])
        if float(cost[state] + price) + least <= most:
            there[count] = state
            count += 1
    return there[:count]


@kernel
def _merge(held, cost, origin, choice, other_held, other_cost, there, taken, price, capacity):
    """Two fronts as one: the first, and states `there` of the other with `taken` and `price` added."""
    room = held.size + there.size
    new_held, new_cost = np.empty(room, np.int64), np.empty(room, np.int64)
    new_origin, new_choice = np.empty(room, np.int64), np.empty(room, np.int64)
    count, i, j = 0, 0, 0
    while i < held.size or j < there.size:
        h, c, o, k = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
        second = i >= held.size
        if j < there.size:
            o = there[j]
            h, c, k = other_held[o] + taken, other_cost[o] + price, capacity
            if not second:
                second = h < held[i] or (h == held[i] and c < cost[i])
        if second:
            j += 1
        else:
            h, c, o, k = held[i], cost[i], origin[i], choice[i]
            i += 1
        if count == 0 or c < new_cost[count - 1]:
            new_held[count], new_cost[count], new_origin[count], new_choice[count] = h, c, o, k
            count += 1
    return new_held[:count], new_cost[:count], new_origin[:count], new_choice[:count]
