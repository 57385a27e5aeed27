"""What `split` returns: divisions of a cache among the layers, and their misses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.units import rate

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "remoe-sim.split.v1"
DIVISIONS = ("equal", "greedy", "best")


@dataclass(frozen=True)
class Division:
    """A cache and its misses in all. experts, layer_misses: of every MoE layer, None for one cache of all layers; held:
    what the experts take of the limit, in its unit. bytes_read, the misses times their sizes: None if unknown."""

    lookups: int
    misses: int
    bytes_read: int | None
    experts: tuple[int, ...] | None = None
    layer_misses: tuple[int, ...] | None = None
    held: int | None = None

    @property
    def hits(self) -> int:
        return self.lookups - self.misses

    @property
    def hit_rate(self) -> float | None:
        return rate(self.hits, self.lookups)

    def to_dict(self) -> dict[str, Any]:
        names = ("lookups", "hits", "misses", "hit_rate", "bytes_read")
        found = {name: getattr(self, name) for name in names}
        return found if self.experts is None else {**found, "held": self.held, "experts": list(self.experts)}


@dataclass(frozen=True)
class HeldOut:
    """The divisions of a policy, fitted to some requests, on all others, each part from an empty cache.

    trained, judged: how many requests each part has; trained_saved, trained_misses: misses that the best division
    avoids on the requests it was fitted to, and those of the equal one there; interval: 95 %, over requests, of the
    share of the equal division's misses (or bytes) that the best one saves here; None where requests are too few
    """

    trained: int
    judged: int
    equal: Division
    greedy: Division
    best: Division
    trained_saved: int = 0
    trained_misses: int = 0
    interval: tuple[float, float] | None = None

    @property
    def misses_saved(self) -> int:
        """Misses of the equal division that the best one of the other requests avoids; negative where it adds some."""
        return self.equal.misses - self.best.misses

    @property
    def holds(self) -> bool:
        """Whether the fitted division saves on requests that it has not seen, with all of the interval."""
        return self.misses_saved > 0 if self.interval is None else self.interval[0] > 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "trained_requests": self.trained,
            "judged_requests": self.judged,
            **{name: getattr(self, name).to_dict() for name in DIVISIONS},
            "misses_saved": self.misses_saved,
            "misses_saved_share": rate(self.misses_saved, self.equal.misses),
            "trained_misses_saved_share": rate(self.trained_saved, self.trained_misses),
            "interval": None if self.interval is None else list(self.interval),
            "holds": self.holds,
        }


@dataclass(frozen=True)
class PolicySplit:
    """One policy: lookups of every MoE layer; three divisions, and `shared`, one cache of all layers at that limit.

    shared_is_optimal: no policy misses less in one cache of that limit. held_out: the divisions on requests that they
    were not fitted to, where some were left out. applied: a division that was given.
    """

    policy: str
    lookups: tuple[int, ...]
    equal: Division
    greedy: Division
    best: Division
    shared: Division
    shared_is_optimal: bool
    held_out: HeldOut | None = None
    applied: Division | None = None

    @property
    def misses_saved(self) -> int:
        """Misses of the equal division that the best one avoids."""
        return self.equal.misses - self.best.misses

    @property
    def bytes_saved(self) -> int | None:
        """Bytes of the equal division that the best one does not read; negative where it misses larger experts."""
        if self.equal.bytes_read is None or self.best.bytes_read is None:
            return None
        return self.equal.bytes_read - self.best.bytes_read

    def to_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            **{name: getattr(self, name).to_dict() for name in DIVISIONS},
            "shared": {**self.shared.to_dict(), "optimal": self.shared_is_optimal},
            "misses_saved": self.misses_saved,
            "misses_saved_share": rate(self.misses_saved, self.equal.misses),
            "bytes_saved": self.bytes_saved,
            **({} if self.applied is None else {"applied": self.applied.to_dict()}),
            **({} if self.held_out is None else {"held_out": self.held_out.to_dict()}),
        }


@dataclass(frozen=True, repr=False)
class SplitReport(Shown):
    """The answer of one call, one result per policy. layers: the model's own numbers; settings: how it was replayed."""

    trace: dict[str, Any]
    settings: dict[str, Any]
    capacity: dict[str, int]
    minimise: str
    layers: tuple[int, ...]
    expert_bytes: tuple[int, ...] | None
    results: tuple[PolicySplit, ...]

    def __getitem__(self, policy: str) -> PolicySplit:
        for result in self.results:
            if result.policy == policy:
                return result
        raise KeyError(policy)

    def __iter__(self) -> Iterator[PolicySplit]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def rows(self) -> list[dict[str, Any]]:
        """One per policy and layer: experts and misses under each division."""
        rows = []
        for result in self.results:
            for index, layer in enumerate(self.layers):
                size = None if self.expert_bytes is None else self.expert_bytes[index]
                row = {"policy": result.policy, "layer": layer, "expert_bytes": size, "lookups": result.lookups[index]}
                for name in DIVISIONS:
                    division = getattr(result, name)
                    row[f"{name}_experts"] = division.experts[index]
                    row[f"{name}_misses"] = division.layer_misses[index]
                rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim split --json` prints; `experts` are in the order of `layers`."""
        return {
            **stamp(SCHEMA),
            "trace": self.trace,
            **self.settings,
            "capacity": self.capacity,
            "minimise": self.minimise,
            "results": [result.to_dict() for result in self.results],
            "layers": self.rows(),
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per policy and layer."""
        import pandas as pd

        return pd.DataFrame(self.rows())
