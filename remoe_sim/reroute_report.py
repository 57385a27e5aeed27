"""What a re-routing returns: hits and bytes before and after, what changed, and what that cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remoe_sim.results import ReplayResult, rate
from remoe_sim.showing import Shown
from remoe_sim.stamps import stamp

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.trace import Trace

SCHEMA = "remoe-sim.reroute.v1"
WARNING = (
    "open loop: later tokens are those of the original routing, so the gain is an upper bound, and what the changed "
    "experts do to the text is not measured"
)


@dataclass(frozen=True, repr=False)
class RerouteReport(Shown):
    """Decode tokens before and after re-routing, under LRU with mandatory admission.

    rule: the method and its settings; decisions, slots: those of decode tokens; changed_slots: replaced or left out;
    lost: float64[decisions], the share of the mass of the chosen experts (probability, or gate weight for `drop`) that
    each decision lost; rerouted: the trace with the new decisions.
    """

    trace: dict[str, Any]
    rule: dict[str, Any]
    decisions: int
    slots: int
    changed_slots: int
    lost: npt.NDArray[np.float64]
    before: ReplayResult
    after: ReplayResult
    rerouted: Trace
    open_loop: bool = True
    warning: str = WARNING

    @property
    def changed_share(self) -> float | None:
        """Changed slots per slot."""
        return rate(self.changed_slots, self.slots)

    @property
    def lost_mass(self) -> dict[str, Any]:
        """Mean and 95th percentile of `lost`, null over nothing, and what was lost."""
        some = self.lost.size > 0
        return {
            "of": "gate weight" if self.rule["method"] == "drop" else "probability",
            "mean": float(self.lost.mean()) if some else None,
            "p95": float(np.quantile(self.lost, 0.95)) if some else None,
        }

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim reroute --json` prints."""
        return {
            **stamp(SCHEMA),
            "trace": self.trace,
            **self.rule,
            "policy": self.before.policy,
            "scope": self.before.scope,
            "admission": self.before.admission,
            "open_loop": self.open_loop,
            "upper_bound": True,
            "warning": self.warning,
            "decisions": self.decisions,
            "slots": self.slots,
            "changed_slots": self.changed_slots,
            "changed_share": self.changed_share,
            "lost_mass": self.lost_mass,
            "before": _counts(self.before),
            "after": _counts(self.after),
        }

    def to_frame(self) -> pd.DataFrame:
        """One row; nested values become columns such as `before_hit_rate`."""
        import pandas as pd

        row: dict[str, Any] = {}
        for name, value in self.to_dict().items():
            if isinstance(value, dict) and name != "trace":
                row.update({f"{name}_{key}": inner for key, inner in value.items()})
            elif name not in ("schema", "trace"):
                row[name] = value
        return pd.DataFrame([row])


def _counts(result: ReplayResult) -> dict[str, Any]:
    """The decode lookups of a result; reads are misses."""
    decode = result.decode
    return {
        **decode.to_dict(),
        "misses": decode.lookups - decode.hits,
        "bytes_read_per_token": result.bytes_read_per_token,
    }
