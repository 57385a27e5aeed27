"""Experts that the CPU computes: what was asked for, and of which layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from remoe_sim.util.units import parse_count, parse_number

if TYPE_CHECKING:
    from remoe_sim.models.sizes import SizedModel
    from remoe_sim.util.arrays import Flags

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
