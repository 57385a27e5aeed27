"""The library's side: a model card of what the engine computes, misses by replay, times by the timeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

import remoe_sim
from remoe_sim.devices.costs import costs_of
from remoe_sim.devices.device import Device
from remoe_sim.devices.run import Timed
from remoe_sim.devices.steps import Reads, Steps
from remoe_sim.devices.timeline import run
from remoe_sim.models.sizes import SizedModel
from remoe_sim.trace import DECODE
from remoe_sim.util.cards import Fact

QUANT = {"int8": "int8", "float32": "fp32"}
CARD = """title = "Emulator"
status = "verified"
source = "benchmarks/emulator writes it and computes it"

[shape]
layers = {layers}
hidden_size = {hidden}
vocabulary = 1024
experts = {experts}
top_k = {top_k}
expert_intermediate = {width}

[[attention]]
kind = "gqa"
heads = {heads}
kv_heads = {heads}
head_dim = 64
"""


def emulated_model(folder: Path, trace: remoe_sim.Trace, hidden: int, width: int, weights: str) -> SizedModel:
    """The sizes of a model with the trace's layers and experts, through a card as any user would write it."""
    path = folder / "emulated.toml"
    numbers = {"layers": trace.moe_layers, "experts": trace.model.experts[0], "top_k": trace.model.top_k[0]}
    path.write_text(CARD.format(hidden=hidden, width=width, heads=hidden // 64, **numbers))
    try:
        return remoe_sim.model(path, quant=QUANT[weights])
    finally:
        path.unlink()


def decode_steps(trace: remoe_sim.Trace, tokens: int) -> remoe_sim.Trace:
    """The first decode tokens of a trace, each a step of its own."""
    rows = np.flatnonzero(trace.phase == DECODE)[:tokens]
    layers = [trace.decisions(index).take(rows) for index in range(trace.moe_layers)]
    columns = {name: getattr(trace, name)[rows] for name in ("request", "position", "step", "phase")}
    return replace(trace, **columns, token_id=None, source=remoe_sim.InMemory(layers))


def predict(
    trace: remoe_sim.Trace, model: SizedModel, device: Device, lanes: int, capacity: int, policy: str, overlap: str
) -> Timed:
    """Misses and times of a configuration, as any user gets them; the engine keeps no context."""
    report = remoe_sim.replay(
        trace.with_sizes(list(model.expert_bytes)), cache=capacity, policy=policy, device=device, model=model,
        overlap=overlap, lanes=lanes, context=0, misses_from="storage",
    )  # fmt: skip
    timed = report[policy].timed
    assert timed is not None
    return timed


def with_link(device: Device, latency_s: float, read_s: float, read_bytes: int, aligned: bool) -> Device:
    """The card with the link that the engine's own readers saw."""
    how = "reads by the engine's threads between the runs"
    rate = read_bytes / read_s
    numbers = {
        "storage.latency_s": latency_s, "storage.overhead_s": 0.0, "storage.bandwidth_bytes_per_s": rate,
        "storage.lane_bandwidth_bytes_per_s": rate,
    }  # fmt: skip
    found = {name: Fact(value, "measured", how) for name, value in numbers.items()}
    return with_alignment(device, aligned).changed(found)


def with_alignment(device: Device, aligned: bool) -> Device:
    """Aligned tensors fill whole blocks; others take a block more."""
    how = "how the files were written"
    return device.changed({"storage.block_bytes": Fact(1 if aligned else 4096, "derived", how)})


def with_fixed_times(device: Device, seconds: Mapping[str, float]) -> Device:
    """The card with layer_s, expert_s and step_s of the engine."""
    how = "the engine on matrices of next to no size"
    return device.changed({name: Fact(value, "measured", how) for name, value in seconds.items()})


def with_resident_speed(device: Device, model: SizedModel, resident_s: float) -> Device:
    """The card with the efficiency at which a token that misses nothing takes `resident_s`, as the engine's do."""
    costs = costs_of(model, device, misses_from="storage")
    ones, none = np.ones(1, np.int64), np.zeros((1, len(model.moe_layers)), np.uint16)
    parts = run(costs, Steps(ones, ones * 0, ones, none + np.uint16(model.top_k)), Reads.of(costs, none)).parts_ms
    assert parts is not None
    computing = (parts["dense"] + parts["experts"]) / 1e3 * device.efficiency
    efficiency = min(1.0, computing / max(resident_s - parts["fixed"] / 1e3, 1e-9))
    how = "the parts of the engine between the runs, reads left out"
    return device.changed({"efficiency": Fact(efficiency, "measured", how)})
