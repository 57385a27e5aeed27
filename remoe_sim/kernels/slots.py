"""Loops of slot policies, over all lookups of one cache."""

from __future__ import annotations

import numpy as np
from numba import types

from remoe_sim.kernels.arguments import ACCESSES, BYTES, INTS, LONGS, STOCK, WRITTEN
from remoe_sim.kernels.compile import STATE, borrowed, lowest_bit
from remoe_sim.kernels.lists import at

TRIMS = False  # whether the policy defines surplus
TOUCHES = True  # whether it defines hit


def verb(state, what):
    """Any of the verbs below, which takes the place of this where `call_verb` is compiled for it."""


def call_verb(state, what):
    """One verb that can be an argument of a loop."""
    verb(state, what)


def call_victim(state, protected):
    """One verb that answers."""
    return verb(state, protected)


def setup(state, limit):
    """The policy's `setup`."""


def touch(state, entry):
    """The policy's `hit`."""


def admit(state, entry):
    """The policy's `admit`."""


def victim(state, protected):
    """The policy's `victim`: an entry, or -1."""


def insert(state, entry):
    """The policy's `insert`."""


def surplus(state, protected):
    """The policy's `surplus`: an entry, or -1."""


NO_VICTIM = -1

ONE = np.uint64(1)
ALL = np.uint64(2**64 - 1)

LOOP = types.int64(ACCESSES, STOCK, types.int64, types.boolean, STATE, WRITTEN)


def slot_replay(accesses, stock, limit, mandatory, state, written):
    """Replay group by group; returns the evictions, or NO_VICTIM when the policy named no resident entry as a victim.

    The last cell of the state's first row says which step is being replayed.
    """
    offsets, entries, steps, epochs = accesses
    sizes, weights, preload = stock
    hit, resting, running = written
    n = sizes.size
    state = borrowed(state)
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
                hit[i] = resident[at(entry)]
                if mandatory:
                    protected[at(entry)] = 1
                if not resident[at(entry)]:
                    together += weights[at(entry)]
            for i in range(begin, end):
                entry = np.int64(entries[i])
                if resident[at(entry)]:
                    touch(state, entry)
                    leaving = surplus(state, borrowed(protected)) if TRIMS else np.int64(NO_VICTIM)
                    while leaving >= 0:
                        if leaving >= n or not resident[at(leaving)]:
                            return np.int64(NO_VICTIM)
                        resident[at(leaving)] = False
                        used -= sizes[at(leaving)]
                        held -= weights[at(leaving)]
                        count -= 1
                        leaving = surplus(state, borrowed(protected))
                    continue
                size = sizes[at(entry)]
                if size > limit:
                    continue
                admit(state, entry)
                need = limit - size
                if not mandatory:
                    insert(state, entry)
                    resident[at(entry)] = True
                    used += size
                    held += weights[at(entry)]
                    count += 1
                    need = limit
                while used > need:
                    leaving = victim(state, borrowed(protected))
                    if leaving < 0:
                        leaving = victim(state, borrowed(nobody))
                    elif leaving < n and protected[at(leaving)]:
                        return np.int64(NO_VICTIM)
                    if leaving < 0 or leaving >= n or not resident[at(leaving)]:
                        return np.int64(NO_VICTIM)
                    resident[at(leaving)] = False
                    used -= sizes[at(leaving)]
                    held -= weights[at(leaving)]
                    count -= 1
                if mandatory:
                    insert(state, entry)
                    resident[at(entry)] = True
                    used += size
                    held += weights[at(entry)]
                    count += 1
            outside = np.int64(0)  # bytes of the members that are not kept
            admitted = 0
            for i in range(begin, end):
                entry = np.int64(entries[i])
                protected[at(entry)] = 0
                if not resident[at(entry)]:
                    outside += weights[at(entry)]
                elif not hit[i]:
                    admitted += 1
            evictions += before + admitted - count
            resting[group] = held
            running[group] = held + outside if mandatory else together
    return np.int64(evictions)


