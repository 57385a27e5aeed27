"""What formats collect that have one line or object per decision."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from remoe_sim.assembling import Slots
from remoe_sim.json_reading import Entry, shown
from remoe_sim.trace import MOST_EXPERTS


class DecisionRows:
    """Experts and weights of decisions in the order of the file, with the line of each."""

    def __init__(self) -> None:
        self.lines = array("q")
        self._lengths, self._expert, self._weight = array("q"), array("q"), array("f")

    def __len__(self) -> int:
        return len(self.lines)

    def line(self, row: int) -> int:
        """The line of a decision."""
        return self.lines[row]

    def add(self, line: int, experts: Sequence[int], weights: Sequence[float] | None = None) -> None:
        """Append a decision; without weights they are unknown."""
        self.lines.append(line)
        self._lengths.append(len(experts))
        self._expert.extend(experts)
        self._weight.extend([float("nan")] * len(experts) if weights is None else weights)

    def add_entry(self, entry: Entry, experts: str, weights: str) -> None:
        """Append the lists in two fields of an object; the one of weights may be missing."""
        ids = entry.list_of(experts, int, "expert ids")
        if not ids or min(ids) < 0 or max(ids) >= MOST_EXPERTS:
            raise entry.error(f"{shown(ids)} is not a list of expert ids; correct it", experts)
        gates = entry.fields.get(weights)
        if gates is not None and (
            not isinstance(gates, list)
            or len(gates) != len(ids)
            or not all(type(one) in (int, float) and 0 <= one < 1e38 for one in gates)
        ):
            what = f"a list of {len(ids)} numbers that can be gate weights, 0 or more"
            raise entry.error(f"{shown(gates)} is not {what}; correct it", weights)
        self.add(entry.line or 1, ids, gates)

    def slots(self) -> Slots:
        """One entry per expert."""
        lengths = np.array(self._lengths, np.int64)
        record = np.repeat(np.arange(lengths.size), lengths)
        return Slots(record, self.experts(), None, np.array(self._weight, np.float32))

    def experts(self) -> npt.NDArray[np.int64]:
        """All experts in one dimension."""
        return np.array(self._expert, np.int64)
