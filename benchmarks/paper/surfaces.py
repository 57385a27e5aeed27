"""Time per token of DeepSeek-V2-Lite on a Jetson Orin NX, over hit rate and bandwidth of the storage, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import remoe_sim
from benchmarks.paper.published import MODEL

DEVICE = "jetson-orin-nx-16gb"
FAULT_BYTES = 128 * 1024  # what Linux reads ahead at a page fault, by default
SLOWEST, FASTEST = 0.03e9, 8e9  # bytes per second of the storage
Reals = npt.NDArray[np.float64]


def settings(quant: str, reads: str) -> tuple[Any, Any]:
    """Model and device. `direct`: the card's three direct reads per expert, four in flight; `fault`: as mapped files
    are read, about 128 KiB at each page fault, one after another."""
    model, device = remoe_sim.model(MODEL, quant), remoe_sim.machine(DEVICE, engine="generic")
    if reads == "fault":
        parts = [round(size / FAULT_BYTES) for size in model.expert_bytes]
        most = max(parts)  # every layer has as many reads, of slightly different sizes
        tensors = tuple((size / most,) * most for size in model.expert_bytes)
        model = replace(model, expert_tensor_bytes=tensors)
        device = replace(device, storage=replace(device.storage, lanes=1, block_bytes=1))
    return model, device


@dataclass(frozen=True)
class Surface:
    """tpot_ms float64[hit rates, bandwidths] of the timeline; slowness: 1 / bandwidths, ascending."""

    hit_rates: Reals
    slowness: Reals
    tpot_ms: Reals
    expert_bytes: int  # of one expert in every layer

    @classmethod
    def of(cls, quant: str, reads: str, hit_rates: int, bandwidths: int) -> Surface:
        """Estimates, nothing overlapped, on an even grid of hit rates and a geometric one of bandwidths."""
        model, device = settings(quant, reads)
        rates, slowness = np.linspace(0, 1, hit_rates), np.geomspace(1 / FASTEST, 1 / SLOWEST, bandwidths)
        tpot = np.zeros((hit_rates, bandwidths))
        for column, slow in enumerate(slowness):
            one = replace(device, storage=replace(device.storage, bandwidth_bytes_per_s=1 / slow))
            for row, rate in enumerate(rates):
                tpot[row, column] = remoe_sim.estimate(model, one, hit_rate=float(rate), overlap="none")[0].tpot_ms
        return cls(rates, slowness, tpot, sum(model.expert_bytes))

    @property
    def computing_ms(self) -> float:
        return float(self.tpot_ms[-1, 0])

    def at_rate(self, hit_rate: float) -> Reals:
        """float64[bandwidths]: TPOT at a hit rate, which is between those of the grid."""
        return np.array([np.interp(hit_rate, self.hit_rates, column) for column in self.tpot_ms.T])

    def over(self, miss_rates: Reals) -> Reals:
        """float64[capacities, bandwidths]: TPOT where a trace misses so often."""
        return np.array([self.at_rate(1 - miss) for miss in miss_rates])


@dataclass(frozen=True)
class Inverse:
    """The baseline's contour and what ReMoE's TPOT is on it.

    capacities: experts per layer, from k; slowness: of the storage at which the baseline comes out, NaN where none
    does; remoe_ms: ReMoE's modelled TPOT there.
    """

    capacities: Reals
    slowness: Reals
    remoe_ms: Reals
    published_ms: float

    @classmethod
    def of(cls, surface: Surface, misses: dict[str, Reals], published: dict[str, float], first: int) -> Inverse:
        capacities = np.arange(first, misses["original"].size)
        slowness, remoe = np.full(capacities.size, np.nan), np.full(capacities.size, np.nan)
        for at, capacity in enumerate(capacities):
            base = surface.at_rate(1 - misses["original"][capacity])
            if base[0] <= published["original"] <= base[-1]:
                slowness[at] = np.interp(published["original"], base, surface.slowness)
                row = surface.at_rate(1 - misses["remoe"][capacity])
                remoe[at] = np.interp(slowness[at], surface.slowness, row)
        return cls(capacities.astype(np.float64), slowness, remoe, published["remoe"])

    @property
    def residual_ms(self) -> Reals:
        return self.remoe_ms - self.published_ms

    def crossings(self) -> Iterator[tuple[float, float]]:
        """Capacity and bandwidth of where both come out, between whole capacities by straight lines."""
        for at in np.flatnonzero(self.residual_ms[:-1] * self.residual_ms[1:] <= 0):
            before, after = self.residual_ms[at : at + 2]
            share = 0.0 if before == after else before / (before - after)
            slow = self.slowness[at] + share * (self.slowness[at + 1] - self.slowness[at])
            yield float(self.capacities[at] + share), float(1 / slow)

    def closest(self) -> tuple[float, float, float] | None:
        """Capacity, bandwidth and residual in ms of the whole capacity with the smallest residual."""
        if np.isnan(self.remoe_ms).all():
            return None
        at = int(np.nanargmin(np.abs(self.residual_ms)))
        return float(self.capacities[at]), float(1 / self.slowness[at]), float(self.residual_ms[at])