def lone_replay(accesses, stock, limit, mandatory, state, written):
    """Do what `slot_replay` does, where every access is a group of its own.

    Nothing is protected but an entry that was just hit: a lone newcomer is not resident when victims are chosen.
    """
    entries, steps, epochs = accesses.entries, accesses.steps, accesses.epochs
    sizes, weights, preload = stock
    hit, resting, running = written
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


SEVERAL = types.int64(
    ACCESSES, BYTES, INTS, LONGS, types.boolean, types.Array(types.int64, 3, "C"), types.Array(types.int64, 2, "C")
)


def several_replays(accesses, kinds, preload, limits, mandatory, states, misses):
    """Do what `slot_replay` does at several limits, with entries of size 1, and count misses only.

    kinds uint8[N]; limits int64[at most 64], each at least 1; states int64[limits, rows, columns]; misses int64[3,
    limits], added to. Of each entry a word has a bit per limit: whether it is resident. So lookups that hit at all
    limits cost a comparison, and others no guess at which ones they miss.
    """
    offsets, entries, steps, epochs = accesses
    states = borrowed(states)
    several, step = limits.size, states.shape[2] - 1
    everywhere = ALL >> np.uint64(64 - several)
    resident = np.zeros(states.shape[2], np.uint64)
    before = np.zeros(states.shape[2], np.uint64)  # of the members of a group, in their order
    protected = np.zeros(states.shape[2], np.uint8)
    nobody = np.zeros(states.shape[2], np.uint8)
    room = np.zeros(several, np.int64)
    for epoch in range(epochs.size - 1):
        resident[:] = 0
        for number in range(several):
            setup(borrowed(states[number]), limits[number])
            fitting = min(preload.size, limits[number])
            room[number] = limits[number] - fitting
            for rank in range(fitting - 1, -1, -1):
                insert(borrowed(states[number]), np.int64(preload[rank]))
                resident[preload[rank]] |= ONE << np.uint64(number)
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            for number in range(several):
                states[number, 0, step] = steps[group]
            for i in range(begin, end):
                before[at(i - begin)] = resident[at(entries[at(i)])]
                protected[at(entries[at(i)])] = mandatory
            for i in range(begin, end):
                entry = np.int64(entries[at(i)])
                here = resident[at(entry)]
                there, kind, hit = ~here & everywhere, at(kinds[at(i)]), before[at(i - begin)]
                while TOUCHES and here != 0:
                    number = at(lowest_bit(here))
                    bit = ONE << np.uint64(number)
                    here ^= bit
                    state = borrowed(states[number])
                    touch(state, entry)
                    leaving = surplus(state, borrowed(protected)) if TRIMS else np.int64(NO_VICTIM)
                    while leaving >= 0:
                        if leaving >= resident.size or resident[at(leaving)] & bit == 0:
                            return np.int64(NO_VICTIM)
                        resident[at(leaving)] ^= bit
                        room[number] += 1
                        leaving = surplus(state, borrowed(protected))
                while there != 0:
                    number = at(lowest_bit(there))
                    bit = ONE << np.uint64(number)
                    there ^= bit
                    misses[kind, number] += hit & bit == 0
                    state = borrowed(states[number])
                    admit(state, entry)
                    if not mandatory:
                        insert(state, entry)
                        resident[at(entry)] |= bit
                    if room[number] == 0:
                        leaving = victim(state, borrowed(protected))
                        if leaving < 0:
                            leaving = victim(state, borrowed(nobody))
                        elif leaving < resident.size and protected[at(leaving)]:
                            return np.int64(NO_VICTIM)
                        if leaving < 0 or leaving >= resident.size or resident[at(leaving)] & bit == 0:
                            return np.int64(NO_VICTIM)
                        resident[at(leaving)] ^= bit
                    else:
                        room[number] -= 1
                    if mandatory:
                        insert(state, entry)
                        resident[at(entry)] |= bit
            for i in range(begin, end):
                protected[at(entries[at(i)])] = 0
    return np.int64(0)
