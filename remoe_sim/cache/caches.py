"""Pinned experts: always resident, so their lookups always hit, and what they take is missing for the others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from remoe_sim.policy import Outcome
from remoe_sim.streams import Longs, Stream
from remoe_sim.trace import Trace
from remoe_sim.units import parse_count, plural

Entries = npt.NDArray[np.int32]
NONE = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Pins:
    """experts: the pinned experts of each MoE layer, ascending; empty when nothing is pinned."""

    experts: tuple[Entries, ...] = ()
    bases: Longs | None = None

    @classmethod
    def of(cls, trace: Trace, pin: str | Mapping[int, Sequence[int]] | None) -> Pins:
        """From `3:17,3:20` (layer:expert, the model's own layer numbers) or {3: [17, 20]}.

        Raises ValueError for a layer or an expert that the trace does not have.
        """
        if not pin:
            return cls()
        if isinstance(pin, str):
            if not re.fullmatch(r"(\d+:\d+)(,\d+:\d+)*", pin):
                raise ValueError(f"pin '{pin}' is not possible; give LAYER:EXPERT,… such as 3:17,3:20")
            pairs = [tuple(parse_count(number, "pin") for number in one.split(":")) for one in pin.split(",")]
        else:
            pairs = [(layer, expert) for layer, experts in pin.items() for expert in experts]
        chosen: list[set[int]] = [set() for _ in trace.layer_numbers]
        for layer, expert in pairs:
            if layer not in trace.layer_numbers:
                first, last = trace.layer_numbers[0], trace.layer_numbers[-1]
                raise ValueError(
                    f"pin {layer}:{expert}: no MoE layer {layer}; there are MoE layers from {first} to {last}"
                )
            index = trace.layer_numbers.index(layer)
            if not 0 <= expert < trace.model.experts[index]:
                most = trace.model.experts[index] - 1
                raise ValueError(f"pin {layer}:{expert}: no expert {expert}; layer {layer} has experts 0 to {most}")
            chosen[index].add(expert)
        bases = np.append(0, np.cumsum(trace.model.experts))
        return cls(tuple(np.array(sorted(experts), np.int32) for experts in chosen), bases)

    def of_layer(self, index: int) -> Entries:
        """Pinned experts of MoE layer `index`."""
        return self.experts[index] if self.experts else NONE

    @property
    def everywhere(self) -> Entries:
        """Pinned entries of all layers."""
        if self.bases is None:
            return NONE
        shifted = [experts + base for experts, base in zip(self.experts, self.bases, strict=False)]
        return np.concatenate(shifted).astype(np.int32)


def without(stream: Stream, pinned: Entries) -> tuple[Stream, Longs]:
    """The stream without lookups of pinned entries, and how many of those there were of each kind, int64[3]."""
    is_pinned = np.zeros(stream.n_entries, np.bool_)
    is_pinned[pinned] = True
    here = is_pinned[stream.entries]
    kept = np.append(0, np.cumsum(~here))[stream.offsets]
    there = np.flatnonzero(np.diff(kept))  # groups that still want something
    reduced = replace(
        stream,
        offsets=np.append(kept[there], kept[-1:]),
        entries=stream.entries[~here],
        kinds=stream.kinds[~here],
        steps=stream.steps[there],
        epochs=np.searchsorted(there, stream.epochs).astype(np.int64),
    )
    return reduced, np.bincount(stream.kinds[here], minlength=3)


def room_beside(stream: Stream, pinned: Entries, limit: int) -> int:
    """What the pinned entries leave of a limit; ValueError if they do not fit."""
    taken = int(stream.sizes[pinned].sum())
    if taken > limit:
        takes = plural(taken, "byte" if stream.in_bytes else "expert")
        raise ValueError(f"the pinned experts take {takes} of a cache of {limit}; pin fewer or raise the limit")
    return limit - taken


def with_pinned(stream: Stream, pinned: Entries, outcome: Outcome) -> Outcome:
    """The outcome with the bytes of the pinned entries added to what is held."""
    held = int(stream.weights[pinned].sum())
    return replace(outcome, resting=outcome.resting + held, running=outcome.running + held)


def starting_bytes(stream: Stream, preload: Entries, limit: int) -> int:
    """Bytes that an emptied cache starts with: of what is preloaded, as much as fits."""
    fits = np.cumsum(stream.sizes[preload]) <= limit
    return int(stream.weights[preload[fits]].sum())


def most_held(full: Stream, stream: Stream, pinned: Entries, outcome: Outcome, start: int) -> int:
    """The most bytes held at once, pinned entries included; 0 where nothing is looked up.

    full: the stream with lookups of pinned entries, among whose groups are those that want nothing else and find what
    the group before left, or at first `start`; outcome: of the stream without them, and without pinned bytes.
    """
    if not full.entries.size:
        return 0
    is_pinned = np.zeros(full.n_entries, np.bool_)
    is_pinned[pinned] = True
    others = np.append(0, np.cumsum(~is_pinned[full.entries]))[full.offsets]
    wants = np.diff(others) > 0
    before = np.cumsum(wants)[~wants]  # groups that want others, before each that does not
    opened = np.repeat(stream.epochs[:-1], np.diff(full.epochs))[
        ~wants
    ]  # the first of them since the cache was emptied
    found = np.append(0, outcome.resting)[before]
    idle = int(np.where(before > opened, found, start).max(initial=0))
    return max(idle, int(outcome.running.max(initial=0))) + int(full.weights[pinned].sum())
