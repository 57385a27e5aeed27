"""A stack policy as verbs: the residents lie in a heap with the worst on top, ordered by keys that the loop writes.
Where the later use is the better key, a list does, whose verbs are those named `recent`.

state int64[5, n_entries + 2]: row 0 as for every slot policy, KEY holds the key of each entry (the loop writes it
before `touch` and `insert`, smaller is kept better, of equal keys the higher entry is the worse), HEAP the entries by
place and, in column n_entries, how many there are, PLACE where in the heap each entry is, TODO places to visit.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import ENTRY, SETUP, VICTIM, kernel
from remoe_sim.kernels.lists import clear, oldest_outside, push_front, remove

ROWS = 5
KEY, HEAP, PLACE, TODO = 1, 2, 3, 4
WORST = np.iinfo(np.int64).max


@kernel
def _worse(state, entry, other):
    key, beside = state[KEY, entry], state[KEY, other]
    return key > beside or (key == beside and entry > other)


@kernel
def _put(state, place, entry):
    state[HEAP, place] = entry
    state[PLACE, entry] = place


@kernel
def _settle(state, place, entry):
    """Put `entry` where it belongs, from a free place upwards or downwards."""
    size = state[HEAP, state.shape[1] - 2]
    while place > 0 and _worse(state, entry, state[HEAP, (place - 1) >> 1]):
        _put(state, place, state[HEAP, (place - 1) >> 1])
        place = (place - 1) >> 1
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and _worse(state, state[HEAP, child + 1], state[HEAP, child]):
            child += 1
        if _worse(state, entry, state[HEAP, child]):
            break
        _put(state, place, state[HEAP, child])
        place = child
    _put(state, place, entry)


@kernel(signature=SETUP)
def setup(state, limit):
    state[HEAP, state.shape[1] - 2] = 0


@kernel(signature=ENTRY)
def touch(state, entry):
    _settle(state, state[PLACE, entry], entry)


@kernel(signature=ENTRY)
def admit(state, entry):
    pass


@kernel(signature=ENTRY)
def insert(state, entry):
    size = state[HEAP, state.shape[1] - 2]
    state[HEAP, state.shape[1] - 2] = size + 1
    _settle(state, size, entry)


@kernel(signature=VICTIM)
def victim(state, protected):
    """The worst that is not protected: only below a protected entry, or at the top, can it be."""
    size = state[HEAP, state.shape[1] - 2]
    worst = np.int64(-1)
    pending = 0
    if size > 0:
        state[TODO, 0] = 0
        pending = 1
    while pending > 0:
        pending -= 1
        place = state[TODO, pending]
        entry = state[HEAP, place]
        if worst >= 0 and not _worse(state, entry, worst):
            continue
        if not protected[entry]:
            worst = entry
            continue
        for child in range(2 * place + 1, min(2 * place + 3, size)):
            state[TODO, pending] = child
            pending += 1
    if worst >= 0:
        size -= 1
        state[HEAP, state.shape[1] - 2] = size
        last = state[HEAP, size]
        if last != worst:
            _settle(state, state[PLACE, worst], last)
    return worst


@kernel(signature=SETUP)
def setup_recent(state, limit):
    clear(state, HEAP, state.shape[1] - 2)


@kernel(signature=ENTRY)
def touch_recent(state, entry):
    remove(state, HEAP, entry)
    push_front(state, HEAP, state.shape[1] - 2, entry)


@kernel(signature=ENTRY)
def insert_recent(state, entry):
    push_front(state, HEAP, state.shape[1] - 2, entry)


@kernel(signature=VICTIM)
def victim_recent(state, protected):
    entry = oldest_outside(state, HEAP, state.shape[1] - 2, protected)
    if entry >= 0:
        remove(state, HEAP, entry)
    return entry
