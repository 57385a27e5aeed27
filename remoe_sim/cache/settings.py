"""The arguments that every replay has in common, checked once, before any work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from remoe_sim.util.errors import unknown
from remoe_sim.util.units import asked_bytes, format_bytes, parse_bytes, parse_count

if TYPE_CHECKING:
    from remoe_sim.policy.base import Policy
    from remoe_sim.trace.trace import Trace

ALLOWED = {
    "scope": ("layer", "global"),
    "admission": ("mandatory", "bypass"),
    "order": ("set", "sequential"),
    "reset": ("never", "request"),
    "phase": ("all", "decode", "prefill"),
}
OPTIMUM = "belady"
NO_BOUND = "belady is no bound here: entries differ in size, or warm-up lookups are left out."
CAPPED_BOUND = "belady is no bound here: it does not know which misses may enter. Under bypass, without caps, it is."
DEFAULT_POLICIES = ("lru", "lfu", "belady")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a trace is replayed (design of each choice: docs/semantics.md).

    admit_after: the use from which on an expert may enter; inserts: how many may enter per layer and step, None for all
    """

    scope: str = "layer"
    admission: str = "mandatory"
    order: str = "set"
    reset: str = "never"
    phase: str = "all"
    warmup: int = 0
    admit_after: int = 1
    inserts: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise unknown(name, str(getattr(self, name)), allowed)
        object.__setattr__(self, "warmup", parse_count(self.warmup, "warmup"))
        object.__setattr__(self, "admit_after", parse_count(self.admit_after, "admit-after", least=1))
        if self.inserts is not None:
            object.__setattr__(self, "inserts", parse_count(self.inserts, "inserts"))

    @property
    def capped(self) -> bool:
        """Whether some misses may not enter, whatever the policy is."""
        return self.admit_after > 1 or self.inserts is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; caps only if some misses may not enter."""
        values = asdict(self)
        if not self.capped:
            del values["admit_after"], values["inserts"]
        return values

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
    shared: bool = False  # whether `budget` is a memory of which others take a part
    division: tuple[int, ...] | None = None  # experts of each MoE layer, in place of a limit for all

    @classmethod
    def of(cls, cache: int | str | None, budget: int | str | None, memory: int | str | None = None) -> Limit:
        """From what the user gave; ValueError unless it is exactly one of them, and not negative."""
        given = [name for name, one in (("cache", cache), ("budget", budget), ("memory", memory)) if one is not None]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'no limit'} given; limit the cache by one of --cache EXPERTS, --budget BYTES "
                "and --memory BYTES"
            )
        if isinstance(cache, list | tuple | range) or (isinstance(cache, str) and ("," in cache or ":" in cache)):
            raise ValueError(f"cache {cache} is several sizes, and one is taken here; sweep and curve take several")
        if cache is not None:
            return cls(parse_count(cache, "cache"))
        if memory is not None:
            return cls(None, asked_bytes(memory, "memory", "GiB"), True)
        return cls(None, parse_bytes(budget or 0))

    def without_reserve(self, trace: Trace, reserve: int | str | Sequence[int | str]) -> Limit:
        """What a memory leaves for experts: itself minus sizes, or minus the dense layers for the word `dense`."""
        parts = (
            [p for p in reserve.split(",") if p]
            if isinstance(reserve, str)
            else [reserve]
            if isinstance(reserve, int)
            else reserve
        )
        if not self.shared:
            if parts:
                raise ValueError("reserve goes with --memory; a cache or a budget is for experts alone")
            return self
        taken = 0
        for part in parts:
            if part == "dense" and trace.model.dense_bytes is None:
                raise trace.error("the size of its dense layers is unknown; give --reserve a size such as 3GiB")
            taken += sum(trace.model.dense_bytes or ()) if part == "dense" else parse_bytes(part)
        assert self.budget is not None
        if not parts:
            raise ValueError(
                "memory is not for experts alone; say with --reserve what weights, KV cache and workspace take, such "
                "as 3GiB or dense,1GiB, or give what is left as --budget"
            )
        if taken > self.budget:
            raise ValueError(
                f"{format_bytes(taken)} are reserved of a memory of {format_bytes(self.budget)}, which leaves nothing "
                "for experts; give more memory or reserve less"
            )
        return Limit(None, self.budget - taken)

    @property
    def in_all(self) -> int:
        """The limit of one cache of all layers, in bytes or experts."""
        return self.budget if self.budget is not None else self.experts or 0

    def for_layer(self, trace: Trace, index: int) -> int:
        """Experts that the cache of MoE layer `index` holds under scope `layer`."""
        if self.division is not None:
            return self.division[index]
        if self.experts is not None:
            return self.experts
        assert self.budget is not None
        assert trace.model.expert_bytes is not None
        return self.budget // trace.moe_layers // trace.model.expert_bytes[index]

    def to_dict(self, per_layer: bool) -> dict[str, int]:
        """The `capacity` of a result."""
        if self.division is not None:
            return {"experts_in_all": sum(self.division)}
        if self.budget is not None:
            return {"bytes": self.budget}
        assert self.experts is not None
        return {"experts_per_layer" if per_layer else "experts": self.experts}


def find_policies(given: str | Sequence[str]) -> list[Policy]:
    """Policies by name, from `lru,belady` or a list; ValueError naming all policies if one is unknown or repeated."""
    from remoe_sim.policy.find import find_policy

    texts = [text.strip() for text in given.split(",")] if isinstance(given, str) else list(given)
    if not texts or len(set(texts)) != len(texts):
        raise ValueError(f"policy '{','.join(texts)}' names a policy twice or none; name each once, such as lru,belady")
    policies = [find_policy(text) for text in texts]
    by_label: dict[str, str] = {}
    for text, policy in zip(texts, policies, strict=True):
        other = by_label.setdefault(policy.label, text)
        if other != text:
            raise ValueError(
                f"policies '{other}' and '{text}' are both called '{policy.label}'; give one of them another name"
            )
    return policies


def check_policies(policies: Sequence[Policy], settings: Settings, trained: bool) -> None:
    """ValueError if a policy cannot work under the admission, or needs a training trace that is not given."""
    for policy in policies:
        if settings.capped:
            from remoe_sim.policy.drive import check_drivable

            check_drivable(policy, "--admit-after or --inserts")
        if settings.admission not in policy.admissions:
            raise ValueError(
                f"policy '{policy.label}' does not exist under admission {settings.admission}; "
                f"use --admission {' or '.join(policy.admissions)}"
            )
        if policy.needs_training and not trained:
            raise ValueError(f"policy '{policy.label}' learns from another trace; name it with --train other.parquet")


def policies_for(given: str | Sequence[str], settings: Settings, *, trained: bool) -> list[Policy]:
    """Find policies by name, and check that they can work under the settings."""
    policies = find_policies(given)
    check_policies(policies, settings, trained)
    return policies


def check_timed(settings: Settings) -> None:
    """ValueError unless steps are whole, which times are those of."""
    if settings.order != "set":
        raise ValueError("times are those of whole steps; use --order set with a device")


def known_sizes(trace: Trace, expert_bytes: int | str | Sequence[int] | None, needed_for: str = "") -> Trace:
    """The trace with the sizes that the user gave; ValueError if `needed_for` needs sizes and there are none."""
    if expert_bytes is not None:
        sizes = [asked_bytes(one, "expert_bytes", "MiB") for one in _sizes(expert_bytes)]
        trace = trace.with_sizes(sizes[0] if len(sizes) == 1 else sizes)
    elif needed_for and trace.model.expert_bytes is None:
        raise trace.error(
            f"expert sizes are unknown and {needed_for} needs them; pass --expert-bytes 3MiB or one per layer"
        )
    return trace


def _sizes(given: int | str | Sequence[int]) -> Sequence[int | str]:
    if isinstance(given, str):
        return given.split(",")
    return list(given) if isinstance(given, Iterable) else [given]
