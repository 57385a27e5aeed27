"""The layers of a synthetic trace, drawn when they are asked for: whole, or all of them a few tokens at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from remoe_sim.kernels.drawing import ABSENT
from remoe_sim.routing_laws import Drawing, Kinds, Law
from remoe_sim.threads import map_layers
from remoe_sim.trace import Decisions, InMemory

Rows = npt.NDArray[np.int32]


@dataclass(frozen=True)
class DrawnLayers:
    """laws, seeds: one per MoE layer; kinds: uint8[tokens], as `remoe_sim.kernels.drawing` has them; rows: the token
    of the other trace that each token copies, and absent: per layer, bool[its tokens], where it had no decision."""

    laws: Sequence[Law]
    seeds: Sequence[int]
    kinds: Kinds
    rows: Rows | None = None
    absent: Sequence[npt.NDArray[np.bool_] | None] = ()
    resident = False

    def decisions(self, index: int) -> Decisions:
        return self._draw(index, self.drawing(index), slice(None))

    def drawing(self, index: int) -> Drawing:
        """A drawing of that layer from its beginning."""
        return Drawing(self.laws[index], self.seeds[index])

    def kinds_at(self, index: int, here: slice) -> Kinds:
        """The kinds of some tokens at a layer."""
        kinds = self.kinds[here]
        absent = self.absent[index] if self.absent else None
        if absent is None or self.rows is None:
            return kinds
        return np.where(absent[self.rows[here]], np.uint8(ABSENT), kinds)

    def _draw(self, index: int, drawing: Drawing, here: slice) -> Decisions:
        kinds = self.kinds_at(index, here)
        experts = drawing.draw(kinds)
        routed = kinds != ABSENT
        if routed.all():
            return Decisions(experts)
        return Decisions(experts, np.repeat(routed[:, None], experts.shape[1], axis=1), routed)

    def blocks(self, rows: int) -> Iterator[InMemory]:
        """All layers of `rows` tokens after the other; the same decisions as whole layers have."""
        drawings = [self.drawing(index) for index in range(len(self.laws))]
        for at in range(0, max(self.kinds.size, 1), rows):
            here = slice(at, at + rows)
            yield InMemory(list(map_layers(partial(self._next, drawings, here), len(drawings))))

    def _next(self, drawings: Sequence[Drawing], here: slice, index: int) -> Decisions:
        return self._draw(index, drawings[index], here)

    def weights(self, index: int) -> None:
        return None

    def probs(self, index: int) -> None:
        return None
