"""What a replay with prefetching returns: demand, guesses and bytes, as objects, JSON and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remoe_sim.kernels import prefetch as columns
from remoe_sim.util.display import Shown, flat, stamp
from remoe_sim.util.units import rate

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.devices.fits import Fit
    from remoe_sim.devices.run import Timed
    from remoe_sim.util.arrays import Longs

SCHEMA = "remoe-sim.prefetch.v1"


def _bytes_of(counts: Longs, sizes: Sequence[int]) -> int:
    """Experts of each layer times their sizes, in whole numbers of Python: guesses have no bound as lookups have."""
    return sum(count * size for count, size in zip(counts.tolist(), sizes, strict=True))


@dataclass(frozen=True)
class PrefetchCounts:
    """Counts of one phase, of one layer, or of all; bytes are None when sizes are unknown.

    Of the demand: `lookups`, `hits`, of which `hits_by_prefetch` are the first use of a prefetched expert. Of the
    guesses, by what they are for: `named` by the predictor, of which `right` are wanted by the group they are for;
    `resident` were there already, `cap_refused` are beyond the byte cap, `room_refused` find no room beside what is in
    use or guessed, `prefetched` are the rest. Of these `useful` are used before they leave, `wasted` leave or are left
    unused, and `wrong`, which is neither the one nor the other, are not wanted by the group they are for.
    """

    tokens: int
    lookups: int
    hits: int
    hits_by_prefetch: int
    named: int
    right: int
    resident: int
    prefetched: int
    useful: int
    wrong: int
    cap_refused: int
    room_refused: int
    wasted: int
    demand_bytes: int | None
    prefetch_bytes: int | None
    useful_bytes: int | None
    wrong_bytes: int | None
    cap_refused_bytes: int | None
    wasted_bytes: int | None

    @classmethod
    def of(cls, table: Longs, tokens: int, weights: Longs | None) -> PrefetchCounts:
        """From int64[layers, COLUMNS] and the bytes of an expert of each layer, if they are known."""

        def count(column: int) -> int:
            return int(table[:, column].sum())

        def size(column: int, less: int | None = None) -> int | None:
            if weights is None:
                return None
            counts = table[:, column] - (0 if less is None else table[:, less])
            return _bytes_of(counts, weights.tolist())

        return cls(
            tokens, count(columns.LOOKUPS), count(columns.HITS), count(columns.BY_PREFETCH), count(columns.NAMED),
            count(columns.RIGHT), count(columns.THERE), count(columns.LOADED), count(columns.USEFUL),
            count(columns.WRONG), count(columns.CAP_REFUSED), count(columns.ROOM_REFUSED), count(columns.WASTED),
            size(columns.LOOKUPS, columns.HITS), size(columns.LOADED), size(columns.USEFUL), size(columns.WRONG),
            size(columns.CAP_REFUSED), size(columns.WASTED),
        )  # fmt: skip

    @property
    def misses(self) -> int:
        return self.lookups - self.hits

    @property
    def hits_resident(self) -> int:
        """Hits that owe nothing to a prefetch, or no longer."""
        return self.hits - self.hits_by_prefetch

    @property
    def hit_rate(self) -> float | None:
        return rate(self.hits, self.lookups)

    @property
    def recall(self) -> float | None:
        """Of all lookups, also of those that nothing can be guessed for."""
        return rate(self.right, self.lookups)

    @property
    def precision(self) -> float | None:
        return rate(self.right, self.named)

    @property
    def total_bytes(self) -> int | None:
        """Demand and prefetch together."""
        if self.demand_bytes is None or self.prefetch_bytes is None:
            return None
        return self.demand_bytes + self.prefetch_bytes

    def to_dict(self) -> dict[str, Any]:
        names = (
            "tokens", "lookups", "hits", "hits_resident", "hits_by_prefetch", "misses", "hit_rate", "named", "right",
            "recall", "precision", "resident", "prefetched", "useful", "wrong", "cap_refused", "room_refused", "wasted",
            "demand_bytes", "prefetch_bytes", "total_bytes", "useful_bytes", "wrong_bytes", "cap_refused_bytes",
            "wasted_bytes",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class PrefetchResult:
    """One predictor with one policy; `without` is the same replay without prefetching; evictions include warm-up."""

    predictor: str
    policy: str
    settings: dict[str, Any]
    prefill: PrefetchCounts
    decode: PrefetchCounts
    total: PrefetchCounts
    layers: dict[int, PrefetchCounts]
    evictions: int
    evictions_by_prefetch: int
    without: PrefetchResult | None = None
    timed: Timed | None = None

    @property
    def bytes_read_per_token(self) -> float | None:
        """Decode bytes, of demand and prefetch together, per decode token."""
        read = self.decode.total_bytes
        return None if read is None else rate(read, self.decode.tokens)

    @property
    def late(self) -> int | None:
        """Prefetched experts of decode steps that their layer had to wait for; None without a device."""
        return None if self.timed is None else int(self.timed.late_in_decode.sum())

    @property
    def late_bytes(self) -> int | None:
        """The bytes of those experts."""
        if self.timed is None:
            return None
        return _bytes_of(self.timed.late_in_decode, self.timed.model.expert_bytes)

    def to_dict(self) -> dict[str, Any]:
        bare: dict[str, Any] = {}
        if self.without is not None:
            for name in ("total", "prefill", "decode"):
                one = getattr(self.without, name)
                bare[name] = {"hits": one.hits, "misses": one.misses, "demand_bytes": one.demand_bytes}
            bare["total"]["bytes_read_per_token"] = self.without.bytes_read_per_token
        return {
            "predictor": self.predictor,
            "policy": self.policy,
            **self.settings,
            "evictions": self.evictions,
            "evictions_by_prefetch": self.evictions_by_prefetch,
            **self.total.to_dict(),
            "bytes_read_per_token": self.bytes_read_per_token,
            "prefill": self.prefill.to_dict(),
            "decode": self.decode.to_dict(),
            "without_prefetch": {**bare.pop("total"), **bare} if bare else None,
            "times": self._times(),
        }

    @property
    def fit(self) -> Fit | None:
        """Whether the cache and the model fit the device; None without one."""
        return None if self.timed is None else self.timed.fit(self.settings["capacity"])

    def _times(self) -> dict[str, Any] | None:
        if self.timed is None:
            return None
        bare = None if self.without is None or self.without.timed is None else self.without.timed.times.to_dict()
        late = {"late": self.late, "late_bytes": self.late_bytes}
        fit = self.fit
        fits = {} if fit is None else fit.to_dict()
        return {**self.timed.to_dict(), **self.timed.times.to_dict(), **late, **fits, "without_prefetch": bare}


@dataclass(frozen=True, repr=False)
class PrefetchReport(Shown):
    """The results of one call: predictors, in each policies, as they were given."""

    trace: dict[str, Any]
    results: tuple[PrefetchResult, ...]

    def __iter__(self) -> Iterator[PrefetchResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, number: int) -> PrefetchResult:
        return self.results[number]

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim prefetch --json` prints."""
        layers = [
            [{"layer": layer, **counts.to_dict()} for layer, counts in result.layers.items()] for result in self.results
        ]
        rows = [{**result.to_dict(), "layers": each} for result, each in zip(self.results, layers, strict=True)]
        return {**stamp(SCHEMA), "trace": self.trace, "results": rows}

    def to_frame(self) -> pd.DataFrame:
        """One row per result; nested values become columns such as `decode_hits` and `capacity_bytes`."""
        import pandas as pd

        return pd.DataFrame([flat(result.to_dict()) for result in self.results])

    def layer_frame(self) -> pd.DataFrame:
        """One row per result and layer."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"predictor": result.predictor, "policy": result.policy, "layer": layer, **counts.to_dict()}
                for result in self.results
                for layer, counts in result.layers.items()
            ]
        )
