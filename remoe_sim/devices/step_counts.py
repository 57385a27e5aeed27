"""What each step of a replay needs and misses, collected cache by cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from remoe_sim.trace.accesses import Stream, Tokens
    from remoe_sim.trace.trace import Trace
    from remoe_sim.util.arrays import Longs


class StepCounts:
    """Collects, cache by cache, what each step needs and misses at each MoE layer: uint16[steps, layers]."""

    def __init__(self, trace: Trace, tokens: Tokens, policies: int, keep: bool = False) -> None:
        """keep: also which experts are missed, for `accesses`."""
        shape = (tokens.n_steps, trace.moe_layers)
        self._bases = np.append(0, np.cumsum(trace.model.experts))
        self._kept: list[list[tuple[Longs, Longs]]] | None = [[] for _ in range(policies)] if keep else None
        self.needed, self._missed = np.zeros(shape, np.uint16), np.zeros((policies, *shape), np.uint16)
        self.missed: list[npt.NDArray[np.uint16]] = list(self._missed)

    def need(self, stream: Stream, layer: int | None = None) -> None:
        """The groups of a cache: of one layer, or of all."""
        from remoe_sim.kernels.tallies import count_needed

        count_needed(stream.steps, stream.offsets, _columns(stream, layer), self.needed)

    def miss(self, policy: int, stream: Stream, hit: np.ndarray, layer: int | None = None) -> None:
        """What a policy missed of them."""
        from remoe_sim.kernels.tallies import count_missed

        count_missed(stream.steps, stream.offsets, _columns(stream, layer), hit, self.missed[policy])
        if self._kept is not None:
            missed = np.flatnonzero(~np.asarray(hit, np.bool_))
            steps = np.repeat(stream.steps, np.diff(stream.offsets))[missed].astype(np.int64)
            base = 0 if layer is None else self._bases[layer]
            self._kept[policy].append((steps, stream.entries[missed].astype(np.int64) + base))

    def miss_at(self, limits: Longs, stream: Stream, needs: np.ndarray, layer: int) -> None:
        """What is missed of those of a layer at several limits, one for every policy; needs: from which each hits."""
        from remoe_sim.kernels.tallies import count_missed_at

        limits = np.minimum(limits, stream.n_entries).astype(needs.dtype)
        count_missed_at(stream.steps, stream.offsets, needs, limits, layer, self._missed)

    def accesses(self) -> list[tuple[int, Longs, Longs]]:
        """Per policy how many steps there are and, int64[misses] each, as they were kept: the step, and the expert,
        counted over all layers."""
        none = np.zeros(0, np.int64)
        return [
            (len(self.needed), np.concatenate([none, *(a for a, _ in of)]), np.concatenate([none, *(b for _, b in of)]))
            for of in self._kept or []
        ]


def _columns(stream: Stream, layer: int | None) -> np.ndarray:
    if layer is not None:
        return np.full(stream.steps.size, layer, np.int32)
    first = stream.entries[np.minimum(stream.offsets[:-1], max(stream.entries.size - 1, 0))]
    return (np.searchsorted(stream.layer_starts, first, side="right") - 1).astype(np.int32)
