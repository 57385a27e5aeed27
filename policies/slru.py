"""Segmented LRU in two variants: S4LRU, and with `segments=2` the two segments of Karedla, Love and Wherry.

S4LRU (Huang, Birman, van Renesse, Lloyd, Kumar, Li: An analysis of Facebook photo caching, SOSP 2013): a hit moves an
expert one segment up, and the lowest segment is evicted first. Details are those of libCacheSim, where they differ from
that paper: a quarter of the limit per segment; a new expert enters the lowest segment with room, or the lowest of all,
which may then exceed its share; what a hit pushes out of the lowest segment leaves at once. Below four experts
libCacheSim admits nothing; here every segment has room for one.

`segments=2` (Karedla, Love, Wherry: Caching strategies to improve disk system performance, IEEE Computer 27(3), 1994):
a new expert enters the front of the probationary segment, and a hit moves an expert to the front of the protected one.
Where that exceeds its share of the limit, its last goes back to the front of the probationary segment, which has no
share of its own. The last of the probationary segment is evicted first. The paper leaves the share open; `protected` is
0.8 here, as in W-TinyLFU.
"""

from __future__ import annotations

from remoe_sim.kernels.compile import kernel
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
_ANY = 2**62  # a share that is never exceeded


class Slru(CompiledSlotPolicy):
    name = "slru"
    summary = "S4LRU: four segments of LRU, each hit moves one up; segments=2: probationary and protected"
    source = "Huang et al., SOSP 2013, as libCacheSim's SLRU; segments=2: Karedla et al., IEEE Computer 27(3), 1994"
    state_rows = 1 + ROWS

    def __init__(self, segments: int = 4, protected: float | None = None) -> None:
        if segments not in (2, 4):
            raise ValueError(f"segments={segments} of policy '{self.name}' is not possible; give 2 or 4")
        if protected is not None and (segments != 2 or not 0 <= protected <= 1):
            raise ValueError(
                f"protected={protected} of policy '{self.name}' is not possible; give 0 to 1, and segments=2 with it"
            )
        self.segments, self.protected = segments, 0.8 if protected is None else protected

    @property
    def parameter(self) -> int:
        """Thousandths of the limit that the protected segment has; -1 with four segments."""
        return round(1000 * self.protected) if self.segments == 2 else -1

    @staticmethod
    def setup(state, limit):
        clear_segments(state, _SEGMENTS, _TOP)
        thousandths = state[0, state.shape[1] - 2]
        if thousandths >= 0:
            set_share(state, _SEGMENTS, 0, _ANY)
            set_share(state, _SEGMENTS, 1, limit // 1000 * thousandths + limit % 1000 * thousandths // 1000)
            return
        for level in range(_TOP + 1):
            set_share(state, _SEGMENTS, level, limit // (_TOP + 1))

    @staticmethod
    def hit(state, entry):
        raise_entry(state, _SEGMENTS, top_of(state), entry)

    @staticmethod
    def admit(state, entry):
        pass

    @staticmethod
    def victim(state, protected):
        entry = lowest_outside(state, _SEGMENTS, protected)
        if entry >= 0:
            leave_segments(state, _SEGMENTS, entry)
        return entry

    @staticmethod
    def insert(state, entry):
        enter_segments(state, _SEGMENTS, top_of(state), entry)

    @staticmethod
    def surplus(state, protected):
        return overflow(state, _SEGMENTS, protected) if overflowed(state, _SEGMENTS) else -1


@kernel(inline=True)
def top_of(state):
    """The number of the highest segment."""
    return 1 if state[0, state.shape[1] - 2] >= 0 else _TOP
