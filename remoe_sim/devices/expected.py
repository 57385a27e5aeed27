"""What a memory leaves for a cache of experts, and the hit rate that is expected of it without a trace."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from remoe_sim.devices.device import Device
from remoe_sim.devices.fits import kv_cache_bytes, room
from remoe_sim.models.hit_rates import hit_rate_curve
from remoe_sim.util.units import format_bytes

if TYPE_CHECKING:
    from remoe_sim.devices.host import Host
    from remoe_sim.models.hit_rates import HitRate
    from remoe_sim.models.sizes import SizedModel

WORKSPACE = 2**29  # assumed: buffers of an engine for what it computes
SYSTEM = 2**31  # assumed: what the system keeps of a memory that it shares with the device, where no card says it
LIMITED = "metal"  # kind of device whose usable memory is already what its system lets a model have


@dataclass(frozen=True)
class Kept:
    """Bytes that a device keeps next to routed experts.

    weights: dense layers, norms, routers, shared experts; embedding: 0 where it is the head; kv_cache: with the state
    of linear attention; workspace: assumed.
    """

    weights: int
    head: int
    embedding: int
    kv_cache: int
    workspace: int = WORKSPACE

    @classmethod
    def of(cls, model: SizedModel, context: int, batch: int = 1) -> Kept:
        """What so many requests with that many tokens each need."""
        embedding = 0 if model.tied_embeddings else model.embedding_bytes
        kv_cache = batch * kv_cache_bytes(model, context, 1)
        return cls(sum(model.resident_bytes), model.head_bytes, embedding, kv_cache)

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.head + self.embedding + self.kv_cache + self.workspace

    def to_dict(self) -> dict[str, int]:
        """The parts by name, with `_bytes`."""
        return {f"{name}_bytes": size for name, size in asdict(self).items()}


@dataclass(frozen=True)
class Expected:
    """A hit rate from a curve. share: of the bytes of all routed experts that the cache has."""

    share: float
    hits: HitRate

    def to_dict(self) -> dict[str, float | str]:
        """What `hit_rate_band` is in JSON."""
        return {"low": self.hits.low, "high": self.hits.high, "source": self.hits.source}


def memory_of(machine: Device | Host) -> int | None:
    """Bytes of a device or host for a model, where a system of unknown needs shares the memory with the device."""
    shared = isinstance(machine, Device) and machine.unified and machine.kind != LIMITED
    return room(machine, assumed=SYSTEM if shared else 0)


def expected_of_share(model: SizedModel, share: float) -> Expected:
    """The hit rate where a cache has that share of the bytes of all experts."""
    share = min(max(share, 0.0), 1.0)
    return Expected(share, hit_rate_curve(model).at(share))


def expected_of_slots(model: SizedModel, slots: int) -> Expected:
    """The hit rate where every layer has a cache of so many experts."""
    if slots > model.experts:
        raise ValueError(f"a cache of {slots} experts per layer is not possible; {model.name} has {model.experts} in a "
                         f"layer, so give 0 to {model.experts}")  # fmt: skip
    return expected_of_share(model, slots / model.experts)


def expected_in_memory(model: SizedModel, memory: int, context: int, batch: int = 1) -> Expected:
    """The hit rate where the cache has what a memory leaves. Raises ValueError where it leaves nothing."""
    kept = Kept.of(model, context, batch)
    if memory < kept.total:
        raise ValueError(
            f"a memory of {format_bytes(memory)} is too small for {model.name} in {model.quant}: what is no routed "
            f"expert takes {format_bytes(kept.total)} at a context of {context}; give more, or a smaller context"
        )
    return expected_of_share(model, (memory - kept.total) / model.routed_bytes)
