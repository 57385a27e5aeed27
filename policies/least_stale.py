"""Least-Stale: what this forward pass has not used goes first, in the order in which the model runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.lists import clear, oldest_outside, push_front, remove
from remoe_sim.policy import CompiledSlotPolicy, Stream

_HEAD, _PASS, _RECENCY = 1, 2, 3  # rows 3 and 4: a list per layer, from the most to the least recently used


class LeastStale(CompiledSlotPolicy):
    """An entry is stale until the running step uses it. Stale entries go before current ones, those of a lower layer
    before those of a higher one, and within a layer the least recently used first.

    In a cache of one layer this is LRU. In one cache of all layers it is not: a lower layer ran earlier in this pass
    and comes again only in the next one, so it goes before a layer still to come, however long that was not used.
    """

    name = "least-stale"
    summary = "not used in this forward pass goes first, lower layers before higher ones"
    source = "SpecMD (Hoang et al., arXiv 2602.03921): stale before current, each first in, first out by layer"
    state_rows = 5

    def _state(self, stream: Stream) -> npt.NDArray[np.int64]:
        """As in the base class, but with one list head per layer; the column behind them says where they begin."""
        n, layers = stream.n_entries, stream.layer_starts.size
        state = np.zeros((self.state_rows, n + layers + 2), np.int64)
        state[0, n + layers] = n
        state[_HEAD, :n] = n + np.searchsorted(stream.layer_starts, np.arange(n), side="right") - 1
        return state

    @staticmethod
    def setup(state, limit):  # type: ignore[no-untyped-def,override]
        behind = state.shape[1] - 2
        for head in range(state[0, behind], behind):
            clear(state, _RECENCY, head)
        state[0, behind + 1] = -1  # what is there before the first step is stale

    @staticmethod
    def hit(state, entry):  # type: ignore[no-untyped-def,override]
        state[_PASS, entry] = state[0, state.shape[1] - 1]
        remove(state, _RECENCY, entry)
        push_front(state, _RECENCY, state[_HEAD, entry], entry)

    @staticmethod
    def admit(state, entry):  # type: ignore[no-untyped-def,override]
        pass

    @staticmethod
    def victim(state, protected):  # type: ignore[no-untyped-def,override]
        behind = state.shape[1] - 2
        for head in range(state[0, behind], behind):
            entry = state[_RECENCY + 1, head]
            while entry != head and state[_PASS, entry] != state[0, behind + 1]:
                if not protected[entry]:
                    remove(state, _RECENCY, entry)
                    return entry
                entry = state[_RECENCY + 1, entry]
        for head in range(state[0, behind], behind):
            entry = oldest_outside(state, _RECENCY, head, protected)
            if entry >= 0:
                remove(state, _RECENCY, entry)
                return entry
        return -1

    @staticmethod
    def insert(state, entry):  # type: ignore[no-untyped-def,override]
        state[_PASS, entry] = state[0, state.shape[1] - 1]
        push_front(state, _RECENCY, state[_HEAD, entry], entry)
