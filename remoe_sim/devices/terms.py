"""What an engine on a device reaches: the rates and fixed times of one model's steps, from the cards of both.

A number of the engine's card is taken before the device's; what neither says costs nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remoe_sim.devices.device import Device
    from remoe_sim.devices.engine import Engine
    from remoe_sim.devices.host import Host

FAMILIES = ("mxfp4", "16bit", "q8", "q4")
STANDS_IN = "q4"  # of a host's rates, for families that it does not have
CPU_SHARE = 0.8  # of its bandwidth that a CPU reaches in quantised expert kernels: 0.68 to 0.94 where both are known


@dataclass(frozen=True)
class Terms:
    """Rates and fixed times.

    bytes_per_s: weights that decode reads; kv_share: of it that reading the context reaches; state_layer_s: more for a
    layer with a recurrent state; layer_s, expert_s, step_s: fixed times; traffic: bytes moved per byte of
    weights; cpu_bytes_per_s: experts that the CPU computes, None if it cannot; handover_s: one hand-over between device
    and CPU; fetch_share: of its link that a demand fetch reaches; fetch_sync_s: before the fetches of a layer."""

    bytes_per_s: float
    flops_share: float
    kv_share: float
    layer_s: float
    state_layer_s: float
    expert_s: float
    step_s: float
    cpu_bytes_per_s: float | None
    handover_s: float
    fetch_share: float
    fetch_sync_s: float


def family_of(quant: str) -> str:
    """The family of a quantisation: `mxfp4`, `16bit`, `q8` or `q4`."""
    name = quant.lower()
    if "mxfp4" in name or "nvfp4" in name:
        return "mxfp4"
    if re.search(r"bf16|fp16|f16", name):
        return "16bit"
    return "q8" if re.search(r"q8|int8|fp8|8bit", name) else "q4"


def terms_of(device: Device, quant: str) -> Terms:
    """What decode in a quantisation reaches on a device, with the engine that it was put together with."""
    engine = device.engine
    family = family_of(quant)
    share = device.efficiency if engine is None else _share(engine, device, family)
    traffic = 1.0 if engine is None else engine.weight_traffic.get(quant.lower(), 1.0)

    def first(name: str, otherwise: float) -> float:
        value: float | None = None if engine is None else getattr(engine, name)
        return otherwise if value is None else float(value)

    host = device.host_card
    return Terms(
        bytes_per_s=device.bandwidth_bytes_per_s * share / traffic,
        flops_share=share,
        kv_share=first("kv_share", 1.0),
        layer_s=first("layer_s", device.layer_s),
        state_layer_s=first("state_layer_s", 0.0),
        expert_s=first("expert_s", device.expert_s),
        step_s=first("step_s", device.step_s),
        cpu_bytes_per_s=_cpu_rate(device, host, family, first("cpu_share_of_matvec", 1.0)),
        handover_s=first("handover_s", 0.0 if host is None else host.handover_s or 0.0),
        fetch_share=first("fetch_share", 1.0),
        fetch_sync_s=first("fetch_sync_s", 0.0),
    )


def _share(engine: Engine, device: Device, family: str) -> float:
    """Of the peak bandwidth: the nearest that the engine's card says, else the device's efficiency."""
    share: float | None = engine.share_of(device.kind, family)
    return device.efficiency if share is None else share


def _cpu_rate(device: Device, host: Host | None, family: str, share: float) -> float | None:
    """What the CPU reaches in expert kernels; without a host's card, all that the device's card says it reads."""
    measured = None if host is None else host.matvec_bytes_per_s
    if measured:
        return float(measured.get(family) or measured.get(STANDS_IN) or max(measured.values())) * share
    read = device.host_bandwidth_bytes_per_s
    return read if read is None or host is None else read * CPU_SHARE * share
