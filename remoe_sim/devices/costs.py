"""What a step costs on a device: the seconds of every part and the bytes of every read, from a model and a device.

Decode reads weights once per step, so parts are bytes over effective bandwidth plus fixed times, plus arithmetic in
proportion to the step's tokens (docs/cost-model.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from remoe_sim.devices.hybrid import Hybrid
from remoe_sim.devices.terms import Terms, terms_of

if TYPE_CHECKING:
    from remoe_sim.devices.device import Device
    from remoe_sim.devices.link import Link
    from remoe_sim.models.sizes import SizedModel
    from remoe_sim.util.arrays import Flags, Int32s, Longs, Reals

CONTENTION, ON_CPU, HANDOVER, SYNC = 2, 3, 5, 6  # columns of expert_costs
PLACES = ("host", "storage", "cpu")


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes as the timeline takes them (`kernels.timeline`), all at context 0.

    misses_from: where missing experts are read from: `host` memory, `storage`, or not at all but computed by the
    `cpu`
    cpu_share: of those that host memory has which the CPU computes, or `auto`
    missing_layers: bool[MoE layers], False for those whose experts are all resident
    cpu_reads: float64[MoE layers], the part of an expert on the CPU that is reading it from storage, since host memory
    holds too few
    notes: sentences about what is not known, that any output has to print
    """

    moe_of: Int32s
    layer_costs: Reals
    head_costs: Reals
    expert_costs: Reals
    far_sizes: Reals
    near_sizes: Reals
    link: Reals
    lanes: Longs
    at_once: float
    misses_from: str
    cpu_share: float | str
    missing_layers: Flags
    cpu_reads: Reals
    kv_windows: tuple[int | None, ...]
    notes: tuple[str, ...]

    def scaled(self, factor: float) -> Costs:
        """The same with all computing times multiplied."""
        return replace(
            self,
            layer_costs=self.layer_costs * factor,
            head_costs=self.head_costs * factor,
            expert_costs=self._experts_times(factor),
        )

    def _experts_times(self, factor: float) -> Reals:
        """All but what is read and waited for."""
        experts: Reals = self.expert_costs * factor
        experts[:, SYNC] = self.expert_costs[:, SYNC]
        experts[:, ON_CPU] += self.cpu_reads * (1 - factor)
        return experts

    def with_reads_times(self, factor: float) -> Costs:
        """The same with all reads of experts so many times as large."""
        experts = self.expert_costs.copy()
        experts[:, CONTENTION] *= factor
        return replace(
            self, expert_costs=experts, far_sizes=self.far_sizes * factor, near_sizes=self.near_sizes * factor
        )

    def read_bytes(self, far: Reals, near: Reals) -> float:
        """Bytes that links carry for misses: far, near [steps, MoE layers], those from storage and from host memory.
        Direct reads cover whole blocks."""
        each = self.far_sizes.sum(axis=1) if self.lanes[0] else self.near_sizes.sum(axis=1)
        return float((far * each).sum() + (near * self.near_sizes.sum(axis=1)).sum())


def costs_of(
    model: SizedModel, device: Device, lanes: int | None = None, misses_from: str | None = None,
    top_k: int | None = None, hybrid: Hybrid | None = None,
) -> Costs:  # fmt: skip
    """The costs of a model on a device.

    lanes: reads in flight on the link that misses come over, if not the device's own number; misses_from: see `Costs`,
    by default host memory where the device has a memory and a link of its own, else storage; top_k: experts per token
    of the trace; hybrid: what the CPU computes. Raises ValueError if the device lacks the link.
    """
    hybrid = hybrid or Hybrid()
    place, share = _place(device, misses_from, hybrid)
    terms = terms_of(device, model.quant)
    rate = terms.bytes_per_s
    per_flop = 0.0 if device.flops_per_s is None else 1 / (device.flops_per_s * terms.flops_share)
    layers = np.zeros((model.layers, 4))
    kv = np.array([value or 0.0 for value in model.kv_bytes_per_token])
    state = np.array(model.state_bytes, np.float64)
    layers[:, 0] = np.array(model.dense_bytes) / rate + state / (device.state_bytes_per_s or rate / 2)
    layers[:, 1] = kv / (rate * terms.kv_share)
    layers[:, 2] = np.array(model.dense_flops) * per_flop
    layers[:, 3] = terms.layer_s + terms.state_layer_s * (state > 0)
    sizes = np.array(model.expert_bytes, np.float64)
    experts = np.zeros((sizes.size, 7))
    experts[:, 0] = sizes / rate
    experts[:, 1] = model.expert_flops * (top_k or model.top_k) * per_flop
    experts[:, CONTENTION] = 0.0 if device.contention_bytes_per_s is None else sizes / device.contention_bytes_per_s
    experts[:, 4] = terms.expert_s
    experts[:, HANDOVER] = terms.handover_s
    experts[:, SYNC] = terms.fetch_sync_s
    moe_of = np.full(model.layers, -1, np.int32)
    moe_of[list(model.moe_layers)] = np.arange(sizes.size)
    tensors, missing_layers = _tensors(model), hybrid.on_cpu(model)
    cpu_reads: Reals = np.zeros(sizes.size)
    remark: tuple[str, ...] = ()
    if share != 0:
        cpu_reads, remark = _beyond_host(model, device, tensors, missing_layers)
    experts[:, ON_CPU] = sizes / (terms.cpu_bytes_per_s or np.inf) + cpu_reads
    storage, host = (device.storage if place == "storage" else None), (None if place == "cpu" else device.host)
    return Costs(
        moe_of=moe_of,
        layer_costs=layers,
        head_costs=np.array([model.head_bytes / rate, model.head_flops * per_flop, terms.step_s]),
        expert_costs=experts,
        far_sizes=_in_blocks(tensors, storage),
        near_sizes=_in_blocks(tensors, host),
        link=np.array([_row(storage, terms), _row(host, terms)]),
        lanes=np.array([_lanes(storage, lanes), _lanes(host, None if storage else lanes)], np.int64),
        at_once=device.overlap_efficiency,
        misses_from=place,
        cpu_share=share,
        missing_layers=missing_layers,
        cpu_reads=cpu_reads,
        kv_windows=model.kv_window_tokens,
        notes=(*device.unverified, *model.unverified, *model.unknown, *remark),
    )


