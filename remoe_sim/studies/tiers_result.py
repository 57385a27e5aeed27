"""What a replay through tiers returns: lookups and hits per tier, bytes per link, as objects, JSON and tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remoe_sim.util.display import Shown, flat, stamp
from remoe_sim.util.units import rate

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.devices.fits import Fit
    from remoe_sim.devices.run import Timed

SCHEMA = "remoe-sim.tiers.v1"


@dataclass(frozen=True)
class TierCounts:
    """Lookups of one phase, or of all. What misses the device is looked up in the host, what misses there is read from
    storage. Bytes are None when sizes are unknown; `device_to_host_bytes` are victims that the host takes back."""

    tokens: int
    device_lookups: int
    device_hits: int
    host_hits: int
    storage_to_host_bytes: int | None
    host_to_device_bytes: int | None
    device_to_host_bytes: int | None

    @property
    def host_lookups(self) -> int:
        return self.device_lookups - self.device_hits

    @property
    def storage_reads(self) -> int:
        return self.host_lookups - self.host_hits

    @property
    def device_hit_rate(self) -> float | None:
        return rate(self.device_hits, self.device_lookups)

    @property
    def host_hit_rate(self) -> float | None:
        """Of the lookups that reach the host."""
        return rate(self.host_hits, self.host_lookups)

    def to_dict(self) -> dict[str, Any]:
        names = (
            "tokens", "device_lookups", "device_hits", "device_hit_rate", "host_lookups", "host_hits", "host_hit_rate",
            "storage_reads", "storage_to_host_bytes", "host_to_device_bytes", "device_to_host_bytes",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def __add__(self, other: TierCounts) -> TierCounts:
        def both(name: str) -> Any:
            mine, theirs = getattr(self, name), getattr(other, name)
            return None if mine is None or theirs is None else mine + theirs

        return TierCounts(**{name: both(name) for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Tier:
    """A tier: its policy, scope and limit, and how many entries it lost to others (warm-up included)."""

    policy: str
    scope: str
    capacity: dict[str, int]
    evictions: int

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class TierResult:
    """One pair of policies under one relation."""

    relation: str
    settings: dict[str, Any]
    device: Tier
    host: Tier
    prefill: TierCounts
    decode: TierCounts
    timed: Timed | None = None

    @property
    def counts(self) -> TierCounts:
        """Both phases together."""
        return self.prefill + self.decode

    @property
    def fit(self) -> Fit | None:
        """Whether both caches and the model fit device and host; None without a device."""
        if self.timed is None:
            return None
        from remoe_sim.devices.fits import cache_bytes, fit_of_tiers

        above, below = (cache_bytes(self.timed.model, one.capacity) for one in (self.device, self.host))
        return fit_of_tiers(self.timed.run.device, self.timed.beside, above, below)

    def to_dict(self) -> dict[str, Any]:
        fit = self.fit
        return {
            "relation": self.relation,
            **self.settings,
            "device": self.device.to_dict(),
            "host": self.host.to_dict(),
            **self.counts.to_dict(),
            "prefill": self.prefill.to_dict(),
            "decode": self.decode.to_dict(),
            "times": None if self.timed is None else {**self.timed.to_dict(), **self.timed.times.to_dict()},
            **({} if fit is None else fit.to_dict()),
        }


@dataclass(frozen=True, repr=False)
class TierReport(Shown):
    """The results of one call: relations, in each device policies, with each host policies, as they were given."""

    trace: dict[str, Any]
    results: tuple[TierResult, ...]

    def __iter__(self) -> Iterator[TierResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, number: int) -> TierResult:
        return self.results[number]

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim tiers --json` prints."""
        return {**stamp(SCHEMA), "trace": self.trace, "results": [result.to_dict() for result in self.results]}

    def to_frame(self) -> pd.DataFrame:
        """One row per result; nested values become columns such as `decode_host_hits` and `device_policy`."""
        import pandas as pd

        return pd.DataFrame([flat(result.to_dict()) for result in self.results])
