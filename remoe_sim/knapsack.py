"""A limit divided among layers so that the costs add up to the least: exactly, and by the convex hull.

Each layer has a table of costs, one for each number of experts from 0 (a curve of misses, or of bytes read).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from remoe_sim.streams import Longs


@dataclass(frozen=True)
class Knapsack:
    """costs: int64[E + 1] of each layer, with 0 to E experts; weights: what one expert of it takes of `limit`."""

    costs: Sequence[Longs]
    weights: Sequence[int]
    limit: int

    def cost(self, experts: Sequence[int]) -> int:
        """What a division costs."""
        return sum(int(costs[n]) for costs, n in zip(self.costs, experts, strict=True))

    def held(self, experts: Sequence[int]) -> int:
        """What a division takes of the limit."""
        return sum(weight * int(n) for weight, n in zip(self.weights, experts, strict=True))

    def greedy(self) -> tuple[int, ...]:
        """Steps along the lower convex hulls of all curves, the steepest first, while they fit; then what still fits.

        The sorted steps are the linear relaxation of the problem; the result is the best division where the last step
        uses up the limit, and close to it otherwise.
        """
        experts, stopped, room = [0] * len(self.costs), dict[int, None](), self.limit
        for layer, after, taken in zip(*(column.tolist() for column in self._steps[:3]), strict=True):
            if layer in stopped or taken > room:
                stopped[layer] = None
            else:
                experts[layer], room = after, room - taken
        for layer in stopped:
            now = experts[layer]
            reachable = self.costs[layer][now : now + room // self.weights[layer] + 1]
            more = int(reachable.argmin())
            experts[layer], room = now + more, room - more * self.weights[layer]
        return tuple(experts)

    def best(self, *known: Sequence[int]) -> tuple[int, ...]:
        """The division of the least cost, proven; one of the `known` where nothing costs less.

        Takes at most O(L · E · F) steps for L layers of E experts and F states of a front (see `extend`), where
        F ≤ limit / (greatest common divisor of the weights) + 1: with equal sizes the textbook's O(L² · E²).
        """
        from remoe_sim.kernels.splitting import extend

        start = min(known, key=self.cost)
        least = self.cost(start)
        most = least - 1 + 1e-6 + 1e-9 * least  # costs are whole; what rounding may add only keeps more states
        held, cost = np.zeros(1, np.int64), np.zeros(1, np.int64)
        came_from = []
        for layer, (costs, weight) in enumerate(zip(self.costs, self.weights, strict=True)):
            useful = _useful(costs)
            rest = self._hull_after(layer)
            held, cost, origin, choice = extend(held, cost, useful, costs[useful], weight, self.limit, *rest, most)
            came_from.append((origin, choice))
        if not cost.size or cost[-1] >= least:
            return tuple(int(n) for n in start)
        at, experts = cost.size - 1, []
        for origin, choice in reversed(came_from):
            experts.append(int(choice[at]))
            at = origin[at]
        return tuple(reversed(experts))

    @cached_property
    def _steps(self) -> tuple[Longs, Longs, Longs, Longs]:
        """Steps of all hulls, the steepest first: layer, experts after it, what it takes, how much the cost falls."""
        steps = [
            (layer, after, (after - before) * weight, int(costs[before] - costs[after]))
            for layer, (costs, weight) in enumerate(zip(self.costs, self.weights, strict=True))
            for before, after in pairwise(_lower_hull(costs))
        ]
        table = np.array(steps, np.int64).reshape(-1, 4)
        table = table[np.argsort(-(table[:, 3] / table[:, 2]), kind="stable")]
        return table[:, 0], table[:, 1], table[:, 2], table[:, 3]

    def _hull_after(self, layer: int) -> tuple[Longs, Longs]:
        """Corners of the lower convex hull of all layers behind `layer`: what they hold, what they cost."""
        layers, _, taken, drop = self._steps
        behind = layers > layer
        empty = sum(int(costs[0]) for costs in self.costs[layer + 1 :])
        held, saved = (np.append(0, np.cumsum(column[behind])) for column in (taken, drop))
        return held, empty - saved


def _useful(costs: Longs) -> Longs:
    """Numbers of experts that cost less than all smaller ones."""
    least = np.minimum.accumulate(costs)
    return np.append(0, np.flatnonzero(least[1:] < least[:-1]) + 1)


def _lower_hull(costs: Longs) -> list[int]:
    """Corners of the lower convex hull of the falling part of a curve, from 0 experts on."""
    corners: list[int] = []
    for n in _useful(costs).tolist():
        while len(corners) > 1 and _above(costs, corners[-2], corners[-1], n):
            corners.pop()
        corners.append(n)
    return corners


def _above(costs: Longs, left: int, middle: int, right: int) -> bool:
    """Whether the middle point lies on or above the line from the left to the right one."""
    return int(costs[left] - costs[middle]) * (right - left) <= int(costs[left] - costs[right]) * (middle - left)
