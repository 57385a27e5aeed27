"""What a replay returns: counts with their denominators, as objects, JSON and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from remoe_sim.trace.schema import known_hash
from remoe_sim.trace.trace import Trace, TraceLike
from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.units import rate

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.devices.fits import Fit
    from remoe_sim.devices.run import Timed

SCHEMA = "remoe-sim.replay.v1"


@dataclass(frozen=True)
class PhaseCounts:
    """Lookups of one phase; `tokens` are those that were counted. bytes_read is None when sizes are unknown."""

    tokens: int
    lookups: int
    hits: int
    bytes_read: int | None

    @property
    def hit_rate(self) -> float | None:
        return rate(self.hits, self.lookups)

    def to_dict(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "lookups": self.lookups,
            "hits": self.hits,
            "hit_rate": self.hit_rate,
            "bytes_read": self.bytes_read,
        }


@dataclass(frozen=True, repr=False)
class ReplayResult(Shown):
    """One policy at one limit. Counts are of lookups (one per distinct expert of a step and layer); bytes are misses
    times their sizes; evictions include those during warm-up; `optimal` says that no policy misses less."""

    policy: str
    scope: str
    admission: str
    order: str
    reset: str
    phase: str
    capacity: dict[str, int]
    prefill: PhaseCounts
    decode: PhaseCounts
    cold_misses: int
    evictions: int
    optimal: bool
    peak_resident_bytes: int | None
    reuse_rate: float | None
    belady_misses: int | None = None
    timed: Timed | None = None

    @property
    def lookups(self) -> int:
        return self.prefill.lookups + self.decode.lookups

    @property
    def hits(self) -> int:
        return self.prefill.hits + self.decode.hits

    @property
    def misses(self) -> int:
        return self.lookups - self.hits

    @property
    def capacity_misses(self) -> int:
        return self.misses - self.cold_misses

    @property
    def hit_rate(self) -> float | None:
        return rate(self.hits, self.lookups)

    @property
    def regret(self) -> int | None:
        """Misses above Belady's at the same limit, scope and admission; None when Belady was not replayed."""
        return None if self.belady_misses is None else self.misses - self.belady_misses

    @property
    def gap_to_belady(self) -> float | None:
        """Belady's hit rate minus this one, as a fraction of the lookups."""
        return None if self.regret is None else rate(self.regret, self.lookups)

    @property
    def bytes_read(self) -> int | None:
        if self.prefill.bytes_read is None or self.decode.bytes_read is None:
            return None
        return self.prefill.bytes_read + self.decode.bytes_read

    @property
    def bytes_read_per_token(self) -> float | None:
        """Decode bytes per decode token."""
        return None if self.decode.bytes_read is None else rate(self.decode.bytes_read, self.decode.tokens)

    @property
    def tpot_ms(self) -> dict[str, float] | None:
        """Time per output token: mean, p50, p95 and p99; None without a device."""
        return None if self.timed is None else self.timed.times.tpot_ms

    @property
    def fit(self) -> Fit | None:
        """Whether the cache and the model fit the device; None without one."""
        return None if self.timed is None else self.timed.fit(self.capacity)

    @property
    def tokens_per_second(self) -> float | None:
        return None if self.timed is None else self.timed.times.tokens_per_second

    def to_dict(self) -> dict[str, Any]:
        names = (
            "policy", "scope", "admission", "order", "reset", "phase", "capacity", "lookups", "hits", "misses",
            "cold_misses", "capacity_misses", "evictions", "hit_rate", "optimal", "gap_to_belady", "regret",
            "bytes_read", "bytes_read_per_token", "peak_resident_bytes",
        )  # fmt: skip
        fit = self.fit
        return {
            **{name: getattr(self, name) for name in names},
            "prefill": self.prefill.to_dict(),
            "decode": self.decode.to_dict(),
            "reuse_rate": self.reuse_rate,
            "tpot_ms": self._tpot_with_band(),
            "tokens_per_second": self.tokens_per_second,
            "ttft_ms": None if self.timed is None else self.timed.times.ttft_ms,
            "parts_ms": None if self.timed is None else self.timed.times.parts_ms,
            "device_run": None if self.timed is None else self.timed.to_dict(),
            **({} if fit is None else fit.to_dict()),
        }

    def _tpot_with_band(self) -> dict[str, Any] | None:
        if self.timed is None or self.tpot_ms is None:
            return None
        band = self.timed.band
        return {**self.tpot_ms, "band": None if band is None else band.to_dict()}

    def row(self) -> dict[str, Any]:
        """`to_dict` without dictionaries inside: their entries have names such as `decode_hit_rate`."""
        row: dict[str, Any] = {}
        for name, value in self.to_dict().items():
            row |= (
                {f"{name}_{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
            )
        band = row.pop("tpot_ms_band", None)
        return row if band is None else {**row, "tpot_ms_low": band["low"], "tpot_ms_high": band["high"]}

    def to_frame(self) -> pd.DataFrame:
        """One row."""
        import pandas as pd

        return pd.DataFrame([self.row()])


@dataclass(frozen=True, repr=False)
class ReplayReport(Shown):
    """The results of one call, in the order of the policies that were asked for; settings: what else was asked for,
    warm-up, preload, training trace and pinned experts; sizes_of: the model and quantisation whose sizes experts have,
    where they were asked for without a device."""

    trace: dict[str, Any]
    results: tuple[ReplayResult, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    sizes_of: str | None = None

    def __getitem__(self, policy: str | int) -> ReplayResult:
        """The result of a policy by its name, or by its place."""
        if isinstance(policy, int):
            return self.results[policy]
        for result in self.results:
            if result.policy == policy:
                return result
        raise KeyError(policy)

    def __iter__(self) -> Iterator[ReplayResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim replay --json` prints."""
        return {
            **stamp(SCHEMA),
            "trace": self.trace,
            **self.settings,
            "results": [one.to_dict() for one in self.results],
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per policy; nested values become columns such as `decode_hit_rate` and `capacity_bytes`."""
        import pandas as pd

        return pd.DataFrame([result.row() for result in self.results])


def in_short(given: TraceLike | None) -> str | None:
    """Another trace as an answer names it: by its path, or its hash if it has none."""
    if isinstance(given, Trace):
        return given.path or known_hash(given)
    return None if given is None else str(given)


def describe(trace: Trace) -> dict[str, object]:
    """The `trace` part of every JSON answer."""
    experts, top_k = trace.model.experts, trace.model.top_k
    return {
        "path": trace.path or None,
        "model": trace.model.name,
        "moe_layers": trace.moe_layers,
        "experts": experts[0] if len(set(experts)) == 1 else list(experts),
        "top_k": top_k[0] if len(set(top_k)) == 1 else list(top_k),
        "tokens": trace.tokens,
        "requests": trace.requests,
        "trace_hash": known_hash(trace),
        "schedule": trace.origin.get("schedule"),
        "reroute": trace.origin.get("reroute"),
        **({"synthetic": True} if trace.origin.get("format") == "synthetic" else {}),
    }
