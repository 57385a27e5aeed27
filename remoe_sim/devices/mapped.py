"""Weights of a mapped file: one page cache for all of them, and what its faults cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.devices.fits import kv_cache_bytes
from remoe_sim.util.errors import unknown
from remoe_sim.util.units import MOST_LANES, decimal, parse_bytes, parse_count

if TYPE_CHECKING:
    from remoe_sim.devices.device import Device
    from remoe_sim.devices.steps import Steps
    from remoe_sim.models.sizes import SizedModel
    from remoe_sim.util.arrays import Longs, Reals

CACHED, RESIDENT, MAPPED = "cached", "resident", "mapped"
RESIDENCIES = (CACHED, RESIDENT, MAPPED)
RULES = ("lru", "two-list")
READ_AHEAD_BYTES = 131072  # default of Linux
SYSTEM_BYTES = 1536 * 2**20  # that a system and the engine keep, where no card says it
GIB = 2**30


@dataclass(frozen=True)
class Pages:
    """rule: which pieces stay, `lru` (one order by recency) or `two-list` (Linux's active and inactive); memory_bytes:
    of the page cache, None for what the device has left; threads: of the engine that fault side by side."""

    rule: str = "lru"
    memory_bytes: int | None = None
    threads: int = 1

    @classmethod
    def of(cls, residency: str, rule: str | None, memory: int | str | None, threads: int | str | None) -> Pages:
        """Check what was given; ValueError for what is not possible, or without mapped weights."""
        if residency != MAPPED and any(one is not None for one in (rule, memory, threads)):
            raise ValueError(
                "page rule, page memory and fault threads are those of a mapped file; give --residency mapped"
            )
        if rule is not None and rule not in RULES:
            raise unknown("page rule", rule, RULES)
        count = 1 if threads is None else parse_count(threads, "fault threads", most=MOST_LANES)
        if count == 0:
            raise ValueError("fault threads 0 are not possible; give a whole number from 1")
        return cls(rule or RULES[0], None if memory is None else parse_bytes(memory), count)


@dataclass(frozen=True)
class Faults:
    """What a page cache of memory_bytes did in each step: pieces int64[steps] that faulted, their bytes float64[steps],
    and the seconds that it took."""

    pages: Pages
    memory_bytes: int
    pieces: Longs
    bytes: Reals
    seconds: Reals
    notes: tuple[str, ...]

    def to_dict(self, decode: Longs) -> dict[str, Any]:
        """Means over decode tokens. decode: int64[steps], how many of them are counted in each step."""
        tokens = int(decode.sum())
        return {
            "rule": self.pages.rule, "threads": self.pages.threads, "memory_bytes": self.memory_bytes,
            "faults_per_token": float((self.pieces * decode).sum()) / tokens if tokens else None,
            "bytes_per_token": float((self.bytes * decode).sum()) / tokens if tokens else None,
        }  # fmt: skip


def check_residency(residency: str | None, device: Device, misses_from: str | None) -> str:
    """The residency, `cached` for None; ValueError for one that is unknown, or not possible on the device."""
    if residency is None:
        return CACHED
    if residency not in RESIDENCIES:
        raise unknown("residency", residency, RESIDENCIES)
    if residency == MAPPED:
        if not device.unified:
            raise ValueError(
                f"device '{device.name}' has a memory of its own, and a mapped file is computed from where the page "
                "cache holds it; name a device with one memory for all, such as laptop or jetson-orin-nx-16gb"
            )
        if misses_from not in (None, "storage"):
            raise ValueError(f"a mapped file is read from storage, not from '{misses_from}'; leave out --misses-from")
    return residency


def page_bytes(pages: Pages, device: Device, model: SizedModel, steps: Steps, cache_bytes: int) -> int:
    """What is left for the page cache: the memory without the system's part, KV cache and states of the largest step,
    and without the cache that one asked for."""
    if pages.memory_bytes is not None:
        return max(0, pages.memory_bytes - cache_bytes)
    return max(0, int(device.memory_bytes) - beside_pages(device, model, steps) - cache_bytes)


def beside_pages(device: Device, model: SizedModel, steps: Steps) -> int:
    """What of the device's memory is not for the page cache of a program without a cache of its own."""
    kv_cache = kv_cache_bytes(model, int(steps.kv_tokens.max(initial=0)), steps.requests)
    host = device.host_card
    system = SYSTEM_BYTES if host is None or host.system_bytes is None else host.system_bytes
    reserved = 0 if device.usable_bytes is None else int(device.memory_bytes - device.usable_bytes)
    return reserved + int(system) + kv_cache


def most_active(pieces: int, memory_bytes: int) -> int:
    """Of so many pieces in memory, how many Linux leaves in the active list: r of 1 + r, r the root of ten times the
    GiB (1 below 1 GiB), as `inactive_is_low` in mm/vmscan.c."""
    ratio = max(1, int((10 * (memory_bytes // GIB)) ** 0.5))
    return pieces * ratio // (1 + ratio)


def page_faults(
    pages: Pages, device: Device, model: SizedModel, memory_bytes: int, n_steps: int, steps: Longs, experts: Longs
) -> Faults:
    """The faults of each of so many steps.

    steps, experts: int64[n], the step and the expert, counted over all layers, of what no cache of the engine holds.
    In a step each layer reads its dense weights, then its experts by number; the head comes last. Before the first step
    all of the file was read once, in that order. A part begins at a piece of its own, and its pieces are equally large,
    a little smaller than the read-ahead where that does not divide its size: memory of the file's size holds it all.
    """
    from remoe_sim.kernels.page_cache import lru_faults, two_list_faults

    ahead, latency, bandwidth = _drive(device)
    sizes, layer_of = _parts(model)
    pieces = -(-sizes // ahead)
    parts = sizes.size
    routed = model.experts * len(model.moe_layers)
    always = np.arange(routed, parts)
    step = np.concatenate([np.full(parts, -1), np.repeat(np.arange(n_steps), always.size), steps])
    part = np.concatenate([np.arange(parts), np.tile(always, n_steps), experts])
    order = np.lexsort((part, part < routed, layer_of[part], step))
    step, part = step[order], part[order]
    faults, room = np.zeros(part.size, np.int64), int(memory_bytes * int(pieces.sum()) // max(int(sizes.sum()), 1))
    if pages.rule == "lru":
        lru_faults(part.astype(np.int32), pieces, room, faults)
    else:
        two_list_faults(part.astype(np.int32), pieces, room, most_active(room, memory_bytes), faults)
    step, part, faults = step[parts:], part[parts:], faults[parts:]
    read = faults * (sizes / np.maximum(pieces, 1))[part]
    begins = np.flatnonzero((np.diff(step, prepend=-1) != 0) | (np.diff(layer_of[part], prepend=-1) != 0))
    each, moved = (np.add.reduceat(one, begins) if begins.size else one[:0] for one in (faults, read))
    at_once = np.clip(each, 1, pages.threads)
    waits = np.maximum((each * latency + moved / bandwidth) / at_once, moved / bandwidth)
    of = step[begins]
    said = _held(memory_bytes, int(sizes.sum()))
    by_step = [np.bincount(of, one, n_steps).astype(np.float64) for one in (each, moved, waits)]
    return Faults(pages, memory_bytes, by_step[0].astype(np.int64), by_step[1], by_step[2], (said,))


@dataclass(frozen=True)
class ExpectedFaults:
    """What a page cache is expected to do per step without a trace: an approximation. share: of the routed experts that
    fit next to the dense weights; hit_rate: of lookups of experts; pieces and bytes that fault, and their seconds."""

    pages: Pages
    memory_bytes: int
    share: float
    hit_rate: float
    pieces: float
    bytes: float
    seconds: float
    notes: tuple[str, ...]

    def to_dict(self, batch: int) -> dict[str, Any]:
        """As `Faults.to_dict`, with the share of the experts that fit."""
        return {
            "rule": self.pages.rule, "threads": self.pages.threads, "memory_bytes": self.memory_bytes,
            "experts_share": self.share, "faults_per_token": self.pieces / batch, "bytes_per_token": self.bytes / batch,
        }  # fmt: skip


def expected_faults(
    pages: Pages, device: Device, model: SizedModel, memory_bytes: int, lookups: float, hits: float | None = None
) -> ExpectedFaults:
    """The faults of a step that looks for so many distinct experts at each MoE layer.

    Dense weights are read in every step: in memory for all that a step reads they stay, and experts hit as the model's
    LRU curve says for the share of them that is left room for (or with the rate `hits`). In less memory, a cache by
    recency has dropped everything before it is read again, and all that a step reads faults.
    """
    from remoe_sim.models.hit_rates import hit_rate_curve

    if pages.rule != "lru":
        raise ValueError(
            f"what page rule '{pages.rule}' keeps takes a trace; use 'remoe-sim replay', or page rule lru, whose hit "
            "rates are known by curves"
        )
    always = sum(model.dense_bytes) + model.head_bytes
    share = min(1.0, max(0.0, (memory_bytes - always) / max(model.routed_bytes, 1)))
    source = "the hit rate is the one given"
    rate = hits
    if rate is None:
        known = hit_rate_curve(model).at(share)
        rate, source = known.rate, f"at the {decimal(100 * share, 0)} % that fit: {known.source}"
    fits = memory_bytes >= always + lookups / model.experts * model.routed_bytes
    rate = rate if fits else 0.0
    ahead, latency, bandwidth = _drive(device)
    sizes, _ = _parts(model)
    whole = -(-sizes // ahead)
    routed = model.experts * len(model.moe_layers)
    read = (1 - rate) * lookups / model.experts
    pieces = read * float(whole[:routed].sum()) + (0.0 if fits else float(whole[routed:].sum()))
    moved = read * float(sizes[:routed].sum()) + (0.0 if fits else float(sizes[routed:].sum()))
    at_once = min(pages.threads, max(1, int(whole[:routed].min(initial=pages.threads))))
    seconds = max((pieces * latency + moved / bandwidth) / at_once, moved / bandwidth)
    rough = f"faults are approximate: dense weights stay, and experts hit as under LRU; {source}"
    if not fits:
        rough = "faults are approximate: memory is less than a step reads, so that by recency all of it faults"
    notes = (_held(memory_bytes, int(sizes.sum())), rough)
    return ExpectedFaults(pages, memory_bytes, share, rate, pieces, moved, seconds, notes)


def _drive(device: Device) -> tuple[int, float, float]:
    """Bytes of read-ahead, seconds of a fault, and bytes per second of what a mapped file is read from."""
    from remoe_sim.devices.machine import assembled

    whole = assembled(device)
    card, link = whole.storage_card, whole.storage
    assert link is not None
    ahead = READ_AHEAD_BYTES if card is None or card.read_ahead_bytes is None else card.read_ahead_bytes
    latency = link.latency_s if card is None or card.fault_latency_s is None else card.fault_latency_s
    return ahead, latency, link.bandwidth_bytes_per_s


def _held(memory_bytes: int, whole_bytes: int) -> str:
    unit, name = (GIB, "GiB") if whole_bytes >= GIB else (2**20, "MiB")
    held, whole = decimal(memory_bytes / unit, 2), decimal(whole_bytes / unit, 2)
    return f"the page cache is taken to hold {held} of {whole} {name} of weights"


def _parts(model: SizedModel) -> tuple[Longs, Longs]:
    """Bytes and layer of each part of the file that tokens read: routed experts, layer by layer, then the dense weights
    of every layer, then the head."""
    sizes = [*np.repeat(model.expert_bytes, model.experts), *model.dense_bytes, model.head_bytes]
    layers = [*np.repeat(model.moe_layers, model.experts), *range(model.layers), model.layers]
    return np.array(sizes, np.int64), np.array(layers, np.int64)
