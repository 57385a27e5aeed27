"""What `verdict` answers, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.units import format_bytes, percent, plural, rate

if TYPE_CHECKING:
    import pandas as pd

    from remoe_sim.cache.results import ReplayResult
    from remoe_sim.studies.what_if import OnDevice
    from remoe_sim.trace.metrics import LayerStatistics

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
    less under these settings, None if unknown; left_out: registered policies that are no candidates, and why;
    statistics: of each MoE layer of the trace, not in the JSON; on_device: times and what changes buy, None without a
    device. The other
    dictionaries are described where they are made, in `remoe_sim.studies.verdict`. Counts are of lookups, rates of one.
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
    statistics: tuple[LayerStatistics, ...] = field(compare=False)
    on_device: OnDevice | None = field(default=None, compare=False)

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
            "on_device": None if self.on_device is None else self.on_device.to_dict(),
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


WINDOW = 64  # decode tokens, of the working set that the paragraph names


def paragraph(verdict: Verdict) -> str:
    """The whole answer."""
    if verdict.verdict is None:
        return "There is no verdict: these settings leave no lookup to count."
    parts = (_misses, _judgement, _gap, _regime, _cycle, _working_set, _needed)
    return " ".join(text for text in (part(verdict) for part in parts) if text)


def size_of(verdict: Verdict) -> str:
    """The limit, such as `8 experts per layer`."""
    unit, limit = next(iter(verdict.capacity.items()))
    held = format_bytes(limit) if unit == "bytes" else f"{limit:,} expert{'s' * (limit != 1)}"
    if verdict.settings["scope"] == "global":
        return f"{held} for all layers together"
    if unit == "bytes":
        return f"{held} shared equally by {plural(verdict.trace['moe_layers'], 'layer')}"
    cycle = verdict.token_cycle
    return f"{held} per layer" + (f" ({amount(cycle, 'limit')} in all)" if cycle["unit"] == "bytes" else "")


def _misses(verdict: Verdict) -> str:
    best, tried = verdict.best, len(verdict.online)
    which = f"the best of {tried} online policies, {best.policy}," if tried > 1 else f"{best.policy}"
    sentence = (
        f"Verdict: {verdict.verdict}. With {size_of(verdict)}, {which} misses {best.misses:,} of {best.lookups:,} "
        f"lookups ({percent(best.misses, best.lookups, 1)})"
    )
    usual = next((one for one in verdict.online if one.policy == "lru"), best)
    if usual.misses > best.misses:
        sentence += f", {usual.misses - best.misses:,} fewer than lru"
    cold, capacity = best.cold_misses, best.capacity_misses
    return f"{sentence}. {cold:,} of these misses {_are(cold)} cold, first uses that no cache avoids; " + (
        "1 is a capacity miss." if capacity == 1 else f"{capacity:,} are capacity misses."
    )


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _judgement(verdict: Verdict) -> str:
    best, capacity = verdict.best, verdict.best.capacity_misses
    if verdict.verdict == "fits":
        return (
            f"Capacity misses are {percent(capacity, best.lookups, 1)} of the lookups, so neither more memory nor a "
            "better policy would change much. What is left are first uses, which only loading ahead could hide."
        )
    foresight = (
        f"Belady, which knows the future, would avoid {verdict.avoidable:,} of the capacity misses "
        f"({percent(verdict.avoidable, capacity, 1)}) in the same cache"
    )
    if verdict.verdict == "policy":
        return (
            f"{foresight}: most of them come from keeping the wrong experts, not from a lack of room. How much of that "
            "a policy without foresight can reach, this does not say."
        )
    forced = best.misses - verdict.bounds["bypass"].misses >= POLICY_SHARE * capacity
    remedy = ", prefetching or experts that need not enter the cache" if forced else " or prefetching"
    remain = "remains" if verdict.remaining == 1 else "remain"
    sentence = (
        f"{foresight}; {verdict.remaining:,} {remain} even then. Most of them need more memory, smaller "
        f"experts{remedy}, not another policy."
    )
    if verdict.proven:
        return sentence
    return f"{sentence} This is likely but not proven, since Belady is no bound: {verdict.no_optimum}."


def _gap(verdict: Verdict) -> str:
    gap = verdict.gap
    if gap["note"] is not None:
        least = verdict.least_misses
        bound = "" if least is None else f"; but no rule misses fewer than {least:,}"
        return f"How much of the gap is due to admission is unknown, since {verdict.no_optimum}{bound}."
    if not gap["misses"]:
        return f"No rule at all misses fewer than {verdict.best.policy} here."
    bypass = verdict.bounds["bypass"].misses
    if verdict.settings["admission"] == "bypass":
        return f"The optimum is {bypass:,} misses; the whole gap of {gap['misses']:,} is the price of not foreseeing."
    return (
        f"If experts could also be used without entering the cache, the optimum would be {bypass:,} misses: of the gap "
        f"of {gap['misses']:,} to that, forced admission costs {gap['admission']:,} and not foreseeing "
        f"{gap['future_knowledge']:,}."
    )


def _regime(verdict: Verdict) -> str:
    """Only where groups are larger than their cache; the table has the rest."""
    layered = verdict.settings["scope"] == "layer"
    name = "decode" if verdict.regime["decode"]["groups"] else "prefill"
    found = verdict.regime[name]
    if not found["above_one"]:
        return ""
    what = ("groups", "their layer's cache") if layered else ("steps", "the cache")
    above = found["above_one"]
    return (
        f"{above:,} of {found['groups']:,} {name} {what[0]} {_are(above)} larger than {what[1]}, which cannot hold "
        f"what {'it needs' if above == 1 else 'they need'} until it is needed again."
    )


def _cycle(verdict: Verdict) -> str:
    cycle = verdict.token_cycle
    text = (
        f"A decode token touches {amount(cycle, 'token_cycle')}; the limit is {cycle['limit_over_token_cycle']:.2f} of "
        "these token cycles."
    )
    if not cycle["floods"] or not verdict.best.decode.lookups:
        return text
    bound = amount(cycle, "lru_hits_nothing_below")
    if verdict.settings["scope"] == "global":
        return f"{text} LRU floods: below {bound} it hits in no decode lookup."
    return f"{text} One LRU cache for all layers would flood: below {bound} it hits in no decode lookup."


def amount(cycle: dict[str, Any], name: str) -> str:
    """A number of the token cycle, in its unit."""
    number = cycle[name]
    return format_bytes(number) if cycle["unit"] == "bytes" else f"{number:,} expert{'s' * (number != 1)}"


def _working_set(verdict: Verdict) -> str:
    if verdict.verdict != "working set":
        return ""
    found = next((one for one in verdict.working_set if one["window"] == WINDOW and one["windows"]), None)
    if found is None:
        return ""
    size = "" if found["mean_bytes"] is None else f", {format_bytes(found['mean_bytes'])} in all"
    return f"{WINDOW} decode tokens in a row use {found['mean_experts']:.1f} experts per layer on average{size}."


def _needed(verdict: Verdict) -> str:
    """What it takes to hit 80 % of the decode lookups."""
    found = {}
    for one in verdict.experts_needed:
        found[one["policy"]] = next(target for target in one["targets"] if target["decode_hit_rate"] == 0.8)
        if not one["decode_lookups"]:
            return ""
    best, belady = found[verdict.best.policy], found["belady"]
    if best["experts_per_layer"] is None:
        most = next(one["most"] for one in verdict.experts_needed if one["policy"] == verdict.best.policy)
        return (
            f"No cache hits 80 % of the decode lookups: even one that keeps every expert once it is used hits "
            f"{percent(most, decimals=1)}."
        )
    size = "" if best["bytes"] is None else f" ({format_bytes(best['bytes'])} in all)"
    return (
        f"To hit 80 % of the decode lookups with a cache per layer, {verdict.best.policy} needs "
        f"{plural(best['experts_per_layer'], 'expert')} in each{size}, Belady {belady['experts_per_layer']}."
    )
