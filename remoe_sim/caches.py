"""All that is the same for every policy and limit of one call: the trace, how it is replayed, how its caches start."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from remoe_sim.pinning import Entries, Pins
from remoe_sim.policy import Rules
from remoe_sim.preload import Preload
from remoe_sim.settings import Settings
from remoe_sim.streams import Longs, StreamViews, Tokens, global_stream, layer_stream
from remoe_sim.trace import Trace


@dataclass(frozen=True)
class Caches:
    """tokens: those that take part; training: uses of experts in the trace that policies learn from."""

    trace: Trace
    settings: Settings
    tokens: Tokens
    preload: Preload = field(default_factory=Preload)
    pins: Pins = field(default_factory=Pins)
    training: Preload = field(default_factory=Preload)

    def layer_views(self, index: int) -> StreamViews:
        """The accesses of the cache of MoE layer `index`."""
        decisions = self.trace.decisions(index)
        order = self.settings.order
        return StreamViews(
            lambda by_last: layer_stream(self.trace, index, decisions, self.tokens, order, by_last), self.tokens
        )

    def global_views(self, in_bytes: bool) -> StreamViews:
        """The accesses of the one cache of all layers; its limit counts bytes or experts."""
        order = self.settings.order
        return StreamViews(
            lambda by_last: global_stream(self.trace, self.tokens, order, in_bytes, by_last), self.tokens
        )

    def layer_rules(self, index: int) -> Rules:
        """What holds for the cache of MoE layer `index`."""
        uses = self.training.counts[index] if self.training.counts else None
        return self._rules(self.preload.of_layer(index), uses, self.pins.of_layer(index))

    def global_rules(self) -> Rules:
        """What holds for the one cache of all layers."""
        uses = np.concatenate(self.training.counts) if self.training.counts else None
        return self._rules(self.preload.everywhere, uses, self.pins.everywhere)

    def _rules(self, preload: Entries, uses: Longs | None, pinned: Entries) -> Rules:
        """Pinned entries are there anyway, so no policy starts with them or learns that they are used."""
        if uses is not None and pinned.size:
            uses = uses.copy()
            uses[pinned] = 0
        return Rules(self.settings.mandatory, preload[~np.isin(preload, pinned)], uses)
