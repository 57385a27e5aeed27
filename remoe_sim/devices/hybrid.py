"""Experts that the CPU computes: of which layers, and how many of the misses of a step and layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from remoe_sim.util.units import parse_count, parse_number

if TYPE_CHECKING:
    from remoe_sim.devices.costs import Costs
    from remoe_sim.devices.timeline import Counts, Reads, Steps
    from remoe_sim.models.sizes import SizedModel
    from remoe_sim.util.arrays import Flags, Longs, Reals

AUTO = "auto"
MOST_LAYERS = 100_000


@dataclass(frozen=True)
class Hybrid:
    """What was asked of the CPU; `of` checks it.

    cpu_share: of the misses of a step and layer that it computes while the others are uploaded, `auto` for as many as
    finish first, None for what the place of the misses says. cpu_moe_layers: it has the experts of the first so many
    layers of the model, dense ones counted, as llama.cpp's --n-cpu-moe does; gpu_moe_layers: the device has those of
    the last so many MoE layers, the CPU all others.
    """

    cpu_share: float | str | None = None
    cpu_moe_layers: int | None = None
    gpu_moe_layers: int | None = None

    @classmethod
    def of(
        cls, overlap: str, misses_from: str | None = None, cpu_share: float | str | None = None,
        cpu_moe_layers: int | str | None = None, gpu_moe_layers: int | str | None = None,
    ) -> Hybrid:  # fmt: skip
        """Check what was given; ValueError for what is not possible."""
        if cpu_moe_layers is not None and gpu_moe_layers is not None:
            raise ValueError("CPU and GPU MoE layers both say where experts are; give one of them")
        if cpu_share is not None:
            if cpu_share != AUTO:
                try:
                    cpu_share = parse_number(cpu_share, "CPU share", 1)
                except ValueError:
                    raise ValueError(f"CPU share {cpu_share!r} is not possible; give 0 to 1, or auto") from None
            if overlap == "prefetch":
                raise ValueError("what is foreseen is read ahead, so no share of it is left to the CPU; give overlap "
                                 "none or layer with a CPU share")  # fmt: skip
            if misses_from == "storage":
                raise ValueError("the CPU computes a share of what host memory has; give no CPU share with misses from "
                                 "storage, or let them come from host")  # fmt: skip
        return cls(cpu_share, _layers(cpu_moe_layers, "CPU"), _layers(gpu_moe_layers, "GPU"))

    @property
    def placed(self) -> bool:
        """Whether layers are placed; the experts of all that the CPU does not have are then resident."""
        return self.cpu_moe_layers is not None or self.gpu_moe_layers is not None

    @property
    def placement(self) -> dict[str, int | None]:
        """The layers that were placed, by name."""
        return {"cpu_moe_layers": self.cpu_moe_layers, "gpu_moe_layers": self.gpu_moe_layers}

    def on_cpu(self, model: SizedModel) -> Flags:
        """bool[MoE layers]: those whose experts are not all resident: the CPU's, or all if none were placed."""
        layers = np.array(model.moe_layers)
        if self.cpu_moe_layers is not None:
            return self._checked(layers < self.cpu_moe_layers, self.cpu_moe_layers, model.layers, "CPU", model.name)
        if self.gpu_moe_layers is not None:
            rest = layers.size - self.gpu_moe_layers
            return self._checked(np.arange(layers.size) < rest, self.gpu_moe_layers, layers.size, "GPU", model.name)
        return np.ones(layers.size, np.bool_)

    @staticmethod
    def _checked(flags: Flags, given: int, most: int, of: str, name: str) -> Flags:
        if given > most:
            raise ValueError(
                f"{of} MoE layers {given} are not possible; model '{name}' has {most}, so give 0 to {most}"
            )
        return flags


def _layers(given: int | str | None, of: str) -> int | None:
    return None if given is None else parse_count(given, f"{of} MoE layers", most=MOST_LAYERS)


def given_to_cpu(costs: Costs, steps: Steps, reads: Reads, overlap: int) -> tuple[Reads, Counts]:
    """What is left to read, and uint16[steps, MoE layers], how many experts the CPU computes.

    Those of resident layers are never missing. overlap: its number in the kernel.
    """
    if not costs.missing_layers.all():
        there = costs.missing_layers.astype(np.uint16)
        reads = replace(
            reads, far=reads.far * there, near=reads.near * there, early=reads.early * there, used=reads.used * there
        )
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
