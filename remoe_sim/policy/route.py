"""Routing that looks at the cache: the methods, what each needs to know, and how one decision changes.

`reroute` applies them to a trace (open loop), `capture` to a model that runs (closed loop).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remoe_sim.kernels import reroute as kernels
from remoe_sim.util.errors import unknown
from remoe_sim.util.units import parse_count, parse_number

DROP = "drop"
_PRIOR = ("bias", "the share of the router's range by which residents are preferred, 0 to 1, such as 0.15")
METHODS = {  # what each needs to know, and what that is
    "cache-prior": _PRIOR,
    "cache-aware": _PRIOR,  # the same: an earlier name
    "max-rank": ("max_rank", "how many of the most probable experts residents are taken from, such as 12"),
    "cumulative": ("threshold", "the probability of the most probable experts that residents are taken from, 0 to 1"),
    DROP: ("threshold", "the share of 1/k below which an expert that is not resident is left out, such as 0.75"),
    "substitute": (
        "threshold",
        "the share of a missing expert's probability that the resident in its place must have, 0 to 1, such as 0.5",
    ),
}
KERNEL_METHODS = {
    "cache-prior": kernels.PRIOR,
    "cache-aware": kernels.PRIOR,
    "max-rank": kernels.MAX_RANK,
    "cumulative": kernels.CUMULATIVE,
    "substitute": kernels.SUBSTITUTE,
}


@dataclass(frozen=True)
class Rule:
    """A method and its settings, checked. amount: the number that the method takes; keep: how many of the strongest
    experts of a decision always stay; cache: experts per layer."""

    method: str
    amount: float
    keep: int
    cache: int

    @classmethod
    def of(cls, method: str, given: Mapping[str, Any], keep: int | str, cache: int | str) -> Rule:
        """From what the user gave; ValueError if that is not possible."""
        if method not in METHODS:
            raise unknown("method", str(method), METHODS)
        name, meaning = METHODS[method]
        others = [other for other, value in given.items() if value is not None and other != name]
        if others:
            raise ValueError(f"{others[0]} is not for method {method}, which takes {name}: {meaning}")
        if given.get(name) is None:
            raise ValueError(f"method {method} needs {name}: {meaning}")
        if name == "max_rank":
            amount: float = parse_count(given[name], name)
        else:
            amount = parse_number(given[name], name, float("inf") if method == DROP else 1)
        rule = cls(method, amount, parse_count(keep, "keep"), parse_count(cache, "cache"))
        if method == DROP and not rule.keep:
            raise ValueError("keep 0 is not possible with method drop; a decision keeps 1 expert or more")
        return rule

    def to_dict(self) -> dict[str, Any]:
        """The settings in JSON; what a method does not take is null."""
        taken = METHODS[self.method][0]
        amounts = {name: self.amount if name == taken else None for name in ("bias", "threshold", "max_rank")}
        return {"method": self.method, **amounts, "keep": self.keep, "experts_per_layer": self.cache}

    def in_words(self) -> str:
        """The method and its settings, for notes."""
        return f"{self.method}, {METHODS[self.method][0]} {self.amount:g}, keep {self.keep}"
