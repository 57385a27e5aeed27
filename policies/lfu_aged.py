"""Least frequently used with aging: a use counts half as much after every `half_life` steps.

The score of an expert at step T is Σ 2^((t − T) / half_life) over the steps t of its uses. All scores shrink alike, so
their order changes only at a use, and −log2 Σ 2^(t / half_life) is a key that never has to be touched again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.compile import kernel
from remoe_sim.policy import StackPolicy, Stream

UNIT = 2.0**20  # scores are compared to this part of a doubling, so that rounding cannot part what is equal
SHORTEST = 0.01  # steps; the keys of 10**9 steps still fit an int64


class LfuAged(StackPolicy):
    name = "lfu-aged"
    summary = "lowest count goes first, where a use counts half after every half_life steps"
    source = "LRFU (Lee et al., IEEE Transactions on Computers 50(12), 2001), section 2, λ = 1 / half_life"

    def __init__(self, half_life: float = 64.0) -> None:
        if not half_life >= SHORTEST:
            raise ValueError(f"half_life={half_life} of policy '{self.name}' is not possible; give {SHORTEST} or more")
        self.half_life = half_life

    def keys(self, stream: Stream) -> npt.NDArray[np.int64]:
        keys = np.empty(stream.entries.size, np.int64)
        log_score, last = np.empty(stream.n_entries), np.empty(stream.n_entries, np.int64)
        decayed_counts(
            stream.offsets, stream.entries, stream.steps, stream.epochs, self.half_life, UNIT, log_score, last, keys
        )
        return keys


@kernel
def decayed_counts(offsets, entries, steps, epochs, half_life, unit, log_score, last, keys):
    """keys int64[N], written: −log2 of the sum of 2^(step / half_life) over the entry's uses so far, in 1/unit.

    offsets int64[groups + 1]; entries[N]; steps int32[groups]; epochs int64[n + 1], group bounds; half_life in steps.
    Scratch: log_score float64[n_entries], log2 of the score as it was at the entry's last use, and last
    int64[n_entries], the step of that. It is small however long the trace, so nothing overflows, and an error fades
    with the uses before it.
    """
    for epoch in range(epochs.size - 1):
        log_score[:] = -np.inf
        last[:] = 0
        for group in range(epochs[epoch], epochs[epoch + 1]):
            now = np.int64(steps[group])
            for i in range(offsets[group], offsets[group + 1]):
                entry = np.int64(entries[i])
                decayed = log_score[entry] - (now - last[entry]) / half_life
                log_score[entry] = np.log2(1.0 + 2.0**decayed)
                last[entry] = now
                keys[i] = -np.int64(np.rint((log_score[entry] + now / half_life) * unit))
