"""Least-Stale: what this forward pass has not used goes first, in the order in which the model runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.lists import clear, push_front, remove
from remoe_sim.policy import CompiledSlotPolicy, Stream

_HEAD, _PASS, _RECENCY = 1, 2, 3  # rows 3 and 4: a list per layer, from the most to the least recently used


class LeastStale(CompiledSlotPolicy):
    """An entry is stale until the running step uses it. Stale entries go before current ones. Among either, first come
    the layers whose turn in this pass is over, the running one included, in the order in which they had it; then those
    to come, the last one first; and within a layer the least recently used.

    In a cache of one layer this is LRU. In one cache of all layers it is not: however long an expert of a layer still
    to come was not used, it stays before one of a layer that comes again only in the next pass.
    """

    name = "least-stale"
    summary = "not used in this forward pass goes first, layers that have run before those to come"
    source = "SpecMD (Hoang et al., arXiv 2602.03921): stale before current, first in, first out by layer position"
    state_rows = 5
    inclusive = True  # who leaves is told by uses alone

    def _state(self, stream: Stream) -> npt.NDArray[np.int64]:
        """As in the base class, but with one list head per layer, then where these begin and the running one's."""
        n, layers = stream.n_entries, stream.layer_starts.size
        state = np.zeros((self.state_rows, n + layers + 2), np.int64)
        state[0, n + layers] = n
        state[_HEAD, :n] = n + np.searchsorted(stream.layer_starts, np.arange(n), side="right") - 1
        return state

    @staticmethod
    def setup(state, limit):
        behind = state.shape[1] - 2
        for head in range(state[0, behind], behind):
            clear(state, _RECENCY, head)
        state[_HEAD, behind] = state[0, behind]
        state[0, behind + 1] = -1  # what is there before the first step is stale

    @staticmethod
    def hit(state, entry):
        state[_HEAD, state.shape[1] - 2] = state[_HEAD, entry]
        state[_PASS, entry] = state[0, state.shape[1] - 1]
        remove(state, _RECENCY, entry)
        push_front(state, _RECENCY, state[_HEAD, entry], entry)

    @staticmethod
    def admit(state, entry):
        state[_HEAD, state.shape[1] - 2] = state[_HEAD, entry]

    @staticmethod
    def victim(state, protected):
        behind = state.shape[1] - 2
        first, running, now = state[0, behind], state[_HEAD, behind], state[0, behind + 1]
        for current in range(2):
            for turn in range(behind - first):
                head = first + turn
                if head > running:  # those to come, from the last
                    head = behind - (head - running)
                entry = state[_RECENCY + 1, head]
                while entry != head and (current or state[_PASS, entry] != now):
                    if not protected[entry]:
                        remove(state, _RECENCY, entry)
                        return entry
                    entry = state[_RECENCY + 1, entry]
        return -1

    @staticmethod
    def insert(state, entry):
        state[_PASS, entry] = state[0, state.shape[1] - 1]
        push_front(state, _RECENCY, state[_HEAD, entry], entry)
