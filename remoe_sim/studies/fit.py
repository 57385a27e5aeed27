"""`fit`: how models run on machines, before there is a trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remoe_sim.devices.device import Device
from remoe_sim.devices.estimate import estimate, estimate_one
from remoe_sim.devices.estimate_result import Estimate
from remoe_sim.devices.expected import Expected, Kept, expected_of_slots, memory_of
from remoe_sim.devices.hybrid import Hybrid
from remoe_sim.devices.machine import machine
from remoe_sim.models.model import model as find_model
from remoe_sim.models.names import named
from remoe_sim.models.sizes import SizedModel
from remoe_sim.studies.fit_result import DEVICE, LAYERS, LINK, MAPPED, ON_CPU, STORAGE, FitReport, FitRow
from remoe_sim.util.cards import card_names
from remoe_sim.util.units import MOST_TOKENS, decimal, parse_bytes, parse_count, parse_ms, parse_number, several

ALL, AUTO = "all", "auto"
QUANTS, SMALLER = ("q8_0", "q6_k", "q5_k_m", "q4_k_m"), ("q3_k_m", "q2_k")  # tried by `auto`; if none of them fits
KEPT = "mxfp4_moe"  # for a model whose experts have the same bytes in each
CONTEXT = 4096
PROMPT = 512
STEPS = 32  # of a row; `estimate` takes more, which changes times by about a per cent


def fit(
    model: str | Path | SizedModel | list[Any],
    device: str | Path | Device | list[Any] = ALL,
    host: Any = None,
    storage: Any = None,
    engine: Any = None,
    memory: int | str | None = None,
    host_memory: int | str | None = None,
    context: int | str = CONTEXT,
    quant: str | list[str] = AUTO,
    min_tps: float | str | None = None,
    target_tpot: float | str | None = None,
    prompt: int | str = PROMPT,
) -> FitReport:
    """Return how models run on machines: each placement and quantisation that fits, the fastest first.

    model, quant, device: one or several, as a list or "a,b"; devices with prices as "a=700,b=1600"; `all` devices;
    `auto` tries q8_0 to q4_k_m, smaller ones only if none of these fits, and keeps experts that are published in four
    bits. host, storage, engine: as in
    `machine`. memory: bytes of the device for everything, host_memory: of the host, instead of what their cards say.
    context: tokens that the KV cache has room for and that attention reads. min_tps, target_tpot: the speed that is
    asked for, in tokens per second, or as time per token such as "100ms". prompt: tokens before the first one, for the
    time to it, which takes a prompt for one step of the same arithmetic and reads; it is not known where the CPU has
    experts, as nothing says how fast it reads prompts.

    Hit rates of caches are those of known LRU curves (`hit_rate_curve`), times as in `estimate`.

    Raises ValueError for arguments that are not possible.
    """
    if min_tps is not None and target_tpot is not None:
        raise ValueError("tokens per second and time per token are the same target; give one of them")
    target = None if target_tpot is None else parse_ms(target_tpot, "target TPOT")
    if min_tps is not None:
        rate = parse_number(min_tps, "tokens per second")
        if not rate:
            raise ValueError("0 tokens per second are reached by everything; give a number above 0")
        target = 1e3 / rate
    tokens = parse_count(context, "context", most=MOST_TOKENS)
    before = parse_count(prompt, "prompt", 1, MOST_TOKENS)
    device, prices = _priced(device)
    if prices and target is None:
        raise ValueError("prices tell the cheapest device that reaches a target; give it with --min-tps 10")
    own, beside = (None if one is None else parse_bytes(one) for one in (memory, host_memory))
    machines = [_with(one, own, beside) for one in _machines(device, host, storage, engine)]
    quants = several(quant) or [AUTO]
    rows: list[FitRow] = []
    for one in several(model):
        choices = _sized(one, QUANTS if quants == [AUTO] else tuple(quants))
        fewer = () if isinstance(one, SizedModel) or quants != [AUTO] or len(choices) == 1 else SMALLER
        smaller: list[SizedModel] = []
        for on in machines:
            found = [row for sized in choices for row in _placements(sized, on, tokens, target, before)]
            if fewer and not any(row.fits for row in found):
                smaller = smaller or _sized(one, fewer)
                found += [row for sized in smaller for row in _placements(sized, on, tokens, target, before)]
            rows += found
    rows = [replace(row, price=prices.get(row.device.name)) for row in rows]
    rows.sort(key=lambda row: (not row.fits, row.tpot_ms or 0.0, row.missing_bytes))
    if not rows:
        raise ValueError("no model or no device is given; name at least one of each")
    best = rows[0].run
    return FitReport(tuple(rows), target, () if best is None else best.notes)


def _sized(model: str | Path | SizedModel, quants: tuple[str, ...]) -> list[SizedModel]:
    if isinstance(model, SizedModel):
        return [model]
    if quants == QUANTS:
        said = None if Path(model).exists() else named(str(model))
        if (said is not None and said.quant is not None) or str(model).lower().endswith(".gguf"):
            return [find_model(model)]
    found = [find_model(model, quant) for quant in quants]
    if quants == QUANTS and len({one.routed_bytes for one in found}) == 1:
        return [find_model(model, KEPT)]
    return found


def _machines(device: Any, host: Any, storage: Any, engine: Any) -> Iterator[Device]:
    if device != ALL:
        yield from (machine(one, host, storage, engine) for one in several(device))
        return
    for name in card_names("device"):
        try:
            yield machine(name, None if machine(name).unified else host, storage, engine)
        except ValueError:  # the engine does not run there
            continue


def _priced(device: Any) -> tuple[Any, dict[str, float]]:
    """The devices, and the prices that were given by name: of all or of none."""
    names = device.split(",") if isinstance(device, str) else device if isinstance(device, list) else []
    pairs = [one.rpartition("=") for one in names if isinstance(one, str) and "=" in one]
    if not pairs:
        return device, {}
    if len(pairs) < len(names):
        raise ValueError("some devices have a price and some have none; give one to each, such as a=700,b=1600")
    found = {machine(name.strip()).name: parse_number(price, f"price of {name.strip()}") for name, _, price in pairs}
    return list(found), found


def _with(on: Device, memory: int | None, host_memory: int | None) -> Device:
    if memory is not None:
        on = replace(on, memory_bytes=memory, usable_bytes=memory)
    if host_memory is not None and on.host_card is not None:
        on = replace(on, host_card=replace(on.host_card, memory_bytes=host_memory, usable_bytes=None))
    return on


@dataclass(frozen=True)
class _Room:
    """What a machine has for a model. device: bytes for its experts, which may be below 0."""

    model: SizedModel
    on: Device
    context: int
    target: float | None
    prompt: int
    kept: Kept
    device: int
    host: int | None

    def row(self, placement: str, on_device: int, on_host: int, **more: Any) -> FitRow:
        """A row, and whether it fits."""
        short = []
        for name, need, has in ((self.on.name, on_device, self.device), ("its host", on_host, self.host)):
            if has is not None and need > has:
                short.append((need - has, f"{name} lacks {decimal((need - has) / 2**30)} GiB"))
        return FitRow(
            self.model, self.on, placement, self.context, self.kept, on_device, on_host, sum(size for size, _ in short),
            tuple(text for _, text in short), target_ms=self.target, **more,
        )  # fmt: skip

    def timed(self, row: FitRow, hit_rate: float, **more: Any) -> FitRow:
        """The row with its times, if it fits."""
        if not row.fits:
            return row
        first = self._first(hit_rate) if row.placement == DEVICE else None
        return replace(row, run=self._run(hit_rate, **more), first_ms=first, prompt=self.prompt)

    def mapped(self) -> FitRow:
        """A file that is mapped whole, of which the page cache holds what memory leaves."""
        row = self.row(MAPPED, max(self.device, 0), 0)
        made = estimate(self.model, self.on, residency="mapped", context=self.context)
        return replace(row, run=made[0], prompt=self.prompt)

    def _first(self, hit_rate: float, misses_from: str | None = None) -> float:
        """ms until the first token: the prompt as one step, each of its tokens reading half of it in its attention."""
        return self._run(hit_rate, misses_from, batch=self.prompt, context=self.prompt // 2).tpot_ms

    def cached(self, placement: str, misses_from: str, found: Expected | None, slots: int, on_host: int) -> FitRow:
        """A cache of so many slots per layer, whose hit rate a curve tells."""
        least = max(slots, self.model.top_k)
        row = self.row(placement, least * sum(self.model.expert_bytes), on_host, slots=least)
        if not row.fits or found is None:
            return row
        hits = found.hits
        run, all_hit = self._run(hits.rate, misses_from=misses_from), self._run(1.0, misses_from=misses_from)
        per_miss = max(0.0, run.tpot_ms - all_hit.tpot_ms) / max(1 - hits.rate, 1e-9)
        best, worst = (all_hit.tpot_ms + per_miss * (1 - rate) for rate in (hits.high, hits.low))
        first = None  # of a prompt nearly all experts are needed, of which the cache has its share
        if placement in (LINK, STORAGE):
            first = self._first(least / self.model.experts, misses_from)
        run = replace(run, expected=found, ends_ms=(best, worst))
        return replace(row, run=run, first_ms=first, prompt=self.prompt)

    def _run(
        self, hit_rate: float, misses_from: str | None = None, hybrid: Hybrid | None = None, batch: int = 1,
        context: int | None = None,
    ) -> Estimate:  # fmt: skip
        return estimate_one(
            self.model, self.on, overlap="layer", lanes=None, hit_rate=hit_rate, bytes_per_token=None, compute_ms=None,
            misses_from=misses_from, hybrid=hybrid, context=self.context if context is None else context, steps=STEPS,
            batch=batch,
        )  # fmt: skip


def _placements(model: SizedModel, on: Device, context: int, target: float | None, prompt: int) -> Iterator[FitRow]:
    """All on the device if that fits; else that row, and what the machine can do instead."""
    kept, sizes = Kept.of(model, context), model.expert_bytes
    host = None if on.host_card is None else memory_of(on.host_card)
    room = _Room(model, on, context, target, prompt, kept, (memory_of(on) or 0) - kept.total, host)
    whole = room.row(DEVICE, model.routed_bytes, 0, share=1.0)
    yield room.timed(whole, 1.0)
    if whole.fits:
        return
    left = max(room.device, 0)
    slots = min(left // sum(sizes), model.experts - 1)
    found = expected_of_slots(model, slots) if slots >= model.top_k and room.device > 0 else None
    by_cpu = on.host_bandwidth_bytes_per_s is not None and not on.unified
    if by_cpu:
        there, last = len(sizes), 0  # the device has the experts of layers from there on
        while there > 0 and last + sizes[there - 1] * model.experts <= left:
            there -= 1
            last += sizes[there] * model.experts
        first = model.moe_layers[there - 1] + 1 if there else 0
        row = room.row(LAYERS, last, model.routed_bytes - last, cpu_moe_layers=first, share=1 - there / len(sizes))
        yield room.timed(row, 0.0, hybrid=Hybrid(cpu_moe_layers=first))
        yield room.cached(ON_CPU, "cpu", found, slots, model.routed_bytes)
    linked = on.host is not None
    if linked:
        yield room.cached(LINK, "host", found, slots, model.routed_bytes)
    too_many = host is not None and model.routed_bytes > host
    if on.storage is not None and (too_many or not (by_cpu or linked)):
        yield room.cached(STORAGE, "storage", found, slots, 0)
        if on.unified:
            yield room.mapped()
