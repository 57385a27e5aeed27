"""What steps have to do on a device, and which experts they read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from remoe_sim.devices.costs import Costs
    from remoe_sim.util.arrays import Longs

Counts = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Steps:
    """What the steps of a run have to do, whatever the cache holds.

    tokens, kv_tokens: int64[steps], tokens of each and cached tokens that its attention reads; decode: int64[steps],
    decode tokens that are counted; needed: uint16[steps, MoE layers], distinct experts; prompts: int64[turns, 2], first
    and last step of the prompt of each turn; requests: the most of one step.
    """

    tokens: Longs
    kv_tokens: Longs
    decode: Longs
    needed: Counts
    prompts: Longs = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    requests: int = 1

    def first(self, count: int) -> Steps:
        """The first steps, without prompts."""
        return Steps(
            self.tokens[:count], self.kv_tokens[:count], self.decode[:count], self.needed[:count],
            requests=self.requests,
        )  # fmt: skip


@dataclass(frozen=True)
class Reads:
    """Experts that are read for each step and MoE layer, uint16[steps, MoE layers]: far from storage and near from host
    memory when the layer is reached, near ones first; early: `depth` MoE layers ahead, of which `used` are computed
    there; guessed: early ones are asked for after what that earlier layer misses, else when it is reached."""

    far: Counts
    near: Counts
    early: Counts
    used: Counts
    depth: int = 1
    guessed: bool = False

    @classmethod
    def of(cls, costs: Costs, missing: Counts, overlap: str = "layer", depth: int = 1) -> Reads:
        """All misses from where the costs say; under `prefetch` all are foreseen, and read ahead."""
        none = np.zeros(missing.shape, missing.dtype)  # memory that nobody writes to, which zeros_like would
        if overlap == "prefetch" and costs.misses_from != "cpu":
            return cls(none, none, missing, missing, depth)
        far, near = (missing, none) if costs.lanes[0] else (none, missing)
        return cls(far, near, none, none, depth)

    def first(self, count: int) -> Reads:
        """Those of the first steps."""
        return replace(
            self, far=self.far[:count], near=self.near[:count], early=self.early[:count], used=self.used[:count]
        )
