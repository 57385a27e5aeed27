"""How much memory a target needs: time per token at every size of a cache, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoe_sim.cache.call import Call
from remoe_sim.cache.results import describe
from remoe_sim.cache.settings import Settings, check_timed, policies_for
from remoe_sim.devices.device import Device
from remoe_sim.devices.fits import room
from remoe_sim.devices.mapped import MAPPED, RESIDENT
from remoe_sim.devices.run import RunsOn
from remoe_sim.studies.plan_curve import Beside, Misses, PlanCurve, Point, Room
from remoe_sim.studies.plan_result import PlanReport, PlanResult
from remoe_sim.trace.trace import TraceLike
from remoe_sim.util.units import parse_bytes, parse_ms, parse_number

if TYPE_CHECKING:
    from remoe_sim.models.sizes import SizedModel

OneDevice = str | Path | Device


def plan(
    trace: TraceLike,
    device: OneDevice | Sequence[OneDevice] | Mapping[str, float],
    target_tpot: str | float | None = None,
    memory: int | str | None = None,
    policy: str | Sequence[str] = ("lru", "belady"),
    scope: str = "layer",
    admission: str = "mandatory",
    order: str = "set",
    reset: str = "never",
    phase: str = "all",
    warmup: int = 0,
    preload: TraceLike | None = None,
    expert_bytes: int | str | Sequence[int] | None = None,
    train: TraceLike | None = None,
    model: str | Path | SizedModel | None = None,
    quant: str | Sequence[str] | None = None,
    overlap: str | None = None,
    lanes: int | None = None,
    context: int | None = None,
    compute_ms: float | None = None,
    misses_from: str | None = None,
    host: Any = None,
    storage: Any = None,
    engine: Any = None,
    cpu_share: Any = None,
    cpu_moe_layers: Any = None,
    gpu_moe_layers: Any = None,
    measured_tpot: float | str | None = None,
    residency: str | None = None,
    page_rule: str | None = None,
    fault_threads: int | str | None = None,
) -> PlanReport:
    """The memory that a time per output token (TPOT) takes, and the time that a memory gives.

    device: names, cards or Devices, one or several ("a,b" or a list); with prices as "a=700,b=1600" or {"a": 700}.
    target_tpot: mean time per token, such as "150ms" or "0.15s" (a number is ms). memory: bytes for everything, instead
    of what the device has for models. quant: one or several. The rest as in `replay`, whose times at one cache are
    exactly those of the curve; policies with an order of experts take one pass, others one per limit.

    Memory is one budget: weights beside routed experts, output head, embedding, KV cache (of `context` tokens per
    request, else of the trace's longest), the cache, and a workspace for the largest group (all of it under bypass,
    else what does not fit the cache). The knee is where the curve of time over memory lies farthest below the chord
    between no cache and all experts. measured_tpot: what a token took on this device with the first policy and the
    largest cache that fits, as in `estimate`.

    residency: `cached` (if not given) or `mapped`: all weights share one page cache, whose size is what varies, and no
    policy takes part but the page rule; memory has the system's part too. page_rule, fault_threads: as in `replay`.

    Raises ValueError for arguments that are not possible, TraceError for a trace that is not.
    """
    settings = Settings(scope=scope, admission=admission, order=order, reset=reset, phase=phase, warmup=warmup)
    policies = policies_for(policy, settings, trained=train is not None)
    check_timed(settings)
    target = None if target_tpot is None else parse_ms(target_tpot, "target TPOT")
    limit = None if memory is None else parse_bytes(memory)
    priced = _devices(device)
    prices = [price for _, price in priced if price is not None]
    if prices and len(prices) < len(priced):
        raise ValueError("some devices have a price and some have none; give one to each, such as a=700,b=1600")
    if prices and target is None:
        raise ValueError("prices tell the cheapest device that reaches a target; give it with --target-tpot 150ms")
    same: dict[str, Any] = {
        "model": model, "overlap": overlap, "lanes": lanes, "context": context, "compute_ms": compute_ms,
        "misses_from": misses_from, "host": host, "storage": storage, "engine": engine,
        "cpu_share": cpu_share, "cpu_moe_layers": cpu_moe_layers, "gpu_moe_layers": gpu_moe_layers,
        "measured_tpot": measured_tpot,
        "residency": residency, "page_rule": page_rule, "fault_threads": fault_threads,
    }  # fmt: skip
    if residency == RESIDENT:
        raise ValueError("residency 'resident' is the answer 'all experts' of every plan; leave it out, or give mapped")
    if residency == MAPPED:
        policies = policies_for("lru", settings, trained=False)
    runs = [[RunsOn.of(device=one, quant=each, **same) for one, _ in priced] for each in _listed(quant)]
    if measured_tpot is not None and len(runs) * len(priced) > 1:
        raise ValueError("a measured TPOT is that of one machine; give one device and one quantisation with it")
    call = Call.of(trace, settings=settings, policies=policies, expert_bytes=expert_bytes, preload=preload, train=train)
    trace, tokens = call.trace, call.tokens
    results: list[PlanResult] = []
    notes: list[str] = []
    misses: list[Misses] = []
    for on_devices in runs:
        sized_trace, sized = on_devices[0].sized(trace)
        if not misses or not settings.per_layer:  # experts per layer are counted, whatever their sizes
            caches = replace(call.caches, trace=sized_trace)
            misses = [Misses.of(caches, one) for one in policies]
        needed = misses[0].needed()
        room = Room.of(sized_trace, settings, needed)
        equal = settings.per_layer or len(set(sized_trace.model.expert_bytes or ())) == 1
        for on, (_, price) in zip(on_devices, priced, strict=True):
            costs, steps = on.costs(sized_trace, sized), on.steps(sized_trace, tokens, needed)
            if not steps.decode.any():
                raise trace.error(
                    "it has no counted decode tokens, whose time is planned; record some, or warm up less"
                )
            kept = int(steps.kv_tokens.max())
            beside = Beside.of(sized, kept, steps.requests)
            said = {
                "device": on.device.name, "model": sized.name, "quant": sized.quant, "overlap": on.overlap,
                "misses_from": costs.misses_from, "context": on.context, "kv_tokens": kept, "compute_ms": on.compute_ms,
            }  # fmt: skip
            if on.residency == MAPPED:
                from remoe_sim.studies.plan_mapped import MappedCurve, without_weights

                said, beside = {**said, "residency": MAPPED}, without_weights(beside)
                pages = MappedCurve(on, costs, steps, misses[0], beside, sized)
                rule = on.pages.rule
                # the pages' side takes the system's part away
                whole = int(on.device.memory_bytes) if limit is None else limit
                results.append(_result(on.device, sized, rule, True, False, price, said, whole, beside, target, pages))
                continue
            if on.measured_ms is not None:
                curve = PlanCurve(on, costs, steps, misses[0], room, beside)
                costs = curve.measured(on.measured_ms, int(on.device.memory_bytes) if limit is None else limit)
            notes += costs.notes
            for one, missed in zip(policies, misses, strict=True):
                curve = PlanCurve(on, costs, steps, missed, room, beside)
                optimal = one.optimal and equal and not settings.warmup
                results.append(
                    _result(on.device, sized, one.label, one.online, optimal, price, said, limit, beside, target, curve)
                )
    asked = "price" if prices else "list"
    ordered_by = asked if target is not None and len(runs) * len(priced) > 1 else None
    return PlanReport(describe(trace), tuple(results), ordered_by, tuple(dict.fromkeys(notes)))


def _result(
    device: Device, model: SizedModel, policy: str, online: bool, optimal: bool, price: float | None,
    said: dict[str, Any], limit: int | None, beside: Beside, target: float | None, curve: PlanCurve,
) -> PlanResult:  # fmt: skip
    there = room(device) or 0 if limit is None else limit
    reaching = None if target is None else curve.reaching(target)
    knee, within = curve.knee, curve.within(there)

    def point(number: int | None) -> Point | None:
        return None if number is None else curve.point(number)

    chosen = point(knee), point(reaching), point(within)
    return PlanResult(
        device, model, policy, online, optimal, price, said, there, beside, target, curve.point(0),
        *chosen, curve.point(curve.last), curve.points, len(curve.limits), curve.ordered,
    )  # fmt: skip


def _devices(given: Any) -> list[tuple[OneDevice, float | None]]:
    """Devices with the prices that were given."""
    if isinstance(given, Mapping):
        return [(name, parse_number(price, f"price of {name}")) for name, price in given.items()]
    if isinstance(given, (Device, Path)):
        return [(given, None)]
    pairs: list[tuple[OneDevice, float | None]] = []
    for one in _listed(given):
        name, sign, price = one.rpartition("=") if isinstance(one, str) else (one, "", "")
        pairs.append((name, parse_number(price, f"price of {name}")) if sign else (one, None))
    if not pairs:
        raise ValueError("no device given; name at least one of 'remoe-sim list devices'")
    return pairs


def _listed(given: Any) -> list[Any]:
    if isinstance(given, str):
        return [one.strip() for one in given.split(",")]
    return list(given) if isinstance(given, Sequence) else [given]
