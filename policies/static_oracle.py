"""The best fixed set of experts for this very trace: the stationary optimum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from remoe_sim.policies.static import StaticSet, most_used

from remoe_sim.policy import Rules, Stream


class StaticOracle(StaticSet):  # type: ignore[misc]
    """Members are ranked by their uses other than the first since the cache was empty, those that can hit. No fixed
    set has more hits where all entries take the same of the limit; with unequal sizes the ranking is the same."""

    name = "static-oracle"
    summary = "the best fixed set, chosen with knowledge of this trace; what static aims at"
    source = "A0 of Aho, Denning, Ullman: Principles of optimal page replacement, Journal of the ACM 18(1), 1971"
    online = False

    def ranking(self, stream: Stream, rules: Rules) -> npt.NDArray[np.int64]:
        uses = np.bincount(stream.entries[~stream.first], minlength=stream.n_entries)
        ranked: npt.NDArray[np.int64] = most_used(uses)
        return ranked
