"""The rows of a sweep from what its units yield, whichever comes first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remoe_sim.results import rate
from remoe_sim.streams import Longs
from remoe_sim.sweep_rows import Limits, Row, by_limit, row_of
from remoe_sim.sweep_units import CountUnit, ReuseUnit, TimeUnit, Unit


@dataclass
class _Reuse:
    """What is known of a trace so far. layers: how many; waiting: rows that are whole but for it."""

    layers: int = 0
    shared: int = 0
    wanted: int = 0
    waiting: list[Row] = field(default_factory=list)


@dataclass
class _Sums:
    """Tables of a pass, layer by layer, until all layers of a limit are there."""

    tables: dict[Limits, Longs] = field(default_factory=dict)
    layers: dict[Limits, int] = field(default_factory=dict)


def rows_of(found: Iterable[tuple[Unit, Any]]) -> Iterator[Row]:
    """Rows from what units yield, in any order, each row as soon as all of it is there."""
    reuse: dict[int, _Reuse] = {}
    sums: dict[int, _Sums] = {}
    for unit, result in found:
        known = reuse.setdefault(id(unit.subject), _Reuse())
        if isinstance(unit, ReuseUnit):
            known.layers += len(unit.layers)
            known.shared, known.wanted = known.shared + result[0], known.wanted + result[1]
        elif isinstance(unit, TimeUnit):
            known.waiting.append(result)
        else:
            limits, tables = result
            known.waiting += _whole(unit, limits, tables, sums.setdefault(id(unit.one), _Sums()))
        if known.layers == len(unit.subject.slots):
            ready, known.waiting = known.waiting, []
            yield from (row | {"reuse_rate": rate(known.shared, known.wanted)} for row in ready)


def _whole(unit: CountUnit, limits: Sequence[Limits], tables: Longs, sums: _Sums) -> Iterator[Row]:
    """The rows of those limits of which this unit was the last."""
    layers, groups = len(unit.subject.slots), by_limit(unit.one.cells)
    for limit, table in zip(limits, tables, strict=True):
        whole = sums.tables.setdefault(limit, np.zeros((layers, 3, 3), np.int64))
        whole[unit.layers.start : unit.layers.stop] = table
        sums.layers[limit] = sums.layers.get(limit, 0) + len(unit.layers)
        if sums.layers[limit] == layers:
            del sums.tables[limit]
            yield from (row_of(unit.one, cell, whole) for cell in groups[limit])