def place_of_misses(device: Device, given: str | None) -> str:
    """Where misses come from; ValueError where the device has no such way."""
    has = {
        "host": device.host is not None,
        "storage": device.storage is not None,
        "cpu": device.host_bandwidth_bytes_per_s is not None,
    }
    if given is None:
        given = next((place for place in ("host", "storage") if has[place]), "host")
    if given not in PLACES:
        raise ValueError(f"misses from '{given}' are not possible; give {', '.join(PLACES)}")
    if not has[given]:
        ways = ", ".join(place for place in PLACES if has[place])
        lacks = {"host": "link from host memory", "storage": "storage", "cpu": "host bandwidth"}[given]
        raise ValueError(
            f"device '{device.name}' has no {lacks} in its card; "
            + (f"let misses come from {ways}" if ways else "add [storage] or [host] to it, or measure one")
        )
    return given


def _place(device: Device, given: str | None, hybrid: Hybrid) -> tuple[str, float | str]:
    """Where misses come from, and the share of them that the CPU computes."""
    share = hybrid.cpu_share
    if share is None:
        place = place_of_misses(device, given or ("cpu" if hybrid.placed else None))
        return place, 1.0 if place == "cpu" else 0.0
    if share != 0:
        place_of_misses(device, "cpu")
    if share == 1 and device.host is None:
        return "cpu", 1.0
    place = place_of_misses(device, None if given == "cpu" else given)
    if share != 0 and device.host is None:
        raise ValueError(
            f"device '{device.name}' has no link from host memory over which the rest could be uploaded; give a CPU "
            "share of 0 or 1"
        )
    return place, share


def _beyond_host(model: SizedModel, device: Device, tensors: Reals, layers: Flags) -> tuple[Reals, tuple[str, ...]]:
    """Seconds that reading an expert from storage adds on average to computing it on the CPU, float64[MoE layers], as
    host memory holds an even share of them, and a sentence that says so."""
    host = device.host_card
    held = float((np.array(model.expert_bytes, np.float64) * model.experts)[layers].sum())
    memory = None if host is None else host.usable_bytes or host.memory_bytes
    room = np.inf if host is None or memory is None else memory - (host.system_bytes or 0)
    if held <= room or host is None:
        return np.zeros(len(tensors)), ()
    beyond, storage = 1 - max(room, 0) / held, device.storage
    says = f"host {host.name} holds {100 * (1 - beyond):.0f} % of the experts that its CPU computes"
    if storage is None:
        return np.zeros(len(tensors)), (f"{says}; no storage is known, so reading the others is not counted",)
    seconds = np.array([sum(storage.read_seconds(float(size)) for size in row) for row in tensors])
    return beyond * seconds, (f"{says}; the others are read from storage, evenly",)


def _tensors(model: SizedModel) -> Reals:
    """[MoE layers, tensors]: bytes of each read of an expert, which add up to its size."""
    tensors = np.array(model.expert_tensor_bytes, np.float64)
    tensors *= (np.array(model.expert_bytes) / tensors.sum(axis=1))[:, None]
    return tensors


def _in_blocks(tensors: Reals, link: Link | None) -> Reals:
    """What direct reads of tensors that start anywhere transfer: a block more than the size where that is a whole
    number of blocks, and as much on average where it is not."""
    return tensors + link.block_bytes if link is not None and link.block_bytes > 1 else tensors


def _row(link: Link | None, terms: Terms) -> tuple[float, float, float, float]:
    if link is None:
        return (0.0, 0.0, 0.0, 0.0)
    lane, share = link.lane_bandwidth_bytes_per_s, terms.fetch_share
    per_byte = 1 / (link.bandwidth_bytes_per_s * share)
    return link.latency_s, link.overhead_s, per_byte, 0.0 if lane is None else 1 / (lane * share)


def _lanes(link: Link | None, given: int | None) -> int:
    return 0 if link is None else given or link.lanes
