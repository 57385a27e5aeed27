"""What each request adds to a ratio: shared and wanted experts; lookups, misses, bytes, seconds of its decode steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from remoe_sim.holdings import of_decisions
from remoe_sim.metrics import decode_order, previous_rows
from remoe_sim.threads import map_layers
from remoe_sim.timelines import Counts
from remoe_sim.trace import DECODE, Trace

Reals = npt.NDArray[np.float64]
ROWS_AT_ONCE = 1 << 16  # whose experts are compared with those of their predecessors in one go


@dataclass(frozen=True)
class Requests:
    """The requests of a trace that decode. ids: int64[n], ascending; of_row: int64[tokens], the place of each row's
    request among them, −1 for those of other requests."""

    trace: Trace
    ids: npt.NDArray[np.int64]
    of_row: npt.NDArray[np.int64]

    @classmethod
    def of(cls, trace: Trace) -> Requests:
        ids = np.unique(trace.request[trace.phase == DECODE]).astype(np.int64)
        place = np.searchsorted(ids, trace.request)
        inside = place < ids.size
        inside[inside] = ids[place[inside]] == trace.request[inside]
        return cls(trace, ids, np.where(inside, place, -1))

    def sums(self, rows: npt.NDArray[np.int64], values: npt.NDArray[np.generic]) -> Reals:
        """float64[n]: values of rows, summed by request; rows are of requests that decode."""
        summed: Reals = np.bincount(self.of_row[rows], values.astype(np.float64), self.ids.size).astype(np.float64)
        return summed


def adjacent_sums(requests: Requests) -> tuple[Reals, Reals]:
    """shared, wanted: float64[layers, requests], |E_t ∩ E_{t-1}| and |E_t| summed as `remoe_sim.reuse` defines them."""
    trace = requests.trace
    previous = previous_rows(trace)
    rows = decode_order(trace)
    rows = rows[previous[rows] >= 0]

    def one_layer(index: int) -> tuple[Reals, Reals]:
        decisions = trace.decisions(index)
        routed = decisions.routed
        paired = rows if routed is None else rows[routed[rows] & routed[previous[rows]]]
        shared, wanted = np.zeros((2, requests.ids.size))
        for first in range(0, paired.size, ROWS_AT_ONCE):
            some = paired[first : first + ROWS_AT_ONCE]
            now, before = decisions.take(some), decisions.take(previous[some])
            same = now.experts[:, :, None] == before.experts[:, None, :]
            if now.valid is not None and before.valid is not None:
                same &= now.valid[:, :, None] & before.valid[:, None, :]
            shared += requests.sums(some, same.sum(axis=(1, 2)))
            k = now.experts.shape[1]
            wanted += requests.sums(some, np.full(some.size, k) if now.valid is None else now.valid.sum(axis=1))
        return shared, wanted

    layers = list(map_layers(one_layer, trace.moe_layers, of_decisions(trace)))
    return np.stack([shared for shared, _ in layers]), np.stack([wanted for _, wanted in layers])


@dataclass(frozen=True)
class StepSums:
    """Sums over the decode steps of each request, float64[requests]. tokens: decode tokens; lookups and misses:
    distinct experts; bytes: of the missed ones, None where sizes are unknown; seconds: of each token its step's, None
    without a device."""

    tokens: Reals
    lookups: Reals
    misses: Reals
    bytes: Reals | None
    seconds: Reals | None


def step_sums(
    requests: Requests, starts: npt.NDArray[np.int64], needed: Counts, missed: Counts, sizes: tuple[int, ...] | None,
    seconds: Reals | None,
) -> StepSums:  # fmt: skip
    """Sums for steps of one request each. starts: int64[steps + 1], the first row of each; needed, missed:
    uint16[steps, layers]; sizes: bytes of an expert by layer; seconds: float64[steps]."""
    decode = np.add.reduceat((requests.trace.phase == DECODE).astype(np.int64), starts[:-1])
    steps = np.flatnonzero(decode)
    rows = starts[steps]
    lost = missed[steps].astype(np.int64)
    return StepSums(
        tokens=requests.sums(rows, decode[steps]),
        lookups=requests.sums(rows, needed[steps].sum(axis=1, dtype=np.int64)),
        misses=requests.sums(rows, lost.sum(axis=1)),
        bytes=None if sizes is None else requests.sums(rows, lost @ np.array(sizes, np.int64)),
        seconds=None if seconds is None else requests.sums(rows, seconds[steps] * decode[steps]),
    )
