"""A small engine that really reads experts and multiplies them, and the time per token that is predicted for it.

    python -m benchmarks.emulator.run [--scratch FOLDER] [--quick] [--output emulator.json]

What is measured and what is predicted from what: README.md beside this file.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one core computes, so that readers find one; before numpy

import numpy as np

import remoe_sim
from benchmarks.emulator.engine import Engine, Run
from benchmarks.emulator.files import Readers, Slot, Tensors, expert_files
from benchmarks.emulator.predicting import (
    decode_steps,
    emulated_model,
    predict,
    with_alignment,
    with_fixed_times,
    with_link,
    with_resident_speed,
)
from benchmarks.emulator.probes import Parts, fixed_times, probe, typical
from benchmarks.script import keep, options
from remoe_sim.devices.device import Device
from tests.support.data import DEMO

POLICIES, OVERLAPS = ("lru", "lfu"), ("none", "layer")


@dataclass(frozen=True)
class Block:
    """Configurations that share files: the shape of an expert, how it is stored, and how many threads read."""

    weights: str
    hidden: int
    width: int
    aligned: bool
    lanes: int

    @property
    def tensors(self) -> Tensors:
        return Tensors(self.hidden, self.width, self.weights, self.aligned)


@dataclass(frozen=True)
class Plan:
    """How much is measured. rounds: how often every configuration runs; probes: tokens' worth of parts measured
    before each run."""

    blocks: tuple[Block, ...]
    capacities: tuple[int, ...]
    tokens: int
    rounds: int
    probes: int
    quick: bool


FULL = Plan(
    (
        Block("int8", 512, 512, True, 4),
        Block("int8", 1024, 512, False, 2),
        Block("float32", 512, 512, True, 1),
        Block("int8", 1024, 1024, False, 4),
    ),
    (4, 12), 12, 5, 2, False,
)  # fmt: skip
QUICK = Plan((Block("int8", 64, 64, True, 2), Block("float32", 64, 64, False, 1)), (2, 8), 6, 1, 2, True)


@dataclass
class Configuration:
    policy: str
    capacity: int
    overlap: str
    runs: list[Run]


def run_block(block: Block, plan: Plan, trace: remoe_sim.Trace, card: Device, folder: Path) -> Iterator[dict[str, Any]]:
    """A row per configuration; `card` has the engine's fixed times."""
    model = emulated_model(folder, trace, block.hidden, block.width, block.weights)
    tensors, experts, layers = block.tensors, trace.model.experts[0], trace.moe_layers
    assert set(model.expert_tensor_bytes) == {(tensors.bytes,) * 3}
    groups = np.stack([trace.decisions(index).experts for index in range(layers)], axis=1)
    wanted = [Configuration(p, c, o, []) for c in plan.capacities for p in POLICIES for o in OVERLAPS]
    with ExitStack() as stack:
        say(f"{block}: writing {layers * experts * 3 * tensors.bytes / 2**20:.0f} MiB")
        files = stack.enter_context(expert_files(folder, tensors, layers, experts))
        slots = [Slot(n, tensors) for n in range(layers * max(*plan.capacities, model.top_k) + model.top_k)]
        readers = Readers(files, tensors, block.lanes)
        stack.callback(readers.close)
        engine, parts = Engine(model, readers, slots, block.weights), Parts()
        for number in range(plan.rounds):
            say(f"  round {number + 1} of {plan.rounds}")
            for one in random.Random(number).sample(wanted, len(wanted)):
                for _ in range(plan.probes):
                    probe(engine, slots, experts, model.top_k, parts)
                one.runs.append(engine.run(groups, one.capacity, one.policy, one.overlap))
    latency_s, read_s = parts.link(3, block.lanes)
    blind = with_alignment(card, block.aligned)
    device = with_link(card, latency_s, read_s, tensors.read_bytes, block.aligned)
    device = with_resident_speed(device, model, parts.resident_s(layers))
    for one in wanted:
        how = (block.lanes, one.capacity, one.policy, one.overlap)
        timed, card_only = (predict(trace, model, which, *how) for which in (device, blind))
        missed, read_bytes = timed.reads.far, timed.costs.read_bytes(timed.reads.far, timed.reads.near)
        for run in one.runs:
            if not np.array_equal(run.missed, missed) or run.bytes_read != read_bytes:
                raise SystemExit(f"{block}, {how}: the engine read other experts than the replay says; report this")
        measured = float(typical([run.seconds for run in one.runs]).sum(axis=1).mean())
        predicted, blindly = (float(of.times.seconds.mean()) for of in (timed, card_only))
        means = [float(run.seconds.sum(axis=1).mean()) for run in one.runs]
        yield {
            "weights": block.weights, "tensor_bytes": tensors.bytes, "aligned": block.aligned, "lanes": block.lanes,
            "policy": one.policy, "capacity": one.capacity, "overlap": one.overlap,
            "misses": int(missed.sum()), "bytes_read": int(read_bytes),
            "predicted_ms": predicted * 1e3, "measured_ms": measured * 1e3, "error": predicted / measured - 1,
            "mean_ms": statistics.fmean(means) * 1e3, "mean_error": predicted / statistics.fmean(means) - 1,
            "rounds_ms": [mean * 1e3 for mean in means], "spread": (max(means) - min(means)) / measured,
            "parts_ms": timed.times.parts_ms, "resident_ms": parts.resident_s(layers) * 1e3,
            "link_bytes_per_s": tensors.read_bytes / read_s, "latency_s": latency_s, "efficiency": device.efficiency,
            "card_only_ms": blindly * 1e3, "card_only_error": blindly / measured - 1,
        }  # fmt: skip


