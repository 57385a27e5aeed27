"""The arguments that every replay has in common, checked once, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from remoe_sim.errors import unknown
from remoe_sim.policy import Policy
from remoe_sim.trace import Trace
from remoe_sim.units import parse_bytes, parse_count

ALLOWED = {
    "scope": ("layer", "global"),
    "admission": ("mandatory", "bypass"),
    "order": ("set", "sequential"),
    "reset": ("never", "request"),
    "phase": ("all", "decode", "prefill"),
}
DEFAULT_POLICIES = ("lru", "lfu", "belady")


@dataclass(frozen=True)
class Settings:
    """How a trace is replayed (design of each choice: docs/semantics.md)."""

    scope: str = "layer"
    admission: str = "mandatory"
    order: str = "set"
    reset: str = "never"
    phase: str = "all"
    warmup: int = 0

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise unknown(name, str(getattr(self, name)), allowed)
        object.__setattr__(self, "warmup", parse_count(self.warmup, "warmup"))

    @property
    def mandatory(self) -> bool:
        return self.admission == "mandatory"

    @property
    def per_layer(self) -> bool:
        return self.scope == "layer"


@dataclass(frozen=True)
class Limit:
    """A cache limit: experts (per layer under scope `layer`, in all under `global`), or bytes in all."""

    experts: int | None = None
    budget: int | None = None

    @classmethod
    def of(cls, cache: int | str | None, budget: int | str | None) -> Limit:
        """From what the user gave; ValueError unless it is exactly one of them, and not negative."""
        if (cache is None) == (budget is None):
            given = "both" if cache is not None else "neither"
            raise ValueError(f"{given} of cache and budget given; limit the cache by --cache EXPERTS or --budget BYTES")
        return cls(
            None if cache is None else parse_count(cache, "cache"), None if budget is None else parse_bytes(budget)
        )

    def for_layer(self, trace: Trace, index: int) -> int:
        """Experts that the cache of MoE layer `index` holds under scope `layer`."""
        if self.experts is not None:
            return self.experts
        assert self.budget is not None
        assert trace.model.expert_bytes is not None
        return self.budget // trace.moe_layers // trace.model.expert_bytes[index]

    def to_dict(self, per_layer: bool) -> dict[str, int]:
        """The `capacity` of a result."""
        if self.budget is not None:
            return {"bytes": self.budget}
        assert self.experts is not None
        return {"experts_per_layer" if per_layer else "experts": self.experts}


def find_policies(given: str | Sequence[str]) -> list[Policy]:
    """Policies by name, from `lru,belady` or a list; ValueError naming all policies if one is unknown or repeated."""
    from remoe_sim.registry import find_policy

    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"policy '{','.join(names)}' names a policy twice or none; name each once, such as lru,belady")
    return [find_policy(name) for name in names]


def known_sizes(trace: Trace, expert_bytes: int | str | Sequence[int] | None, needed_for: str = "") -> Trace:
    """The trace with the sizes that the user gave; ValueError if `needed_for` needs sizes and there are none."""
    if expert_bytes is not None:
        sizes = [parse_bytes(one) for one in _sizes(expert_bytes)]
        trace = trace.with_sizes(sizes[0] if len(sizes) == 1 else sizes)
    elif needed_for and trace.model.expert_bytes is None:
        raise trace.error(
            f"expert sizes are unknown and {needed_for} needs them; pass --expert-bytes 3MiB or one per layer"
        )
    return trace


def _sizes(given: int | str | Sequence[int]) -> Sequence[int | str]:
    if isinstance(given, str):
        return given.split(",")
    return [given] if isinstance(given, int) else given
