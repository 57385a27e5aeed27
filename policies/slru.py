"""Segmented LRU: four segments; a hit moves an expert one segment up, and the lowest segment is evicted first.

Karedla, Love, Wherry: Caching strategies to improve disk system performance, IEEE Computer 27(3), 1994, with the
details of libCacheSim's S4LRU: a quarter of the limit per segment; a new expert enters the lowest segment with room,
or the lowest of all, which may then exceed its share; what a hit pushes out of the lowest segment leaves at once. Below
four experts libCacheSim admits nothing; here every segment has room for one.
"""

from __future__ import annotations

from remoe_sim.kernels.segments import (
    ROWS,
    clear_segments,
    enter_segments,
    leave_segments,
    lowest_outside,
    overflow,
    overflowed,
    raise_entry,
    set_share,
)
from remoe_sim.policy import CompiledSlotPolicy

_SEGMENTS, _TOP = 1, 3


class Slru(CompiledSlotPolicy):
    name = "slru"
    summary = "four segments of LRU; each hit moves one segment up"
    source = "Karedla, Love, Wherry: Caching strategies to improve disk system performance, 1994; libCacheSim SLRU"
    state_rows = 1 + ROWS

    @staticmethod
    def setup(state, limit):  # type: ignore[no-untyped-def,override]
        clear_segments(state, _SEGMENTS, _TOP)
        for level in range(_TOP + 1):
            set_share(state, _SEGMENTS, level, limit // (_TOP + 1))

    @staticmethod
    def hit(state, entry):  # type: ignore[no-untyped-def,override]
        raise_entry(state, _SEGMENTS, _TOP, entry)

    @staticmethod
    def admit(state, entry):  # type: ignore[no-untyped-def,override]
        pass

    @staticmethod
    def victim(state, protected):  # type: ignore[no-untyped-def,override]
        entry = lowest_outside(state, _SEGMENTS, protected)
        if entry >= 0:
            leave_segments(state, _SEGMENTS, entry)
        return entry

    @staticmethod
    def insert(state, entry):  # type: ignore[no-untyped-def,override]
        enter_segments(state, _SEGMENTS, _TOP, entry)

    @staticmethod
    def surplus(state, protected):  # type: ignore[no-untyped-def,override]
        return overflow(state, _SEGMENTS, protected) if overflowed(state, _SEGMENTS) else -1
