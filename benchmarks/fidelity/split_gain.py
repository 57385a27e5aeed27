"""What the best division of a cache among layers gains on real traces.

    python -m benchmarks.fidelity.split_gain [--traces ../shared/traces] [--output split_gain.json]

Decode tokens only, cold start, mandatory admission; caches of 10, 20 and 40 % of the bytes of all experts.
`saved_share` is the part of the equal division's misses that the best division avoids; `shared` is one cache of all
layers. A division is fitted to the trace on which it is measured; where a trace has several requests, `held_out`
divides by the curves of its first half of requests and counts the misses of the second half, beside the equal
division's there.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import remoe_sim
from benchmarks.script import NO_TRACES, TRACES, options, show
from tests.support.data import DEMO

SHARES = (10, 20, 40)  # per cent of the bytes of all experts
POLICIES = ("lru", "belady")
GPT_OSS_EXPERT_BYTES = 13219200  # as in the capture of gpt-oss-120b: experts of both models have the same shape


def traces(folder: Path) -> dict[str, remoe_sim.Trace]:
    """The real traces that are there, by name."""
    found = {}
    for name in ("qwen", "gptoss"):
        path = folder / "bigmoe" / f"{name}.route.csv"
        if path.exists():
            found[f"bigmoe/{name}"] = remoe_sim.import_trace(path)
    path = folder / "gpt-oss-20b" / "gptoss20b_decode_subset.npz"
    if path.exists():
        found["gpt-oss-20b"] = remoe_sim.import_trace(path, experts=32, expert_bytes=GPT_OSS_EXPERT_BYTES)
    return found


def halves(trace: remoe_sim.Trace) -> list[remoe_sim.Trace] | None:
    """The first and the second half of the requests; None where there is one request."""
    requests = np.unique(trace.request)
    if requests.size < 2:
        return None
    early = np.isin(trace.request, requests[: requests.size // 2])
    parts = []
    for rows in (np.flatnonzero(early), np.flatnonzero(~early)):
        layers = [trace.decisions(index).take(rows) for index in range(trace.moe_layers)]
        columns = {name: getattr(trace, name)[rows] for name in ("request", "position", "step", "phase")}
        parts.append(replace(trace, **columns, token_id=None, source=remoe_sim.InMemory(layers)))
    return parts


def gain(trace: remoe_sim.Trace) -> list[dict[str, object]]:
    """One row per policy and size of the cache."""
    sizes = trace.model.expert_bytes
    total = sum(experts * size for experts, size in zip(trace.model.experts, sizes, strict=True))
    parts, rows = halves(trace), []
    remoe_sim.split(trace, budget=total // 10, policy=POLICIES, phase="decode")  # kernels are compiled, pages are there
    for share in SHARES:
        budget = total * share // 100
        start = time.perf_counter()
        report = remoe_sim.split(trace, budget=budget, policy=POLICIES, phase="decode")
        seconds = time.perf_counter() - start
        fitted = remoe_sim.split(parts[0], budget=budget, policy=POLICIES, phase="decode") if parts else ()
        for result in report:
            equal, row = result.equal.misses, {"policy": result.policy, "percent_of_expert_bytes": share}
            row |= {"budget_bytes": budget, "lookups": result.best.lookups}
            row |= {name: getattr(result, name).misses for name in ("equal", "greedy", "best", "shared")}
            row["saved_share"] = round(result.misses_saved / equal, 4)
            row["greedy_saved_share"] = round((equal - result.greedy.misses) / equal, 4)
            row["shared_saved_share"] = round((equal - result.shared.misses) / equal, 4)
            row["bytes_saved_share"] = round(result.bytes_saved / result.equal.bytes_read, 4)
            row["held_out"] = held_out(parts[1], fitted[result.policy]) if parts else None
            rows.append({**row, "seconds_of_both_policies": round(seconds, 2)})
    return rows


def held_out(trace: remoe_sim.Trace, fitted: object) -> dict[str, object]:
    """Misses on another trace of the division that was fitted, and of the equal one."""
    frame = remoe_sim.curve(trace, policy=fitted.policy, phase="decode")
    frame = frame[frame["layer"] != "all"].set_index(["layer", "capacity"])
    lookups = frame["lookups"].groupby("layer").first().sum()

    def misses(division: object) -> int:
        pairs = zip(trace.layer_numbers, division.experts, strict=True)
        return int(lookups - sum(frame["hits"][layer, n] for layer, n in pairs if n))

    equal, best = misses(fitted.equal), misses(fitted.best)
    return {"equal": equal, "best": best, "saved_share": round((equal - best) / equal, 4)}


def main() -> None:
    parser = options(__doc__, quick={"traces": NO_TRACES})
    parser.add_argument("--traces", type=Path, default=TRACES)
    given = parser.parse_args()
    chosen = {"demo": remoe_sim.read_trace(DEMO)} if given.quick else traces(given.traces)
    if not chosen:
        sys.exit(f"there are no traces in '{given.traces}'; name their folder with --traces")
    found = {name: gain(trace) for name, trace in chosen.items()}
    show({"settings": "decode, cold, mandatory admission, set order", "traces": found}, given.output)


if __name__ == "__main__":
    main()
