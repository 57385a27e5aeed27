"""What a sweep varies, as the user gave it: lists of everything, and the limits that they mean for a trace."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remoe_sim.cache.settings import Limit, Settings, check_policies, find_policies
from remoe_sim.devices.device import Device
from remoe_sim.devices.run import RunsOn
from remoe_sim.util.units import Several, parse_bytes, parse_number, parse_range, several

if TYPE_CHECKING:
    from remoe_sim.policy.base import Policy
    from remoe_sim.trace.trace import Trace

MOST_AUTO = 64  # capacities of `auto` under scope layer
AUTO_SHARES = tuple(range(5, 101, 5))  # per cent of all experts that `auto` takes under scope global
RECORDED = "trace"  # the word for "steps as they were recorded"


@dataclass(frozen=True)
class Axes:
    """The lists of a sweep, checked. batches: None for the steps of the trace; runs: what the steps are timed on, or
    None; caches: numbers of experts; shares: per cent of the bytes of all experts; budgets: bytes. Without any of the
    three the limits are chosen by the trace (`auto`)."""

    policies: tuple[tuple[str, Policy], ...]
    settings: tuple[Settings, ...]
    batches: tuple[int | None, ...]
    runs: tuple[RunsOn | None, ...]
    caches: tuple[int, ...]
    shares: tuple[float, ...]
    budgets: tuple[int, ...]
    auto: bool

    def limits(self, trace: Trace, settings: Settings) -> list[Limit]:
        """The limits of one trace, whose expert sizes are known if the axes hold budgets; each once, none too large."""
        experts, sizes = trace.model.experts, trace.model.expert_bytes
        total = None if sizes is None else sum(e * size for e, size in zip(experts, sizes, strict=True))
        limits = [Limit(count) for count in self.caches]
        if self.auto and settings.per_layer:
            most = max(experts)
            points = min(most, MOST_AUTO)
            limits += [Limit(most * point // points) for point in range(1, points + 1)]
        elif self.auto and total is None:
            limits += [Limit(sum(experts) * share // 100) for share in AUTO_SHARES]
        shares = (*self.shares, *(AUTO_SHARES if self.auto and not settings.per_layer and total is not None else ()))
        limits += [Limit(None, round((total or 0) * share / 100)) for share in shares]
        limits += [Limit(None, budget) for budget in self.budgets]
        return list(dict.fromkeys(limits))


def axes_of(
    *, policy: Several, scope: Several = "layer", cache: Several = None, budget: Several = None, batch: Several = None,
    timing: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None, trained: bool = False,
) -> Axes:  # fmt: skip
    """Check the arguments of `sweep`; ValueError for what is not possible.

    timing: what `RunsOn` takes, of which device, quant and overlap may be several
    settings: what `Settings` takes, but for the scope
    """
    texts = [str(one) for one in several(policy)]
    policies = find_policies(texts)
    scopes = tuple(Settings(scope=str(one), **(settings or {})) for one in dict.fromkeys(several(scope)))
    check_policies(policies, scopes[0], trained)
    caches, auto_caches = _caches(several(cache))
    shares, budgets, auto_budgets = _budgets(several(budget))
    given = bool(caches or shares or budgets)
    if given and (auto_caches or auto_budgets):
        raise ValueError("auto stands for all limits; give it alone, or limits such as 4:64 or 10%")
    return Axes(
        tuple(zip(texts, policies, strict=True)), scopes, _batches(several(batch)),
        tuple(_runs(**(timing or {}))),
        tuple(dict.fromkeys(caches)), tuple(dict.fromkeys(shares)), tuple(dict.fromkeys(budgets)), not given,
    )  # fmt: skip


def _caches(given: list[Any]) -> tuple[list[int], bool]:
    return [n for one in given if one != "auto" for n in parse_range(one, "cache")], "auto" in given


def _budgets(given: list[Any]) -> tuple[list[float], list[int], bool]:
    """Shares in per cent and bytes, and whether `auto` is among them."""
    shares, budgets = [], []
    for one in given:
        if isinstance(one, str) and "%" in one:
            shares += _percentages(one)
        elif one != "auto":
            budgets.append(parse_bytes(one))
    return shares, budgets, "auto" in given


def _percentages(text: str) -> list[float]:
    """`10%`, or `10%:50%:10%` with both ends."""
    ends = [parse_number(end.strip().removesuffix("%"), f"budget {text}, share", 100) for end in text.split(":")]
    if len(ends) == 1:
        return ends
    step = ends[2] if len(ends) == 3 else 0.0
    if len(ends) != 3 or ends[1] < ends[0] or step < 0.01:
        raise ValueError(f"budget '{text}' is not a range; give a%:b%:step% with a ≤ b and a step of 0.01% or more")
    return [round(ends[0] + number * step, 6) for number in range(int((ends[1] - ends[0]) / step + 1e-9) + 1)]


def _batches(given: list[Any]) -> tuple[int | None, ...]:
    sizes: list[int | None] = []
    for one in given or [RECORDED]:
        sizes += [None] if one == RECORDED else parse_range(one, f"batch ({RECORDED}: as recorded)", 1)
    return tuple(dict.fromkeys(sizes))


def _runs(
    *, device: Several = None, quant: Several = None, overlap: Several = None, **same: Any
) -> Iterator[RunsOn | None]:
    """Every combination of what was given; None without a device."""
    both = [
        {"quant": one, "overlap": other}
        for one in dict.fromkeys(several(quant) or [None])
        for other in dict.fromkeys(several(overlap) or [None])
    ]
    devices = [str(one) if isinstance(one, os.PathLike) else one for one in several(device)]
    named = dict.fromkeys(one for one in devices if not isinstance(one, Device))
    cards = [one for one in devices if isinstance(one, Device)]  # which cannot be hashed, their facts are dictionaries
    for one in [*named, *cards] or [None]:
        yield from (RunsOn.asked(device=one, **pair, **same) for pair in (both if one is not None else both[:1]))
