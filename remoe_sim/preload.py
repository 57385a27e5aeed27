"""What a cache starts with: the most used experts of another trace."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from remoe_sim.outcomes import NO_PRELOAD
from remoe_sim.trace import Trace
from remoe_sim.trace_reader import read_trace

Entries = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Preload:
    """counts: int64[E] of each MoE layer, how often each expert was chosen there; empty when nothing is preloaded."""

    counts: tuple[npt.NDArray[np.int64], ...] = ()

    @classmethod
    def of(cls, trace: Trace, other: Trace | str | os.PathLike[str] | None) -> Preload:
        """Counts of `other`, which must have trace's layers and experts (TraceError otherwise)."""
        if other is None:
            return cls()
        other = other if isinstance(other, Trace) else read_trace(other)
        check_alike(trace, other)
        return cls(tuple(usage(other, index) for index in range(other.moe_layers)))

    def of_layer(self, index: int) -> Entries:
        """Experts of a layer that were used, most used first, ties by lower id."""
        return _ranked(self.counts[index]) if self.counts else NO_PRELOAD

    @cached_property
    def everywhere(self) -> Entries:
        """Entries of all layers that were used, most used first, ties by (layer, lower id)."""
        return _ranked(np.concatenate(self.counts)) if self.counts else NO_PRELOAD


def check_alike(trace: Trace, other: Trace) -> None:
    """TraceError unless `other` has trace's layers and experts."""
    for what, mine, theirs in (
        ("MoE layers", trace.layer_numbers, other.layer_numbers),
        ("experts per layer", trace.model.experts, other.model.experts),
    ):
        if mine != theirs:
            raise other.error(
                f"its {what} differ from those of {trace.path or 'the trace'}; take a trace of the same model"
            )


def usage(trace: Trace, index: int) -> npt.NDArray[np.int64]:
    """int64[E]: how many slots chose each expert of MoE layer `index`."""
    decisions = trace.decisions(index)
    chosen = decisions.experts.reshape(-1) if decisions.valid is None else decisions.experts[decisions.valid]
    return np.bincount(chosen, minlength=trace.model.experts[index])


def _ranked(counts: npt.NDArray[np.int64]) -> Entries:
    ranked = np.argsort(-counts, kind="stable")
    return ranked[: np.count_nonzero(counts)].astype(np.int32)
