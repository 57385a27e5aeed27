"""How a model routes: expert reuse between tokens, and how evenly and how steadily experts are used.

Everything is counted layer by layer, so memory is bounded by the layers that are
looked at side by side.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from remoe_sim.kernels.statistics import ascends, count_uses, link, working_sets
from remoe_sim.kernels.tallies import shared_with_previous
from remoe_sim.trace.holdings import of_decisions, of_part
from remoe_sim.trace.sources import PART_ROWS, PartSource, joined, parts_of
from remoe_sim.trace.trace import DECODE, Decisions, Trace
from remoe_sim.util.threads import map_layers
from remoe_sim.util.units import rate

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.util.arrays import Flags, Longs

WINDOWS = (1, 2, 4, 8)  # tokens back, for reuse
SPANS = (16, 64, 256)  # decode tokens, for working sets


def decode_order(trace: Trace) -> Longs:
    """int64[decode tokens]: the rows of the decode tokens by request, then position.

    Where a position occurs more than once in a request (a draft that was rejected and computed again), its last row
    stands for it and the others are left out.
    """
    rows = np.flatnonzero(trace.phase == DECODE)
    if ascends(rows, trace.request, trace.position):
        return rows
    rows = rows[np.lexsort((trace.position[rows], trace.request[rows]))]
    request, position = trace.request[rows], trace.position[rows]
    stands = np.ones(rows.size, np.bool_)
    stands[:-1] = (request[1:] != request[:-1]) | (position[1:] != position[:-1])
    return rows[stands]


def previous_rows(trace: Trace) -> Longs:
    """int64[tokens]: the row of the token at position − 1 of the same request, both decode; −1 where there is none.

    Pairs follow `position`, not the order of rows. What is said at `decode_order` of repeated positions holds here.
    """
    previous = np.full(trace.tokens, -1, np.int64)
    link(decode_order(trace), trace.request, trace.position, previous)
    return previous


def reuse(trace: Trace, window: int | Sequence[int] = 1) -> pd.DataFrame:
    """Expert reuse: the share of a decode token's experts that the `window` tokens before it used too.

    `reuse_rate` is `shared / wanted` with shared = Σ|E_t ∩ (E_{t-1} ∪ … ∪ E_{t-w})| and wanted = Σ|E_t|, over the
    decode tokens whose predecessor (same request, position − 1) is a decode token with a decision at that layer;
    non-null slots only. Earlier tokens of the window count where they are decode tokens of the request.

    One row per window (ascending) and layer (the model's own number), then a row `all`, which is the sums. Columns:
    layer, window, shared, wanted, reuse_rate (null where wanted is 0). Raises ValueError for a window below 1.
    """
    import pandas as pd

    windows = _windows(window)
    order = decode_order(trace)
    layers = list(
        map_layers(
            lambda index: layer_reuse(trace, index, trace.decisions(index), order, windows), trace.moe_layers,
            of_decisions(trace),
        )
    )  # fmt: skip
    wanted = [layer.wanted for layer in layers]
    rows = []
    for at, width in enumerate(windows):
        shared = [layer.shared[at] for layer in layers]
        counts = [*zip(trace.layer_numbers, shared, wanted, strict=True), ("all", sum(shared), sum(wanted))]
        rows += [(layer, width, hits, total, rate(hits, total)) for layer, hits, total in counts]
    frame = pd.DataFrame(rows, columns=["layer", "window", "shared", "wanted", "reuse_rate"])
    return frame.astype({"layer": object, "reuse_rate": float})


def adjacent_reuse(trace: Trace) -> float | None:
    """The overall `reuse_rate` of window 1, without a table; None where no decode token has a predecessor."""
    if isinstance(trace.source, PartSource) and not trace.source.resident and _in_order(trace):
        part = of_part(trace, PART_ROWS, 0)
        pairs = list(map_layers(lambda index: _pairs_in_parts(trace, index), trace.moe_layers, part))
        return rate(sum(shared for shared, _ in pairs), sum(wanted for _, wanted in pairs))
    order = decode_order(trace)
    layers = list(
        map_layers(
            lambda index: layer_reuse(trace, index, trace.decisions(index), order), trace.moe_layers,
            of_decisions(trace),
        )
    )  # fmt: skip
    return rate(sum(layer.shared[0] for layer in layers), sum(layer.wanted for layer in layers))


def _in_order(trace: Trace) -> bool:
    """Whether decode tokens are already as `decode_order` has them."""
    return bool(ascends(np.flatnonzero(trace.phase == DECODE), trace.request, trace.position))


def _pairs_in_parts(trace: Trace, index: int) -> tuple[int, int]:
    """Adjacent reuse of a layer, shared and wanted, part by part; each begins with the last decode token before it."""
    k, widths, shared, wanted = trace.model.top_k[index], np.ones(1, np.int64), np.zeros(1, np.int64), 0
    before, rows_before = Decisions(np.zeros((0, k), np.uint16)), np.zeros(0, np.int64)
    for here, part in parts_of(trace, index):
        decode = np.flatnonzero(trace.phase[here] == DECODE)
        rows = np.append(rows_before, decode + here.start)
        if not decode.size:
            continue
        both = joined(iter((before, part.take(decode))), rows.size, k)
        last = np.full(trace.model.experts[index], -1, np.int64)
        routing, order = (both.experts, both.mask, _routed(both)), np.arange(rows.size)
        places = order, trace.request[rows], trace.position[rows]
        wanted += shared_with_previous(*routing, *places, widths, last, shared, np.zeros((0, 2), np.int64))[0]
        before, rows_before = both.take(order[-1:]), rows[-1:]
    return int(shared[0]), int(wanted)


@dataclass(frozen=True)
class Reuse:
    """Counts of one layer. shared: per window, ascending; wanted: the denominator of all of them.

    decode_slots: experts of all decode tokens, those without a predecessor too; by_request: int64[requests, 2], shared
    (of the shortest window) and wanted of each request that decodes, ascending, then zeros; int64[0, 2] if not asked.
    """

    shared: tuple[int, ...]
    wanted: int
    decode_slots: int
    by_request: Longs


@dataclass(frozen=True)
class WorkingSet:
    """Non-overlapping windows of `window` successive decode tokens of one request that were routed at the layer.

    windows: how many whole ones there are; distinct: their distinct experts, summed over windows.
    """

    window: int
    windows: int
    distinct: int

    @property
    def mean_experts(self) -> float | None:
        """Distinct experts of a window, on average."""
        return rate(self.distinct, self.windows)


@dataclass(frozen=True)
class LayerStatistics:
    """The routing of one MoE layer; `index` counts MoE layers from 0. Slots are non-null ones, of both phases.

    decisions, null_decisions: tokens that were routed here, and those that were not; dropped_slots: null slots inside
    decisions; uses: int64[experts], the slots that chose each expert; reuse: with the windows WINDOWS; working_sets:
    one for each of SPANS.
    """

    index: int
    decisions: int
    null_decisions: int
    dropped_slots: int
    uses: Longs
    reuse: Reuse
    working_sets: tuple[WorkingSet, ...]

    @property
    def slots(self) -> int:
        """Slots in all: the denominator of shares."""
        return int(self.uses.sum())

    @property
    def distinct_experts(self) -> int:
        """Experts that were chosen at least once."""
        return int(np.count_nonzero(self.uses))

    @property
    def routing_entropy(self) -> float | None:
        """Entropy of the distribution of slots over experts, −Σ p ln p, in nats; None without slots."""
        if not self.slots:
            return None
        used = self.uses[self.uses > 0] / self.slots
        return abs(float(np.sum(used * np.log(used))))

    @property
    def routing_entropy_normalised(self) -> float | None:
        """`routing_entropy / ln E`: 1 when all E experts are used equally, 0 when one is used alone; None for E = 1."""
        entropy = self.routing_entropy
        return None if entropy is None or self.uses.size == 1 else min(entropy / float(np.log(self.uses.size)), 1.0)

    @property
    def load_balance_cv(self) -> float | None:
        """Coefficient of variation of `uses`: standard deviation (of the population) over mean, over all E experts."""
        return rate(float(self.uses.std()), float(self.uses.mean()))

    @property
    def top10_slots(self) -> int:
        """Slots of the ⌈E / 10⌉ most used experts (13 of 128; one of 8): the numerator of the popularity share."""
        most = -(-self.uses.size // 10)
        return int(np.sort(self.uses)[-most:].sum())

    @property
    def streaks(self) -> int:
        """Runs of successive decode tokens (position by position) that choose one expert; they add to `decode_slots`.

        A run starts where a decode token chooses an expert that the token before it did not, or where none is before.
        """
        return self.reuse.decode_slots - self.reuse.shared[0]

    @property
    def mean_streak(self) -> float | None:
        """Tokens that an expert stays chosen for, on average over runs."""
        return rate(self.reuse.decode_slots, self.streaks)


def layer_statistics(trace: Trace) -> Iterator[LayerStatistics]:
    """The statistics of every MoE layer, in order; each layer is read once."""
    order, requests = decode_order(trace), trace.requests
    return map_layers(lambda index: _statistics(trace, index, order, requests), trace.moe_layers, of_decisions(trace))


def _statistics(trace: Trace, index: int, order: Longs, requests: int) -> LayerStatistics:
    decisions = trace.decisions(index)
    routed = _routed(decisions)
    null_decisions = int(routed.size - np.count_nonzero(routed))
    uses = np.zeros(trace.model.experts[index], np.int64)
    count_uses(decisions.experts, decisions.mask, routed, uses)
    sets = []
    for span in SPANS:
        marks = np.full(uses.size, -1, np.int64)
        found = working_sets(decisions.experts, decisions.mask, routed, order, trace.request, span, marks)
        sets.append(WorkingSet(span, *map(int, found)))
    return LayerStatistics(
        index=index,
        decisions=trace.tokens - null_decisions,
        null_decisions=null_decisions,
        dropped_slots=(trace.tokens - null_decisions) * trace.model.top_k[index] - int(uses.sum()),
        uses=uses,
        reuse=layer_reuse(trace, index, decisions, order, WINDOWS, requests),
        working_sets=tuple(sets),
    )


def layer_reuse(
    trace: Trace, index: int, decisions: Decisions, order: Longs, windows: Sequence[int] = (1,), requests: int = 0
) -> Reuse:
    """Reuse at MoE layer `index`, whose decisions are at hand; `order` is `decode_order(trace)`.

    requests: how many requests the trace has, to have reuse by request too.
    """
    widths = np.array(windows, np.int64)
    shared, by_request = np.zeros_like(widths), np.zeros((requests, 2), np.int64)
    last = np.full(trace.model.experts[index], -1, np.int64)
    routing = decisions.experts, decisions.mask, _routed(decisions)
    places = order, trace.request, trace.position
    wanted, slots = shared_with_previous(*routing, *places, widths, last, shared, by_request)
    return Reuse(tuple(shared.tolist()), int(wanted), int(slots), by_request)


def _routed(decisions: Decisions) -> Flags:
    """`routed` as kernels take it: bool[0] stands for "every token"."""
    return np.zeros(0, np.bool_) if decisions.routed is None else decisions.routed


def _windows(window: int | Sequence[int]) -> list[int]:
    """Windows in ascending order, each once; ValueError unless they are whole numbers from 1."""
    given = list(window) if isinstance(window, Sequence | np.ndarray) and not isinstance(window, str) else [window]
    for one in given:
        whole = hasattr(one, "__index__") and not isinstance(one, bool)
        if not whole or not 1 <= operator.index(one) < 2**62:
            raise ValueError(f"window {one!r} is not possible; give whole numbers of tokens that are 1 or more")
    if not given:
        raise ValueError("no window is given; give whole numbers of tokens that are 1 or more, such as [1, 2, 4, 8]")
    return sorted({operator.index(one) for one in given})
