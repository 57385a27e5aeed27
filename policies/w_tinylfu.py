"""W-TinyLFU: a small LRU window, and a segmented LRU that admits from it only what is used more often than its victim.

Einziger, Friedman, Manes: TinyLFU: a highly efficient cache admission policy, ACM Transactions on Storage 13(4), 2017,
section 4.2, in the variant of libCacheSim. Its shares, segments, sketch and sample: the window has a hundredth of the
limit, of the rest the lower segment has a fifth; the sketch is a plain counting Bloom filter, without a doorkeeper;
uses are counted when an expert enters, is hit in the segments, or leaves the window, but not when it is hit in the
window, and halved after as many of the second kind as 32 times the experts that the segments hold. Below 100 experts
libCacheSim's window has no room and admits nothing; here the window holds at least one expert, and the sketch is then
made for all experts, not just for those that the segments hold.

`count_window=true` counts as the paper does: every use once, those in the window included, and leaving it is none. The
sample is the same number of uses of any kind, and when counts are halved, so is the number of uses since.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels import segments, sketches
from remoe_sim.kernels.compile import kernel
from remoe_sim.kernels.lists import clear, oldest, oldest_outside, push_front, remove
from remoe_sim.kernels.segments import (
    clear_segments,
    enter_segments,
    leave_segments,
    lowest_outside,
    overflow,
    overflowed,
    raise_entry,
    set_share,
)
from remoe_sim.kernels.sketches import clear_sketch, count_sketched, estimate, halve, hashes
from remoe_sim.policy import CompiledSlotPolicy, Stream

_WINDOW, _PLACE, _SEEN = 1, 3, 4  # two rows of a list; 1 in the window, 2 in the segments
_MAIN, _TOP = 5, 1
_SKETCH = _MAIN + segments.ROWS
_SAMPLE = 32  # uses per expert that the segments hold until counts are halved


class WTinyLfu(CompiledSlotPolicy):
    name = "w-tinylfu"
    summary = "an LRU window for newcomers; a segmented LRU takes those used more often than what they would push out"
    source = "Einziger, Friedman, Manes: TinyLFU, ACM ToS 13(4), 2017, section 4.2, counting as libCacheSim's WTinyLFU"
    state_rows = _SKETCH + sketches.ROWS

    def __init__(self, count_window: bool = False) -> None:
        self.count_window = count_window

    @property
    def parameter(self) -> int:
        return int(self.count_window)

    # Extra columns: of _PLACE what the segments hold and may hold; of _SEEN uses since counts were halved, and how many
    # there may be.

    def _state(self, stream: Stream) -> npt.NDArray[np.int64]:
        state = super()._state(stream)
        state[_SKETCH : _SKETCH + 2, : stream.n_entries] = hashes(stream.n_entries)
        return state

    @staticmethod
    def setup(state, limit):
        n = state.shape[1] - 2
        total, largest = 0, 0
        for entry in range(n):
            size = state[0, entry]
            total += size
            largest = max(largest, size) if size <= limit else largest
        share = limit - max(limit // 100, largest)
        held = min(share * n // total, n) if share > 0 else 0
        clear(state, _WINDOW, n)
        clear_segments(state, _MAIN, _TOP)
        set_share(state, _MAIN, 0, share // 5)
        set_share(state, _MAIN, 1, share * 4 // 5)
        clear_sketch(state, _SKETCH, held if limit // 100 >= largest else n)
        state[_PLACE, n] = 0
        state[_PLACE, n + 1] = share
        state[_SEEN, n] = 0
        state[_SEEN, n + 1] = _SAMPLE * max(held, 1)

    @staticmethod
    def hit(state, entry):
        n = state.shape[1] - 2
        if state[_PLACE, entry] == 1:
            remove(state, _WINDOW, entry)
            push_front(state, _WINDOW, n, entry)
            if state[0, n]:
                _use(state, entry)
            return
        raise_entry(state, _MAIN, _TOP, entry)
        _use(state, entry)

    @staticmethod
    def admit(state, entry):
        pass

    @staticmethod
    def victim(state, protected):
        n = state.shape[1] - 2
        first = oldest(state, _WINDOW, n)
        while first != n and state[_PLACE, n] + state[0, first] <= state[_PLACE, n + 1]:
            _leave(state, first)
            _move(state, first)
            first = oldest(state, _WINDOW, n)
        newer, older = oldest_outside(state, _WINDOW, n, protected), lowest_outside(state, _MAIN, protected)
        if newer < 0 and older < 0:
            return -1
        wins = newer < 0
        if newer >= 0 and older >= 0:
            wins = estimate(state, _SKETCH, newer) > estimate(state, _SKETCH, older)
        if wins:
            leave_segments(state, _MAIN, older)
            state[_PLACE, n] -= state[0, older]
        if newer >= 0:
            _leave(state, newer)
            if not wins:
                remove(state, _WINDOW, newer)
            elif state[_PLACE, n] + state[0, newer] <= state[_PLACE, n + 1]:
                _move(state, newer)
        return older if wins else newer

    @staticmethod
    def insert(state, entry):
        push_front(state, _WINDOW, state.shape[1] - 2, entry)
        state[_PLACE, entry] = 1
        if state[0, state.shape[1] - 2]:
            _use(state, entry)
        else:
            count_sketched(state, _SKETCH, entry)

    @staticmethod
    def surplus(state, protected):
        if not overflowed(state, _MAIN):
            return -1
        entry = overflow(state, _MAIN, protected)
        if entry >= 0:
            state[_PLACE, state.shape[1] - 2] -= state[0, entry]
        return entry


@kernel
def _move(state, entry):
    """From the window to the segments."""
    remove(state, _WINDOW, entry)
    enter_segments(state, _MAIN, _TOP, entry)
    state[_PLACE, entry] = 2
    state[_PLACE, state.shape[1] - 2] += state[0, entry]


@kernel
def _use(state, entry):
    """One use more, which may end the sample."""
    n = state.shape[1] - 2
    count_sketched(state, _SKETCH, entry)
    state[_SEEN, n] += 1
    if state[_SEEN, n] == state[_SEEN, n + 1]:
        state[_SEEN, n] = state[_SEEN, n + 1] // 2 if state[0, n] else 0
        halve(state, _SKETCH)


@kernel
def _leave(state, entry):
    """An entry leaves the window, which libCacheSim counts."""
    if not state[0, state.shape[1] - 2]:
        count_sketched(state, _SKETCH, entry)