def engine_fixed_times(trace: remoe_sim.Trace, folder: Path) -> dict[str, float]:
    """Of an engine whose experts and dense parts have next to no size."""
    tensors, layers, top_k = Tensors(64, 64, "int8", True), trace.moe_layers, trace.model.top_k[0]
    model = emulated_model(folder, trace, 64, 64, "int8")
    with expert_files(folder, tensors, layers, top_k) as files:
        readers = Readers(files, tensors, 1)
        try:
            slots = [Slot(n, tensors) for n in range(layers * top_k + top_k)]
            return dict(fixed_times(Engine(model, readers, slots, "int8"), layers, top_k, 60))
        finally:
            readers.close()


def summary(rows: list[dict[str, Any]], key: str = "error") -> dict[str, float]:
    """Of the absolute errors, as shares."""
    errors = [abs(row[key]) for row in rows]
    return {
        "configurations": len(errors), "median": statistics.median(errors), "p90": float(np.percentile(errors, 90)),
        "largest": max(errors), "mean_signed": statistics.fmean(row[key] for row in rows),
    }  # fmt: skip


def emulate(plan: Plan, scratch: Path) -> dict[str, Any]:
    """Measure the machine, then run and predict every configuration."""
    trace = decode_steps(remoe_sim.read_trace(DEMO), plan.tokens)
    size = "32MiB" if plan.quick else "1GiB"
    with tempfile.TemporaryDirectory(prefix=".emulator-", dir=scratch) as name:
        folder = Path(name)
        measured = remoe_sim.measure(folder, scratch_bytes=size, quick=plan.quick, progress=say)
        fixed = engine_fixed_times(trace, folder)
        card = with_fixed_times(measured.device, fixed)
        rows: list[dict[str, Any]] = []
        for block in plan.blocks:
            rows += run_block(block, plan, trace, card, folder)
    by = {overlap: summary([row for row in rows if row["overlap"] == overlap]) for overlap in OVERLAPS}
    return {
        "schema": "remoe-sim.emulator.v1", "trace": DEMO, "tokens": plan.tokens, "rounds": plan.rounds,
        "quick": plan.quick, "card": measured.device.to_dict(), "fixed_s": fixed, "summary": summary(rows),
        "by_overlap": by, "against_plain_means": summary(rows, "mean_error"),
        "card_only": summary(rows, "card_only_error"), "rows": rows,
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    lines = ["weights   tensor  lanes  policy  cache  overlap  misses  predicted  measured  spread   error"]
    for row in found["rows"]:
        tensor = f"{row['tensor_bytes'] // 1024}{'' if row['aligned'] else '+4'} KiB"
        lines.append(
            f"{row['weights']:8}{tensor:>10}{row['lanes']:5}    {row['policy']:6}{row['capacity']:5}  "
            f"{row['overlap']:7}{row['misses']:8}{row['predicted_ms']:8.2f} ms{row['measured_ms']:7.2f} ms"
            f"{100 * row['spread']:6.0f} %{100 * row['error']:+6.1f} %"
        )
    summaries = {
        "all": found["summary"], **found["by_overlap"], "against plain means": found["against_plain_means"],
        "card only": found["card_only"],
    }  # fmt: skip
    for name, one in summaries.items():
        lines.append(
            f"{name}: |error| median {100 * one['median']:.1f} %, p90 {100 * one['p90']:.1f} %, largest "
            f"{100 * one['largest']:.1f} %, over {one['configurations']} configurations"
        )
    return "\n".join(lines)


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def main() -> None:
    parser = options(__doc__, quick={}, output="write the JSON there")
    parser.add_argument("--scratch", type=Path, default=Path("."), metavar="FOLDER", help="on the drive to read from")
    given = parser.parse_args()
    if not hasattr(os, "O_DIRECT"):
        sys.exit("this system has no direct reads (O_DIRECT); run it on Linux")
    try:
        found = emulate(QUICK if given.quick else FULL, given.scratch)
    except OSError as error:
        sys.exit(
            f"'{given.scratch}' refuses direct reads or is full ({error.strerror or error}); give another --scratch"
        )
    print(table(found))
    if given.output:
        keep(found, given.output)


if __name__ == "__main__":
    main()
