"""What `verdict` returns: the counts, the judgement that follows from them, JSON, a table and a paragraph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remoe_sim.results import ReplayResult, rate
from remoe_sim.showing import Shown
from remoe_sim.stamps import stamp

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "remoe-sim.verdict.v1"
FITS, POLICY, WORKING_SET = "fits", "policy", "working set"
FITTING_SHARE = 0.01  # capacity misses / lookups
POLICY_SHARE = 0.5  # capacity misses that Belady avoids / capacity misses
RULE = (
    f"{FITS}: at most {100 * FITTING_SHARE:g} % of the lookups are capacity misses of the best online policy; "
    f"{POLICY}: Belady at the same limit, scope and admission avoids at least {100 * POLICY_SHARE:g} % of those; "
    f"{WORKING_SET}: it avoids less"
)


@dataclass(frozen=True, repr=False)
class Verdict(Shown):
    """The answer for one limit.

    online: the online policies, fewest misses first; bounds: Belady under each admission; least_misses: no rule misses
    less under these settings, None if unknown; left_out: registered policies that are no candidates, and why. The other
    dictionaries are described where they are made, in `remoe_sim.regimes`. Counts are of lookups, rates of one.
    """

    trace: dict[str, Any]
    settings: dict[str, Any]
    capacity: dict[str, int]
    online: tuple[ReplayResult, ...]
    bounds: dict[str, ReplayResult]
    least_misses: int | None
    left_out: dict[str, str]
    regime: dict[str, dict[str, Any]]
    token_cycle: dict[str, Any]
    working_set: list[dict[str, Any]]
    experts_needed: list[dict[str, Any]]

    @property
    def best(self) -> ReplayResult:
        """The online policy with the fewest misses."""
        return self.online[0]

    @property
    def belady(self) -> ReplayResult:
        """Belady under the admission that was asked for."""
        return self.bounds[self.settings["admission"]]

    @property
    def avoidable(self) -> int:
        """Capacity misses of the best online policy that Belady avoids."""
        return min(max(self.best.misses - self.belady.misses, 0), self.best.capacity_misses)

    @property
    def remaining(self) -> int:
        """Capacity misses of the best online policy that Belady does not avoid either."""
        return self.best.capacity_misses - self.avoidable

    @property
    def verdict(self) -> str | None:
        """`fits`, `policy` or `working set`, by RULE; None without lookups."""
        if not self.best.lookups:
            return None
        if self.best.capacity_misses <= FITTING_SHARE * self.best.lookups:
            return FITS
        return POLICY if self.avoidable >= POLICY_SHARE * self.best.capacity_misses else WORKING_SET

    @property
    def proven(self) -> bool:
        """Whether `working set` is certain: no rule avoids half of the capacity misses. The others always are."""
        if self.verdict != WORKING_SET:
            return True
        if self.least_misses is None:
            return False
        return self.best.misses - self.least_misses < POLICY_SHARE * self.best.capacity_misses

    @property
    def no_optimum(self) -> str:
        """Why Belady may not be the optimum; meaningful only where `optimal` is false."""
        return "lookups are left out as warm-up" if self.settings["warmup"] else "experts differ in size"

    @property
    def gap(self) -> dict[str, Any]:
        """Misses of the best online policy above the optimum that may bypass, and what they are the price of.

        admission: Belady mandatory − Belady bypass, 0 for a policy that may bypass itself; future_knowledge: the rest.
        All None, with the reason in `note`, where Belady is no bound.
        """
        if not all(bound.optimal for bound in self.bounds.values()):
            return {
                "misses": None, "admission": None, "future_knowledge": None, "admission_share": None,
                "note": f"Belady is no bound because {self.no_optimum}",
            }  # fmt: skip
        gap = self.best.misses - self.bounds["bypass"].misses
        admission = self.belady.misses - self.bounds["bypass"].misses
        return {
            "misses": gap, "admission": admission, "future_knowledge": gap - admission,
            "admission_share": rate(admission, gap), "note": None,
        }  # fmt: skip

    @property
    def paragraph(self) -> str:
        """The answer in words, with all numerators, denominators and units."""
        from remoe_sim.verdict_text import paragraph

        return paragraph(self)

    def to_dict(self) -> dict[str, Any]:
        """The object that `remoe-sim verdict --json` prints."""
        best = self.best
        return {
            **stamp(SCHEMA),
            "trace": self.trace,
            **self.settings,
            "capacity": self.capacity,
            "verdict": self.verdict,
            "proven": self.proven,
            "paragraph": self.paragraph,
            "rule": RULE,
            "thresholds": {"capacity_misses_per_lookup": FITTING_SHARE, "avoidable_share": POLICY_SHARE},
            "lookups": best.lookups,
            "cold_misses": best.cold_misses,
            "capacity_misses": best.capacity_misses,
            "avoidable_misses": self.avoidable,
            "avoidable_share": rate(self.avoidable, best.capacity_misses),
            "remaining_misses": self.remaining,
            "best_online": best.policy,
            "ties": [result.policy for result in self.online[1:] if result.misses == best.misses],
            "regret": best.misses - self.belady.misses,
            "belady": {name: self._counts(bound, optimal=True) for name, bound in self.bounds.items()},
            "least_misses": self.least_misses,
            "gap": self.gap,
            "regime": self.regime,
            "token_cycle": self.token_cycle,
            "working_set": self.working_set,
            "experts_needed": self.experts_needed,
            "online": [self._counts(result) for result in self.online],
            "left_out": [{"policy": name, "why": why} for name, why in self.left_out.items()],
        }

    def _counts(self, result: ReplayResult, optimal: bool = False) -> dict[str, Any]:
        names = ("policy", "lookups", "hits", "misses", "cold_misses", "capacity_misses", "hit_rate")
        return {
            **{name: getattr(result, name) for name in names},
            **({"optimal": result.optimal} if optimal else {"regret": result.misses - self.belady.misses}),
            "decode_lookups": result.decode.lookups,
            "decode_hits": result.decode.hits,
            "decode_hit_rate": result.decode.hit_rate,
            "bytes_read": result.bytes_read,
            "bytes_read_per_token": result.bytes_read_per_token,
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per online policy, fewest misses first, then Belady under both admissions (column `admission`)."""
        import pandas as pd

        rows = [{"admission": self.settings["admission"], **self._counts(result)} for result in self.online]
        rows += [{"admission": name, **self._counts(bound)} for name, bound in self.bounds.items()]
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        return self.paragraph

    def _sentence(self) -> str:
        return self.paragraph
