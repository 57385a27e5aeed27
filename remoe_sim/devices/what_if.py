"""What bounds a token, and what each change of the machine would buy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from remoe_sim.devices.hybrid import AUTO
from remoe_sim.util.units import MOST_TOKENS

if TYPE_CHECKING:
    from remoe_sim.devices.costs import Costs
    from remoe_sim.devices.device import Device
    from remoe_sim.devices.link import Link

TERMS = ("link", "cpu", "storage", "handover", "memory_bandwidth", "fixed", "arithmetic")
LADDER = ("bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m")  # of quantisations, one step after another
FORESEEN = "all misses are foreseen one layer ahead"
TWICE = ("link", "storage", "host")  # what may be twice as fast


@dataclass(frozen=True)
class Change:
    """What one change buys: the mean time per token with it, the change of that time in per cent, tokens per second,
    and how the change was modelled, where that is not plain."""

    change: str
    tpot_ms: float
    change_percent: float
    tokens_per_second: float
    note: str | None = None

    @classmethod
    def of(cls, change: str, before_ms: float, tpot_ms: float, batch: float = 1, note: str | None = None) -> Change:
        """The change from one time to another."""
        percent = 100 * (tpot_ms / before_ms - 1) if before_ms else 0.0
        return cls(change, tpot_ms, percent, batch * 1e3 / tpot_ms if tpot_ms else 0.0, note)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def limited_by(costs: Costs, tpot: Callable[[Costs], float], waits_ms: float = 0.0) -> tuple[str, dict[str, float]]:
    """The term without which a token would take least, and the ms that each saves if it alone took no time.

    tpot: ms with other costs; waits_ms: for storage, which they do not say
    """
    whole = tpot(costs)
    saved = {term: max(whole - tpot(without(costs, term)), 0.0) for term in TERMS}
    saved["storage"] += waits_ms
    return max(saved, key=lambda term: saved[term]), saved


def changes(
    again: Callable[..., Any], before_ms: float, batch: int, costs: Costs, device: Device, overlap: str, quant: str,
    misses: bool,
) -> Iterator[Change]:  # fmt: skip
    """What each change of an estimate buys. again: the estimate with something changed; the others say what it was."""

    def change(name: str, note: str | None = None, batch: int = batch, **changed: Any) -> Change:
        return Change.of(name, before_ms, again(batch=batch, **changed).tpot_ms, batch, note)

    if misses:
        for part in parts_in_use(costs):
            yield change(f"{part} twice as fast", device=faster(device, part))
        if can_prefetch(costs, overlap):
            yield change("perfect prefetch", FORESEEN, ahead="prefetch", cpu_share=None)
        if can_share(device, costs, overlap):
            yield change("CPU share auto", cpu_share=AUTO)
    if 2 * batch <= MOST_TOKENS:
        note = "experts of the tokens are drawn evenly, hit rate as before; a step serves all of them"
        yield change(f"batch {2 * batch}", note, 2 * batch)
    smaller = step_down(quant)
    if smaller is not None:
        with suppress(ValueError):  # sizes of a file or of one's own have no other quantisation
            yield change(f"quantisation {smaller}", "hit rate as before", quant=smaller)


def without(costs: Costs, term: str) -> Costs:
    """The costs if a term took no time."""
    layers, experts = costs.layer_costs.copy(), costs.expert_costs.copy()
    head, link = costs.head_costs.copy(), costs.link.copy()
    if term in ("link", "storage"):
        row = 1 if term == "link" else 0
        link[row] = 0.0
        if (costs.misses_from == "storage") == (row == 0):
            experts[:, 2] = 0.0  # computing that reads slow down
        if row == 0:
            experts[:, 3] -= costs.cpu_reads
    elif term == "cpu":
        experts[:, 3] = costs.cpu_reads
    elif term == "handover":
        experts[:, 5:] = 0.0
    else:
        of_layer, of_head, of_expert = {
            "memory_bandwidth": ([0, 1], 0, 0), "arithmetic": ([2], 1, 1), "fixed": ([3], 2, 4),
        }[term]  # fmt: skip
        layers[:, of_layer], head[of_head], experts[:, of_expert] = 0.0, 0.0, 0.0
    reads = costs.cpu_reads * 0 if term == "storage" else costs.cpu_reads
    return replace(costs, layer_costs=layers, head_costs=head, expert_costs=experts, link=link, cpu_reads=reads)


def faster(device: Device, part: str, factor: float = 2.0) -> Device:
    """A device on whose link, storage or host everything takes a part of the time in bytes: rates are so many times as
    high, latencies stay."""
    if part == "link":
        return replace(device, host=_faster(device.host, factor))
    if part == "storage":
        card = device.storage_card
        link = _faster(device.storage, factor)
        return replace(
            device, storage=link, storage_card=card if card is None or link is None else replace(card, link=link)
        )
    read, host = device.host_bandwidth_bytes_per_s, device.host_card
    if host is not None:
        rates = {family: rate * factor for family, rate in host.matvec_bytes_per_s.items()}
        host = replace(host, bandwidth_bytes_per_s=host.bandwidth_bytes_per_s * factor, matvec_bytes_per_s=rates)
    return replace(device, host_bandwidth_bytes_per_s=None if read is None else read * factor, host_card=host)


def _faster(link: Link | None, factor: float) -> Link | None:
    if link is None:
        return None
    lane = link.lane_bandwidth_bytes_per_s
    return replace(
        link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * factor,
        lane_bandwidth_bytes_per_s=None if lane is None else lane * factor,
    )  # fmt: skip


def parts_in_use(costs: Costs) -> list[str]:
    """Those of TWICE on which times depend."""
    cpu, lanes = costs.cpu_share != 0, costs.lanes
    used = {"link": bool(lanes[1]), "storage": bool(lanes[0]) or bool(costs.cpu_reads.any()), "host": cpu}
    return [part for part in TWICE if used[part]]


def can_prefetch(costs: Costs, overlap: str) -> bool:
    """Whether all misses could be read ahead, which they are not."""
    return overlap != "prefetch" and costs.misses_from != "cpu"


def can_share(device: Device, costs: Costs, overlap: str) -> bool:
    """Whether the CPU could compute the share that finishes first, which it does not."""
    both = device.host is not None and device.host_bandwidth_bytes_per_s is not None
    return both and overlap != "prefetch" and costs.misses_from != "storage" and costs.cpu_share != AUTO


def step_down(quant: str) -> str | None:
    """The next smaller quantisation of LADDER; None where there is none."""
    name = {"fp16": "bf16", "f16": "bf16"}.get(quant.lower(), quant.lower())
    place = LADDER.index(name) + 1 if name in LADDER else len(LADDER)
    return LADDER[place] if place < len(LADDER) else None
