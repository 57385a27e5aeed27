"""The paper's Jetson rows by a mechanism: a mapped file that does not fit, under a pair that was really tuned.

    python -m benchmarks.paper.jetson_mapped [--requests 16] [-o FOLDER]

The bundled DeepSeek-like pair is replayed in its own shape (4 MoE layers, 32 experts, top-4) from one page cache. Its
weights stand for those of DeepSeek-V2-Lite: each expert and each layer's dense weights take their share of the large
model's bytes, so the file has its size and the dense weights their part. Computing is DeepSeek-V2-Lite's own, modelled.
The rate of the storage is fitted to the original's published time alone, data set by data set; ReMoE's time follows.
How much memory was left is not published: rows are what the cards leave, and shares of the experts between.
Writes jetson_mapped.json and jetson_mapped.md, and prints the table.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import remoe_sim
from benchmarks.paper.drawing import OUTPUT
from benchmarks.paper.published import JETSON_TPOT_MS, MODEL, change
from benchmarks.script import keep, options
from remoe_sim import SizedModel, Trace
from remoe_sim.trace.trace import InMemory

DEVICES = ("jetson-orin-nx-8gb", "jetson-orin-nx-16gb")
QUANTS, RULES = ("q8_0", "q4_k_m"), ("lru", "two-list")
SHARES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # of the experts that stay in memory
PAIR = {"original": "sample:deepseek-original", "remoe": "sample:deepseek-remoe"}


def pair(requests: int) -> dict[str, Trace]:
    """The first requests of both."""
    return {side: _first(remoe_sim.read_trace(name), requests) for side, name in PAIR.items()}


def _first(trace: Trace, requests: int) -> Trace:
    rows = np.flatnonzero(trace.request < requests)
    layers = InMemory([trace.decisions(at).take(rows) for at in range(trace.moe_layers)])
    columns = {name: getattr(trace, name)[rows] for name in ("request", "position", "step", "phase")}
    return replace(trace, **columns, source=layers, token_id=None)


def stand_in(quant: str, like: Trace) -> SizedModel:
    """The large model's bytes in the shape of the pair."""
    large = remoe_sim.model(MODEL, quant)
    moe, experts = like.moe_layers, max(like.model.experts)
    layers = moe + 1

    size = large.routed_bytes // (moe * experts)

    def even(whole: float) -> tuple[int, ...]:
        return (int(whole) // layers,) * layers

    return replace(
        large, name=f"{MODEL}-as-{moe}x{experts}", layers=layers, moe_layers=tuple(range(1, layers)), experts=experts,
        top_k=max(like.model.top_k), expert_bytes=(size,) * moe, expert_tensor_bytes=((size // 3,) * 3,) * moe,
        shared_expert_bytes=(0,) * moe, dense_bytes=even(sum(large.dense_bytes)),
        resident_bytes=even(sum(large.resident_bytes)),
        kv_bytes_per_token=tuple(float(one) for one in even(sum(one or 0 for one in large.kv_bytes_per_token))),
        kv_window_tokens=(None,) * layers, state_bytes=even(sum(large.state_bytes)),
        dense_flops=tuple(map(float, even(sum(large.dense_flops)))),
    )  # fmt: skip


def faults(trace: Trace, model: SizedModel, device: str, rule: str, memory: int | None) -> tuple[float, int]:
    """Bytes that fault per decode token, and the page cache that was there."""
    found = remoe_sim.replay(
        trace, 0, policy="lru", device=device, model=model, quant=model.quant, residency="mapped", page_rule=rule,
        page_memory=memory,
    )["lru"]  # fmt: skip
    assert found.timed is not None
    pages = found.timed.to_dict()["pages"]
    return pages["bytes_per_token"], pages["memory_bytes"]


def row(traces: dict[str, Trace], quant: str, rule: str, device: str, share: float | None) -> dict[str, Any]:
    """Faults of both, and per data set the rate that gives the original's time and the change that follows."""
    model = stand_in(quant, traces["original"])
    always = sum(model.dense_bytes) + model.head_bytes
    memory = None if share is None else int(always + share * model.routed_bytes)
    (before, held), (after, _) = (faults(traces[side], model, device, rule, memory) for side in PAIR)
    computing = remoe_sim.estimate(MODEL, device, quant, hit_rate=1)[0].tpot_ms
    answers = {}
    for name, published in JETSON_TPOT_MS.items():
        waiting = published["original"] - computing
        if before:
            predicted = computing + after / before * waiting
            answers[name] = {
                "fitted_bytes_per_s": before / waiting * 1e3, "remoe_ms": predicted,
                "change": predicted / published["original"] - 1,
            }  # fmt: skip
    return {
        "device": device, "from_card": share is None, "quant": quant, "page_rule": rule, "page_bytes": held,
        "share": min(1.0, max(0.0, (held - always) / model.routed_bytes)), "computing_ms": computing,
        "read": {"original": before, "remoe": after}, "change_of_read": after / before - 1 if before else None,
        "data_sets": answers,
    }  # fmt: skip


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"| memory | weights | pages | experts that fit | faults | storage, GB/s | {' | '.join(JETSON_TPOT_MS)} |",
        "|---" * (6 + len(JETSON_TPOT_MS)) + "|",
        f"| published | | | | | | {' | '.join(_percent(change(pair)) for pair in JETSON_TPOT_MS.values())} |",
    ]
    for one in rows:
        place = one["device"].removeprefix("jetson-") if one["from_card"] else "a share"
        cells = [place, one["quant"], one["page_rule"], f"{100 * one['share']:.0f} %"]
        answers = one["data_sets"].values()
        if answers:
            rates = [each["fitted_bytes_per_s"] / 1e9 for each in answers]
            cells += [_percent(one["change_of_read"]), f"{min(rates):.2f} to {max(rates):.2f}"]
            cells += [_percent(each["change"]) for each in answers]
        else:
            cells += ["none", "", *("" for _ in JETSON_TPOT_MS)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:+.1f} %".replace("-", "−")


def main() -> None:
    quick = {"output": OUTPUT / "quick", "requests": 1, "shares": (0.75,)}
    parser = options(__doc__, quick=quick, output=None)
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, help="folder")
    parser.add_argument("--requests", type=int, default=16, help="of each trace of 200 (16)")
    parser.set_defaults(shares=SHARES)
    given = parser.parse_args()
    traces = pair(given.requests)
    rows = [
        row(traces, quant, rule, device, share)
        for quant in QUANTS
        for rule in RULES
        for device, share in [*((name, None) for name in DEVICES), *((DEVICES[1], share) for share in given.shares)]
    ]
    given.output.mkdir(parents=True, exist_ok=True)
    keep({"requests": given.requests, "rows": rows}, given.output / "jetson_mapped.json")
    (given.output / "jetson_mapped.md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
