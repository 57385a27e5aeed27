"""What `optimize` returns: the steps of the search, and the choice on requests that it was not made on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.units import percent, rate

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "remoe-sim.optimize.v1"


@dataclass(frozen=True)
class Step:
    """One step of the search. tried: how many candidates; best: the best of them; gain: the share of misses or time
    that it saves, cross-fitted within the requests that the choice is made on."""

    step: str
    tried: int
    best: dict[str, Any]
    gain: float
    taken: bool


@dataclass(frozen=True)
class Judged:
    """One line on the held-out requests. total: misses, or seconds; of: lookups, or tokens; saved: share of LRU's, with
    its 95 % interval over requests; choice_is_worse: whether the choice is significantly worse than this."""

    name: str
    settings: dict[str, Any]
    total: float
    of: float
    saved: float
    interval: tuple[float, float] | None
    choice_is_worse: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "per_lookup_or_token": rate(self.total, self.of)}


@dataclass(frozen=True, repr=False)
class OptimizeReport(Shown):
    """The answer of one call. by_steps: one request was cut by its steps, which gives no interval.
    engines: those whose own cache is the one chosen."""

    trace: dict[str, Any]
    minimise: str
    limit: dict[str, int]
    trained_requests: int
    judged_requests: int
    by_steps: bool
    steps: tuple[Step, ...]
    choice: dict[str, Any]
    division: dict[int, int] | None
    judged: tuple[Judged, ...]
    command: str
    engines: tuple[dict[str, Any], ...] = ()

    def __getitem__(self, name: str) -> Judged:
        for one in self.judged:
            if one.name == name:
                return one
        raise KeyError(name)

    @property
    def sentence(self) -> str:
        """What the choice is worth on new requests."""
        one = self["choice"]
        if one.settings == self["lru"].settings:
            return "Nothing that was tried gains on requests that it did not learn from: plain LRU stays."
        saved = f"The choice saves {percent(one.saved)} of LRU's {self.minimise} on new "
        if one.interval is None:
            where = "steps of the same request" if self.by_steps else "requests"
            return f"{saved}{where}; there are too few requests for an interval."
        low, high = (100 * end for end in one.interval)
        held = "it holds" if low > 0 else "it does not hold"
        return f"{saved}requests (95 % interval {low:.2f} to {high:.2f} %): {held} on new requests."

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim optimize --json` prints."""
        names = ("trace", "minimise", "limit", "trained_requests", "judged_requests", "by_steps", "choice")
        return {
            **stamp(SCHEMA),
            **{name: getattr(self, name) for name in names},
            "division": None if self.division is None else {str(at): n for at, n in self.division.items()},
            "steps": [asdict(one) for one in self.steps],
            "judged": [one.to_dict() for one in self.judged],
            "sentence": self.sentence,
            "command": self.command,
            "engines": list(self.engines),
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per step of the search."""
        import pandas as pd

        return pd.DataFrame([asdict(one) for one in self.steps])
