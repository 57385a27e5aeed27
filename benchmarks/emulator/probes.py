"""What the parts of the engine take, each measured apart: dense parts, reads of some experts, products of experts."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmarks.emulator.engine import Engine
from benchmarks.emulator.files import Slot

KEPT = 0.6  # of repeated times: the middle ones, as other programs disturb some


@dataclass
class Parts:
    """Seconds of every measured part: dense part of a layer, products of `top_k` experts, head, and reads by number of
    experts."""

    dense: list[float] = field(default_factory=list)
    experts: list[float] = field(default_factory=list)
    head: list[float] = field(default_factory=list)
    reads: dict[int, list[float]] = field(default_factory=dict)

    def resident_s(self, layers: int) -> float:
        """Of a token that misses nothing."""
        return float(layers * (typical(self.dense) + typical(self.experts)) + typical(self.head))

    def link(self, reads_per_expert: int, lanes: int) -> tuple[float, float]:
        """Latency and seconds per read: a straight line through the times of 1 to top_k experts; with one lane every
        read has the latency, which cannot be told from the rest and counts as 0."""
        experts = sorted(self.reads)
        counts = np.array(experts, float) * reads_per_expert
        times = np.array([typical(self.reads[number]) for number in experts])
        slope, latency = np.polyfit(counts, times, 1) if len(experts) > 1 and lanes > 1 else (0.0, -1.0)
        if latency < 0 or slope <= 0:
            latency, slope = 0.0, float((times * counts).sum() / (counts**2).sum())
        return float(latency), float(slope)


def typical(seconds: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The mean of the middle times along the first axis."""
    ordered = np.sort(np.asarray(seconds, np.float64), axis=0)
    left_out = int(len(ordered) * (1 - KEPT) / 2)
    mean: npt.NDArray[np.float64] = ordered[left_out : len(ordered) - left_out].mean(axis=0)
    return mean


def probe(engine: Engine, slots: list[Slot], experts: int, top_k: int, parts: Parts) -> None:
    """One token's worth of parts, in turn as in a token, but with nothing to hit or to overlap: a dense part, then
    random experts are read, one at a layer, two at the next, up to top_k, then top_k experts are multiplied."""
    places, x, now = random.Random(len(parts.head)), np.ones(engine.hidden, np.float32), time.perf_counter
    layers = len(engine.dense)
    for layer in range(layers):
        number = len(parts.dense)
        wanted = 1 + number % top_k
        some = [slots[(number * top_k + place) % len(slots)] for place in range(top_k)]
        began = now()
        engine.dense_part(layer, x)
        dense = now()
        for slot in some[:wanted]:
            engine.readers.ask(layer, places.randrange(experts), slot)
        for slot in some[:wanted]:
            engine.readers.wait(slot)
        there = now()
        for slot in some:
            engine.expert(slot.matrices, x)
        done = now()
        parts.dense.append(dense - began)
        parts.reads.setdefault(wanted, []).append(there - dense)
        parts.experts.append(done - there)
    began = now()
    engine.head_part(x)
    parts.head.append(now() - began)


def fixed_times(engine: Engine, layers: int, top_k: int, tokens: int) -> Mapping[str, float]:
    """Seconds per step, layer and expert of an engine whose matrices have next to no size, on tokens that miss nothing:
    with experts and without."""

    def pieces(experts: int) -> tuple[float, float]:
        same = np.tile(np.arange(experts, dtype=np.uint16), (tokens + 1, layers, 1))
        seconds = np.median(engine.run(same, experts, "lru", "none").seconds[1:], axis=0)
        return float(seconds[:-1].mean()), float(seconds[-1])

    bare, step = pieces(0)
    return {"step_s": step, "layer_s": bare, "expert_s": max(pieces(top_k)[0] - bare, 0.0) / top_k}
