"""Whether what a run keeps in memory fits the device and the host next to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remoe_sim.util.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from remoe_sim.devices.device import Device
    from remoe_sim.devices.host import Host
    from remoe_sim.models.sizes import SizedModel


@dataclass(frozen=True)
class Fit:
    """fits: None where that is not known; missing_bytes: of the device and the host together, None likewise;
    room_bytes: what the device leaves for experts; note: one sentence if it does not fit."""

    fits: bool | None
    missing_bytes: int | None
    room_bytes: int
    note: str | None

    def to_dict(self) -> dict[str, Any]:
        """The entries `fits`, `missing_bytes` and `room_bytes`."""
        return {"fits": self.fits, "missing_bytes": self.missing_bytes, "room_bytes": self.room_bytes}


def room(machine: Device | Host, assumed: int = 0) -> int | None:
    """Return the bytes for a model: what the driver or the system reports, less what the system keeps.

    assumed: what that is where no card says it.
    """
    whole = machine.usable_bytes or machine.memory_bytes
    kept = assumed if machine.system_bytes is None else machine.system_bytes
    return None if whole is None else max(int(whole) - int(kept), 0)


def kv_cache_bytes(model: SizedModel, kv_tokens: int, requests: int) -> int:
    """Return the bytes of the KV cache and of the state of linear attention in one step.

    kv_tokens: cached in all of its requests; a sliding window bounds the tokens of each.
    """
    cached = 0.0
    for per_token, window in zip(model.kv_bytes_per_token, model.kv_window_tokens, strict=True):
        cached += (per_token or 0.0) * (kv_tokens if window is None else min(kv_tokens, window * requests))
    return round(cached) + sum(model.state_bytes) * requests


def beside_experts(model: SizedModel, kv_tokens: int, requests: int) -> int:
    """Return the bytes of all that the device keeps next to experts: dense weights, head, embedding and KV cache."""
    embedding = 0 if model.tied_embeddings else model.embedding_bytes
    return sum(model.resident_bytes) + model.head_bytes + embedding + kv_cache_bytes(model, kv_tokens, requests)


def cache_bytes(model: SizedModel, capacity: Mapping[str, int]) -> int | None:
    """Return the bytes of a cache, its limit given as results state it; None for some experts of unequal sizes."""
    unit, limit = next(iter(capacity.items()))
    whole = sum(model.expert_bytes) * model.experts
    if unit == "bytes":
        return min(limit, whole)
    if unit == "experts_per_layer":
        return sum(model.expert_bytes) * min(limit, model.experts)
    if limit >= len(model.expert_bytes) * model.experts:
        return whole
    return limit * model.expert_bytes[0] if len(set(model.expert_bytes)) == 1 else None


def fit_of(
    device: Device, model: SizedModel, beside: int, cache: int | None, misses_from: str, there: int | None = None
) -> Fit:
    """Hold what must be in memory against what there is.

    beside: what the device keeps next to experts; cache: bytes of its experts, None for a number that is not known:
    then what does not fit without them is told, and nothing else. The host keeps all experts where misses come from
    it or are computed there; in one memory for both, they are the cache. there: memory in place of the device's own.
    """
    elsewhere = misses_from in ("host", "cpu")
    if device.unified:
        return fit_of_tiers(device, beside, model.routed_bytes if elsewhere else cache, 0, there)
    return fit_of_tiers(device, beside, cache, model.routed_bytes if elsewhere else 0, there)


def fit_of_tiers(device: Device, beside: int, cache: int | None, in_host: int | None, there: int | None = None) -> Fit:
    """Return the same where the host keeps `in_host` bytes of experts, None for a number that is not known."""
    own = room(device) or 0 if there is None else there
    needs = [(f"device {device.name}", beside + (cache or 0), own)]
    known = cache is not None
    if in_host != 0:
        host = device.host_card
        beneath = None if host is None else room(host)
        if host is None or beneath is None or in_host is None:
            known = False
        else:
            needs.append((f"host {host.name}", in_host, beneath))
    short = [(name, need, most) for name, need, most in needs if need > most]
    left = max(own - beside, 0)
    if short:
        said = "; ".join(
            f"{name} has {format_bytes(most)} and needs {format_bytes(need)}, {format_bytes(need - most)} more"
            for name, need, most in short
        )
        return Fit(False, sum(need - most for _, need, most in short), left, f"it does not fit: {said}")
    return Fit(True, 0, left, None) if known else Fit(None, None, left, None)
