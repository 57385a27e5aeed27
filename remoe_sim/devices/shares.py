"""How many of the misses of a step and layer the CPU computes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from remoe_sim.devices.hybrid import AUTO

if TYPE_CHECKING:
    from remoe_sim.devices.costs import Costs
    from remoe_sim.devices.steps import Counts, Reads, Steps
    from remoe_sim.util.arrays import Longs, Reals


def given_to_cpu(costs: Costs, steps: Steps, reads: Reads, overlap: int) -> tuple[Reads, Counts]:
    """What is left to read, and uint16[steps, MoE layers], how many experts the CPU computes.

    Those of resident layers are never missing. overlap: its number in the kernel.
    """
    if not costs.missing_layers.all():
        there = costs.missing_layers.astype(np.uint16)
        reads = replace(
            reads, far=reads.far * there, near=reads.near * there, early=reads.early * there, used=reads.used * there
        )
    if costs.cpu_share == 0:
        return reads, np.zeros(reads.near.shape, np.uint16)
    if costs.cpu_share == AUTO:
        cpu = _first_done(costs, steps, reads, overlap)
    else:
        cpu = np.floor(float(costs.cpu_share) * reads.near + 0.5).astype(np.uint16)
    return replace(reads, near=reads.near - cpu), cpu


def _first_done(costs: Costs, steps: Steps, reads: Reads, overlap: int) -> Counts:
    """For every step and layer the number of experts on the CPU with which the layer ends first, the least of equals.

    A layer finds its links free, so each can be tried alone.
    """
    cpu = np.zeros(reads.near.shape, np.uint16)
    for j in np.flatnonzero(reads.near.any(axis=0)):
        layer = np.stack([steps.tokens, steps.needed[:, j], reads.far[:, j], reads.near[:, j]], axis=1).astype(np.int64)
        kinds, of = np.unique(layer, axis=0, return_inverse=True)
        cpu[:, j] = _of_layer(costs, int(j), kinds, overlap)[of.ravel()]
    return cpu


def _of_layer(costs: Costs, j: int, kinds: Longs, overlap: int) -> Longs:
    """The best numbers of one layer, for rows of tokens, needed, far and near.

    The CPU's time rises with its number and the device's falls, so the best is where they cross, or nothing or all.
    """
    near = kinds[:, 3]

    def takes(cpu: Longs) -> Reals:
        return _alone(costs, j, kinds, cpu, overlap)

    low, high = np.ones_like(near), np.maximum(near, 1)  # the first number with which the CPU is the slower
    while (low < high).any():
        middle = (low + high) // 2
        by_cpu = costs.expert_costs[j, 5] + middle * costs.expert_costs[j, 3]
        slower = takes(np.minimum(middle, near)) <= by_cpu * (1 + 1e-12)
        low, high = np.where(slower, low, middle + 1), np.where(slower, middle, high)
        low = np.minimum(low, high)
    tried = [np.zeros_like(near), np.clip(low - 1, 0, near), np.minimum(low, near), near]
    best = np.argmin([takes(one) for one in tried], axis=0)
    found: Longs = np.stack(tried)[best, np.arange(near.size)]
    return found


def _alone(costs: Costs, j: int, kinds: Longs, cpu: Longs, overlap: int) -> Reals:
    """Seconds of one layer's experts."""
    from remoe_sim.kernels import timeline as kernels

    count = len(kinds)
    needed, far, near, given = ((column[:, None]).astype(np.uint16) for column in (*kinds[:, 1:].T, cpu))
    none = np.zeros((count, 1), np.uint16)
    seconds, own = np.zeros(count), slice(j, j + 1)
    kernels.run_timeline(
        kernels.Load(
            np.ascontiguousarray(kinds[:, 0]), np.zeros(count, np.int64), needed, far, near - given, none, none, given
        ),
        kernels.Mode(1, False, overlap, costs.at_once),
        kernels.Seconds(np.zeros(1, np.int32), np.zeros((1, 4)), np.zeros(3), costs.expert_costs[own]),
        kernels.Wires(costs.far_sizes[own], costs.near_sizes[own], costs.link, costs.lanes),
        kernels.Filled(seconds, np.zeros((count, 5)), np.zeros((count, 1), np.int64)),
        None,
    )
    return seconds
