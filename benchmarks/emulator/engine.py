"""The engine: a cache of experts per layer, filled by reads from disk, and real products of matrices with a vector."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.emulator.files import Matrix, Readers, Slot
from remoe_sim.models.sizes import SizedModel

SCRATCH = 2**18  # float32 that weights are converted to at a time, 1 MiB
Vector = npt.NDArray[np.float32]


class Cache:
    """The experts of one layer that are in memory.

    Members of the running group never leave before it is done; else the lowest key goes first: `lru` by last use,
    `lfu` by uses since the start (also while not in memory), then last use.
    """

    def __init__(self, capacity: int, policy: str, free: list[Slot]) -> None:
        self.capacity, self.policy, self.free = capacity, policy, free
        self.slots: dict[int, Slot] = {}
        self.uses: dict[int, int] = {}
        self.last: dict[int, int] = {}
        self.clock = 0

    def need(self, group: Sequence[int]) -> list[int]:
        """The members that are missing, each with a slot from now on."""
        missing = [expert for expert in group if expert not in self.slots]
        for expert in group:
            self.clock += 1
            self.last[expert] = self.clock
            self.uses[expert] = self.uses.get(expert, 0) + 1
        if missing:
            self._shrink(max(self.capacity - len(missing), 0), set(group))
            for expert in missing:
                self.slots[expert] = self.free.pop()
        return missing

    def rest(self) -> None:
        """After the group: no more than the capacity stay."""
        self._shrink(self.capacity, set())

    def _shrink(self, size: int, kept: set[int]) -> None:
        while len(self.slots) > size:
            victims = [expert for expert in self.slots if expert not in kept]
            if not victims:
                return
            self.free.append(self.slots.pop(min(victims, key=self._key)))

    def _key(self, expert: int) -> tuple[int, int]:
        return (self.uses[expert] if self.policy == "lfu" else 0, self.last[expert])


@dataclass(frozen=True)
class Run:
    """seconds: float64[tokens, layers + 1], the head last; missed: uint16[tokens, layers]; bytes_read: in all;
    checksum: of the last output."""

    seconds: npt.NDArray[np.float64]
    missed: npt.NDArray[np.uint16]
    bytes_read: int
    checksum: float


class Engine:
    """Weights outside the experts, which stay in memory, and slots for experts, shared by all runs."""

    def __init__(self, model: SizedModel, readers: Readers, slots: list[Slot], dtype: npt.DTypeLike) -> None:
        self.readers, self.slots = readers, slots
        self.hidden, self.width = model.hidden_size, model.expert_intermediate
        source, row = np.random.default_rng(1), model.hidden_size * np.dtype(dtype).itemsize

        def resident(size: int) -> Matrix:
            return source.integers(-127, 128, (-(-size // row), self.hidden), np.int8).astype(dtype)

        self.dense = [resident(size) for size in model.dense_bytes]
        self.head = resident(model.head_bytes)
        self.scratch = np.empty(SCRATCH, np.float32)

    def run(self, groups: npt.NDArray[np.uint16], capacity: int, policy: str, overlap: str) -> Run:
        """Decode tokens of groups[tokens, layers, k] from an empty cache; overlap: `none` or `layer`."""
        free = list(self.slots)
        caches = [Cache(capacity, policy, free) for _ in self.dense]
        tokens, layers = groups.shape[:2]
        seconds, missed = np.zeros((tokens, layers + 1)), np.zeros((tokens, layers), np.uint16)
        wanted: list[list[list[int]]] = groups.tolist()
        before, x = self.readers.bytes_read, np.ones(self.hidden, np.float32)
        for token, of_layers in enumerate(wanted):
            began = time.perf_counter()
            for layer, group in enumerate(of_layers):
                x = self.dense_part(layer, x)
                missing = caches[layer].need(group)
                missed[token, layer] = len(missing)
                x = self._experts(caches[layer], layer, group, missing, overlap == "layer", x)
                caches[layer].rest()
                began, seconds[token, layer] = (now := time.perf_counter()), now - began
            self.head_part(x)
            seconds[token, layers] = time.perf_counter() - began
        return Run(seconds, missed, self.readers.bytes_read - before, float(x.sum()))

    def _experts(
        self, cache: Cache, layer: int, group: list[int], missing: list[int], during_reads: bool, x: Vector
    ) -> Vector:
        for expert in missing:
            self.readers.ask(layer, expert, cache.slots[expert])
        if during_reads and missing:
            late = set(missing)
            group = [expert for expert in group if expert not in late] + missing
        else:
            for expert in missing:
                self.readers.wait(cache.slots[expert])
        out = x
        for expert in group:
            slot = cache.slots[expert]
            self.readers.wait(slot)
            out = out + self.expert(slot.matrices, x)
        return _norm(out) if group else out

    def dense_part(self, layer: int, x: Vector) -> Vector:
        y = self._product(self.dense[layer], x)
        return _norm(x + y[: x.size]) if y.size >= x.size else x

    def head_part(self, x: Vector) -> Vector:
        return self._product(self.head, x)

    def expert(self, matrices: tuple[Matrix, ...], x: Vector) -> Vector:
        gate, up, down = matrices
        gated = self._product(gate, x)
        gated *= self._product(up, x)
        return self._product(down, _norm(gated))

    def _product(self, matrix: Matrix, x: Vector) -> Vector:
        """Matrix times vector; whole numbers become float32 a few rows at a time, so that they stay near the core."""
        if matrix.dtype == np.float32:
            return matrix @ x
        rows, columns = matrix.shape
        y, some = np.empty(rows, np.float32), max(1, self.scratch.size // columns)
        for first in range(0, rows, some):
            part = matrix[first : first + some]
            floats = self.scratch[: part.size].reshape(part.shape)
            np.copyto(floats, part)
            np.dot(floats, x, out=y[first : first + some])
        return y


def _norm(x: Any) -> Vector:
    """Of unit mean square, as RMS norm does it: numbers stay finite through all layers."""
    scaled: Vector = x * np.float32(1 / (np.sqrt(float(np.dot(x, x)) / x.size) + 1e-6))
    return scaled
