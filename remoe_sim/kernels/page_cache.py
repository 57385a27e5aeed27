"""Page cache of a mapped file: how many pieces fault, under least recently used and under Linux's two lists.

A part of the file (an expert, or the dense weights of a layer) has `pieces` of read-ahead size and is always read from
its first piece to its last.
"""

from __future__ import annotations

import numpy as np

from remoe_sim.kernels.compile import kernel
from remoe_sim.kernels.lists import clear, oldest, push_front, remove


@kernel
def lru_faults(entries, pieces, room, faults):
    """faults int64[N], written: pieces of each access that fault. entries int32[N]; pieces int64[parts]; room: pieces.

    Exact by whole parts: reading a part leaves its pieces next to each other in the order of recency, the first one
    oldest, so what is left of a part are its last `held` pieces. Where a part is itself the oldest, its own faults push
    out what was left of it.
    """
    parts = pieces.size
    links = np.zeros((2, parts + 1), np.int64)
    clear(links, 0, parts)
    held = np.zeros(parts, np.int64)
    free = np.int64(room)
    for i in range(entries.size):
        part = np.int64(entries[i])
        count = pieces[part]
        todo = count - held[part]  # faults, with more to come where the part loses pieces of its own
        done = np.int64(0)
        while done < todo:
            if free > 0:
                some = min(free, todo - done)
                free -= some
                done += some
                continue
            last = oldest(links, 0, parts)
            if last == parts:
                done = todo  # nothing else is left: the part's own first pieces make room for its last
                break
            some = min(held[last], todo - done)
            held[last] -= some
            free += some
            if last == part:
                todo += some
            if held[last] == 0:
                remove(links, 0, last)
        if held[part] > 0:
            remove(links, 0, part)
        held[part] = min(count, room)
        faults[i] = todo
        if held[part] > 0:
            push_front(links, 0, parts, part)


@kernel
def two_list_faults(entries, pieces, room, most_active, faults):
    """As `lru_faults`, piece by piece. A piece that faults is put first in the inactive list; one that is read while it
    is there goes to the front of the active list, whose oldest go back to the front of the inactive one while it has
    more than most_active. The oldest of the inactive list makes room, of the active one where the other is empty."""
    first = np.zeros(pieces.size + 1, np.int64)
    first[1:] = np.cumsum(pieces)
    total = first[pieces.size]
    inactive, active = total, total + 1
    links = np.zeros((2, total + 2), np.int64)
    clear(links, 0, inactive)
    clear(links, 0, active)
    where = np.zeros(total, np.uint8)  # 1: inactive, 2: active
    held = np.int64(0)
    in_active = np.int64(0)
    for i in range(entries.size):
        part = np.int64(entries[i])
        missing = np.int64(0)
        for piece in range(first[part], first[part + 1]):
            if where[piece] == 0:
                missing += 1
                if room < 1:
                    continue
                if held == room:
                    victim = oldest(links, 0, inactive)
                    if victim == inactive:
                        victim = oldest(links, 0, active)
                        in_active -= 1
                    remove(links, 0, victim)
                    where[victim] = 0
                    held -= 1
                push_front(links, 0, inactive, piece)
                where[piece] = 1
                held += 1
                continue
            remove(links, 0, piece)
            push_front(links, 0, active, piece)
            in_active += where[piece] == 1
            where[piece] = 2
            if in_active > most_active:
                back = oldest(links, 0, active)
                remove(links, 0, back)
                push_front(links, 0, inactive, back)
                where[back] = 1
                in_active -= 1
        faults[i] = missing
