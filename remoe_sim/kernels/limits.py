"""Replay one cache at one limit by keys, among entries of any size."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.arguments import GroupedAccesses, Stock, Written
from remoe_sim.kernels.compile import borrowed, kernel
from remoe_sim.kernels.lists import at


@kernel
def ordered_replay(accesses, keys, preload_keys, stock, limit, mandatory, written):
    """Keep the smallest keys, members of the group before all others if `mandatory`; returns the evictions.

    keys, preload_keys as in `stacks.ordered_depths`. Residents are in a heap with the worst on top; an entry that
    was used since it was pushed is recognised by its stale key and skipped.
    """
    offsets, entries, _, epochs = accesses
    sizes, weights, preload = stock
    hit, resting, running = written
    n = sizes.size
    key = np.empty(n, keys.dtype)
    resident = np.zeros(n, np.bool_)
    member = np.full(n, -1, np.int64)
    room = 4 * n + 16
    heap_keys = np.empty(room, keys.dtype)
    heap = np.empty(room, np.int64)
    evictions = 0
    for epoch in range(epochs.size - 1):
        resident[:] = False
        used = np.int64(0)
        held = np.int64(0)
        pushed = 0
        for rank in range(preload.size):
            entry = np.int64(preload[rank])
            if used + sizes[entry] > limit:
                break
            used += sizes[entry]
            held += weights[entry]
            resident[entry] = True
            key[entry] = preload_keys[epoch % preload_keys.shape[0], entry]
            _push(heap, heap_keys, pushed, entry, key[entry])
            pushed += 1
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            if pushed + 2 * (end - begin) > room:
                pushed = _compact(heap, heap_keys, resident, key)
            for i in range(begin, end):
                entry = np.int64(entries[i])
                hit[i] = resident[entry]
                key[entry] = keys[i]
                member[entry] = group
                if not resident[entry]:
                    used += sizes[entry]
                    held += weights[entry]
                    resident[entry] = True
            together = held  # S ∪ R
            compete = not mandatory  # whether members may leave
            if compete:
                pushed = _push_group(heap, heap_keys, pushed, entries, keys, begin, end)
            while used > limit:
                if pushed == 0:  # only members are left
                    compete = True
                    pushed = _push_group(heap, heap_keys, pushed, entries, keys, begin, end)
                worst, worst_key = heap[0], heap_keys[0]
                pushed -= 1
                _pop(heap, heap_keys, pushed)
                stale = not resident[worst] or key[worst] != worst_key
                if stale or (member[worst] == group and not compete):
                    continue
                resident[worst] = False
                used -= sizes[worst]
                held -= weights[worst]
                evictions += member[worst] != group
            outside = np.int64(0)  # bytes of the members that are not kept
            for i in range(begin, end):
                entry = np.int64(entries[i])
                if not resident[entry]:
                    outside += weights[entry]
                    evictions += hit[i]
            if not compete:
                pushed = _push_group(heap, heap_keys, pushed, entries, keys, begin, end)
            resting[group] = held
            running[group] = held + outside if mandatory else together
    return evictions


@kernel
def _push_group(heap, heap_keys, size, entries, keys, begin, end):
    for i in range(begin, end):
        _push(heap, heap_keys, size, np.int64(entries[i]), keys[i])
        size += 1
    return size


@kernel
def _push(heap, heap_keys, at, entry, key):
    """Add to a heap of size `at`; of equal keys the higher entry is the worse."""
    while at > 0:
        parent = (at - 1) >> 1
        if heap_keys[parent] > key or (heap_keys[parent] == key and heap[parent] >= entry):
            break
        heap[at], heap_keys[at] = heap[parent], heap_keys[parent]
        at = parent
    heap[at], heap_keys[at] = entry, key


@kernel
def _pop(heap, heap_keys, size):
    """Remove the top; `size` is what remains. The last element sinks from the top."""
    entry, key = heap[size], heap_keys[size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            heap_keys[right] > heap_keys[child] or (heap_keys[right] == heap_keys[child] and heap[right] > heap[child])
        ):
            child = right
        if key > heap_keys[child] or (key == heap_keys[child] and entry >= heap[child]):
            break
        heap[at], heap_keys[at] = heap[child], heap_keys[child]
        at = child
    heap[at], heap_keys[at] = entry, key


@kernel
def _compact(heap, heap_keys, resident, key):
    """Rebuild the heap from the residents, without what went stale."""
    size = 0
    for entry in range(resident.size):
        if resident[entry]:
            _push(heap, heap_keys, size, entry, key[entry])
            size += 1
    return size


ONE = np.uint64(1)


class Places(NamedTuple):
    """The residents of `place_replay`, by their places in the order of keys, and a set of the places that are taken.

    starts: int64[levels + 1], where each level of `bits` begins, the lowest first
    bits: uint64, of each place whether it is taken; above, of each word whether it has a bit that is set
    owner: uint16 or int32[places], the entry that was last at each place
    place: int64[n_entries], the place of each resident
    resident: bool[n_entries]
    member: int64[n_entries], the last group that each entry was in
    """

    starts: npt.NDArray[np.int64]
    bits: npt.NDArray[np.uint64]
    owner: npt.NDArray[Any]
    place: npt.NDArray[np.int64]
    resident: npt.NDArray[np.bool_]
    member: npt.NDArray[np.int64]

    @classmethod
    def free(cls, places: int, n: int) -> Places:
        """No place is taken. Made outside the kernel, where each array would take 0.1 s to compile."""
        starts = _levels(places)
        return cls(
            starts, np.zeros(starts[-1], np.uint64), np.empty(places, np.uint16 if n <= 2**16 else np.int32),
            np.empty(n, np.int64), np.zeros(n, np.bool_), np.full(n, -1, np.int64),
        )  # fmt: skip


def place_replay(
    accesses: GroupedAccesses,
    keys: npt.NDArray[Any],
    preload_keys: npt.NDArray[Any],
    stock: Stock,
    limit: int,
    mandatory: bool,
    written: Written,
) -> int:
    """Do what `ordered_replay` does, for keys and preload_keys below N + n_entries of which no two entries have the
    same at a time."""
    n = stock.sizes.size
    places = Places.free(keys.size + n, n)
    preload_keys = preload_keys.astype(np.int64, copy=False)  # of one type, so that there is one kernel to compile
    evictions: int = _replay(accesses, keys, preload_keys, stock, limit, mandatory, written, places)
    return evictions


@kernel
def _replay(accesses, keys, preload_keys, stock, limit, mandatory, written, places):
    offsets, entries, epochs = accesses.offsets, borrowed(accesses.entries), accesses.epochs
    sizes, weights, preload = stock
    hit, resting, running = borrowed(written.hit), written.resting, written.running
    starts, bits, owner = borrowed(places.starts), borrowed(places.bits), places.owner
    place, resident, member = places.place, places.resident, places.member
    keys = borrowed(keys)
    n = sizes.size
    evictions = 0
    for epoch in range(epochs.size - 1):
        for entry in range(n):
            if resident[entry]:
                _remove(bits, starts, place[entry])
                resident[entry] = False
        used = np.int64(0)
        held = np.int64(0)
        for rank in range(preload.size):
            entry = np.int64(preload[rank])
            if used + sizes[entry] > limit:
                break
            used += sizes[entry]
            held += weights[entry]
            resident[entry] = True
            place[entry] = preload_keys[epoch % preload_keys.shape[0], entry]
            owner[place[entry]] = entry
            _add(bits, starts, place[entry])
        for group in range(epochs[epoch], epochs[epoch + 1]):
            begin, end = offsets[group], offsets[group + 1]
            for i in range(begin, end):
                entry = at(entries[at(i)])
                hit[at(i)] = resident[entry]
                member[entry] = group
                if resident[entry]:
                    _remove(bits, starts, place[entry])
                else:
                    used += sizes[entry]
                    held += weights[entry]
                    resident[entry] = True
                place[entry] = keys[at(i)]
                owner[at(keys[at(i)])] = entry
            together = held  # S ∪ R
            compete = not mandatory  # whether members may leave
            if compete:
                _add_group(bits, starts, keys, begin, end)
            while used > limit:
                if bits[bits.size - 1] == 0:  # only members are left
                    compete = True
                    _add_group(bits, starts, keys, begin, end)
                worst = _largest(bits, starts)
                _remove(bits, starts, worst)
                entry = at(owner[at(worst)])
                resident[entry] = False
                used -= sizes[entry]
                held -= weights[entry]
                evictions += member[entry] != group
            outside = np.int64(0)  # bytes of the members that are not kept
            if compete:
                for i in range(begin, end):
                    entry = at(entries[at(i)])
                    if not resident[entry]:
                        outside += weights[entry]
                        evictions += hit[at(i)]
            else:
                _add_group(bits, starts, keys, begin, end)
            resting[group] = held
            running[group] = held + outside if mandatory else together
    return evictions


def _levels(size):
    """Where each level of words begins, the lowest first, and where the last, a single word, ends."""
    words = [-(-size // 64)]
    while words[-1] > 1:
        words.append(-(-words[-1] // 64))
    return np.cumsum([0, *words])


@kernel(inline=True)
def _add(bits, starts, number):
    for level in range(starts.size - 1):
        word = at(starts[level] + (number >> 6))
        before = bits[word]
        bits[word] = before | (ONE << np.uint64(number & 63))
        if before != 0:
            break
        number >>= 6


@kernel(inline=True)
def _add_group(bits, starts, keys, begin, end):
    for i in range(begin, end):
        _add(bits, starts, np.int64(keys[at(i)]))


@kernel(inline=True)
def _remove(bits, starts, number):
    for level in range(starts.size - 1):
        word = at(starts[level] + (number >> 6))
        bits[word] &= ~(ONE << np.uint64(number & 63))
        if bits[word] != 0:
            break
        number >>= 6


@kernel(inline=True)
def _largest(bits, starts):
    """The largest number in the set, which is not empty."""
    number = np.int64(0)
    for level in range(starts.size - 2, -1, -1):
        number = (number << 6) + _highest(bits[at(starts[level] + number)])
    return number


@kernel(inline=True)
def _highest(word):
    """The number of the highest bit that is set."""
    number = np.int64(0)
    for step in (32, 16, 8, 4, 2, 1):
        above = word >> np.uint64(step)
        if above != 0:
            word = above
            number += step
    return number
