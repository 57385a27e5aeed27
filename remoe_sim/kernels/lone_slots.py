"""The loop of `slots` where every access is a group of its own, which is what sequential order makes of a trace."""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.borrowed import borrowed
from remoe_sim.kernels.lists import at
from remoe_sim.kernels.slot_verbs import TRIMS, admit, insert, setup, surplus, touch, victim

NO_VICTIM = -1


def lone_replay(
    offsets, entries, steps, epochs, preload, sizes, weights, limit, mandatory, state, hit, resting, running
):
    """Arguments and answer as of `slots.slot_replay`; offsets are not read. Nobody is protected, for a lone newcomer is
    not resident when victims are chosen, except who was just hit."""
    n = sizes.size
    state = borrowed(state)
    step = state.shape[1] - 1
    resident = np.zeros(n, np.bool_)
    protected = np.zeros(n, np.uint8)
    evictions = 0
    for epoch in range(epochs.size - 1):
        resident[:] = False
        used = np.int64(0)
        held = np.int64(0)
        setup(state, limit)
        fitting = 0
        while fitting < preload.size and used + sizes[preload[fitting]] <= limit:
            used += sizes[preload[fitting]]
            fitting += 1
        for rank in range(fitting - 1, -1, -1):
            insert(state, np.int64(preload[rank]))
            resident[preload[rank]] = True
            held += weights[preload[rank]]
        for access in range(epochs[epoch], epochs[epoch + 1]):
            i = at(access)
            entry = np.int64(entries[i])
            together = held
            state[0, step] = steps[i]
            hit[i] = resident[at(entry)]
            if resident[at(entry)]:
                touch(state, entry)
                if TRIMS:
                    protected[at(entry)] = mandatory
                    leaving = surplus(state, borrowed(protected))
                    while leaving >= 0:
                        if leaving >= n or not resident[at(leaving)]:
                            return np.int64(NO_VICTIM)
                        resident[at(leaving)] = False
                        used -= sizes[at(leaving)]
                        held -= weights[at(leaving)]
                        evictions += 1
                        leaving = surplus(state, borrowed(protected))
                    protected[at(entry)] = 0
                    if mandatory:
                        together = held
            else:
                together += weights[at(entry)]
                size = sizes[at(entry)]
                if size <= limit:
                    admit(state, entry)
                    need = limit - size
                    if not mandatory:
                        insert(state, entry)
                        resident[at(entry)] = True
                        used += size
                        held += weights[at(entry)]
                        need = limit
                    while used > need:
                        leaving = victim(state, borrowed(protected))
                        if leaving < 0 or leaving >= n or not resident[at(leaving)]:
                            return np.int64(NO_VICTIM)
                        resident[at(leaving)] = False
                        used -= sizes[at(leaving)]
                        held -= weights[at(leaving)]
                        evictions += leaving != entry
                    if mandatory:
                        insert(state, entry)
                        resident[at(entry)] = True
                        used += size
                        held += weights[at(entry)]
                        together = held
            resting[i] = held
            running[i] = together
    return np.int64(evictions)
