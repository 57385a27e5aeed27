"""CLOCK: a queue in order of entry whose oldest expert gets a second chance if it was used since it was last looked at.

Corbató: A paging experiment with the Multics system, 1968. Experts of the running step are passed over without changing
their marks.
"""

from __future__ import annotations

from remoe_sim.kernels.lists import clear, oldest, push_front, remove
from remoe_sim.policy import CompiledSlotPolicy

_QUEUE, _USED = 1, 3  # rows 1 and 2: a list from the newest to the oldest; row 3: used since it was last looked at


class Clock(CompiledSlotPolicy):
    name = "clock"
    summary = "the oldest goes first, but once used it is put back in front instead"
    source = "Corbató: A paging experiment with the Multics system, 1968; libCacheSim Clock with one bit"
    state_rows = 4

    @staticmethod
    def setup(state, limit):
        clear(state, _QUEUE, state.shape[1] - 2)

    @staticmethod
    def hit(state, entry):
        state[_USED, entry] = 1

    @staticmethod
    def victim(state, protected):
        head = state.shape[1] - 2
        entry = oldest(state, _QUEUE, head)
        while entry != head:  # what is put back in front is met again, without its mark
            newer = state[_QUEUE + 1, entry]
            if not protected[entry]:
                remove(state, _QUEUE, entry)
                if state[_USED, entry] == 0:
                    return entry
                state[_USED, entry] = 0
                push_front(state, _QUEUE, head, entry)
                if newer == head:
                    newer = entry
            entry = newer
        return -1

    @staticmethod
    def insert(state, entry):
        state[_USED, entry] = 0
        push_front(state, _QUEUE, state.shape[1] - 2, entry)
