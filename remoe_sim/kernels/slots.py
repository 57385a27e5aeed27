"""The one loop of all policies that have no order independent of the capacity: it asks the policy for victims.

Arguments as in `limits`; the verbs are described in `remoe_sim.policy`. Entries are touched or inserted once each, in
the order they have in the group, after hits were decided for the whole group.
"""

from __future__ import annotations

import numpy as np
from numba import types

from remoe_sim.compile import ENTRY, SETUP, STATE, VICTIM, kernel

NO_VICTIM = -1

_LONGS = types.Array(types.int64, 1, "C")
_INTS = types.Array(types.int32, 1, "C")
_FLAGS = types.Array(types.boolean, 1, "C")
_VERBS = (types.FunctionType(SETUP), *(types.FunctionType(ENTRY),) * 2, types.FunctionType(VICTIM))
_ARGUMENTS = (_LONGS, _INTS, _INTS, _LONGS, _INTS, _LONGS, _LONGS, types.int64, types.boolean, STATE, *_VERBS)


@kernel(signature=types.int64(*_ARGUMENTS, types.FunctionType(ENTRY), _FLAGS, _LONGS, _LONGS))
def slot_replay(
    offsets, entries, steps, epochs, preload, sizes, weights, limit, mandatory, state, setup, touch, admit, victim, insert,
    hit, resting, running,
):  # fmt: skip
    """Returns the evictions, or NO_VICTIM when the policy named no resident entry as a victim.

    steps int32[groups]; the last cell of the state's first row says which step is being replayed.
    """
    n = sizes.size
    resident = np.zeros(n, np.bool_)
    protected = np.zeros(n, np.uint8)
    nobody = np.zeros(n, np.uint8)
    evictions = 0
    for epoch in range(epochs.size - 1):
        resident[:] = False
        used = np.int64(0)
        held = np.int64(0)
        count = 0
        setup(state, limit)
        fitting = 0
        while fitting < preload.size and used + sizes[preload[fitting]] <= limit:
            used += sizes[preload[fitting]]
            fitting += 1
        for rank in range(fitting - 1, -1, -1):
            insert(state, np.int64(preload[rank]))
            resident[preload[rank]] = True
            held += weights[preload[rank]]
            count += 1
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            before = count
            together = held
            state[0, state.shape[1] - 1] = steps[group]
            for i in range(begin, end):
                entry = np.int64(entries[i])
                hit[i] = resident[entry]
                if mandatory:
                    protected[entry] = 1
                if not resident[entry]:
                    together += weights[entry]
            for i in range(begin, end):
                entry = np.int64(entries[i])
                if resident[entry]:
                    touch(state, entry)
                    continue
                size = sizes[entry]
                if size > limit:
                    continue
                admit(state, entry)
                need = limit - size
                if not mandatory:
                    insert(state, entry)
                    resident[entry] = True
                    used += size
                    held += weights[entry]
                    count += 1
                    need = limit
                while used > need:
                    leaving = victim(state, protected)
                    if leaving < 0:
                        leaving = victim(state, nobody)
                    if leaving < 0 or leaving >= n or not resident[leaving]:
                        return np.int64(NO_VICTIM)
                    resident[leaving] = False
                    used -= sizes[leaving]
                    held -= weights[leaving]
                    count -= 1
                if mandatory:
                    insert(state, entry)
                    resident[entry] = True
                    used += size
                    held += weights[entry]
                    count += 1
            outside = np.int64(0)  # bytes of the members that are not kept
            admitted = 0
            for i in range(begin, end):
                entry = np.int64(entries[i])
                protected[entry] = 0
                if not resident[entry]:
                    outside += weights[entry]
                elif not hit[i]:
                    admitted += 1
            evictions += before + admitted - count
            resting[group] = held
            running[group] = held + outside if mandatory else together
    return np.int64(evictions)
