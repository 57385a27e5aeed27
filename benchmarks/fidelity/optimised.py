"""What `optimize` chooses on half of the requests, and what it saves of LRU's misses on the other half.

    python -m benchmarks.fidelity.optimised [--traces ../shared/traces] [--output optimised.json]

Decode tokens, cold start, caches of 10, 20 and 40 % of the bytes of all experts, of real traces where they are there
and of the bundled pairs. A trace of one request is cut by its steps, which gives no interval.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import remoe_sim
from benchmarks.fidelity.split_gain import SHARES, traces
from benchmarks.script import NO_TRACES, TRACES, keep, options, show

SAMPLES = ("qwen-original", "qwen-remoe", "deepseek-original", "deepseek-remoe")


def row(trace: remoe_sim.Trace, share: int, policy: str | None) -> dict[str, Any]:
    """One cache of one trace."""
    sizes = trace.model.expert_bytes
    total = sum(experts * size for experts, size in zip(trace.model.experts, sizes, strict=True))
    start = time.perf_counter()
    report = remoe_sim.optimize(trace, budget=total * share // 100, policy=policy, phase="decode")
    said = {one.name.replace(" ", "_"): one.to_dict() for one in report.judged}
    return {
        "percent_of_expert_bytes": share,
        "judged_requests": report.judged_requests,
        "lookups": said["lru"]["of"],
        **{f"{name}_misses": one["total"] for name, one in said.items()},
        "saved_percent": 100 * said["choice"]["saved"],
        "best_plain_saved_percent": 100 * said["best_plain"]["saved"],
        "belady_saved_percent": 100 * said["belady"]["saved"],
        "interval_percent": said["choice"]["interval"] and [100 * end for end in said["choice"]["interval"]],
        "worse_than_best_plain": said["best_plain"]["choice_is_worse"],
        "worse_than_lru": said["lru"]["choice_is_worse"],
        "choice": report.choice,
        "best_plain": said["best_plain"]["settings"]["policy"],
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Print the answer."""
    parser = options(__doc__, {"traces": NO_TRACES, "quick_policy": "lru,lfu"})
    parser.add_argument("--traces", type=Path, default=TRACES)
    parser.set_defaults(quick_policy=None)
    args = parser.parse_args()
    found = traces(args.traces) | {f"sample:{name}": remoe_sim.read_trace(f"sample:{name}") for name in SAMPLES}
    if args.quick:
        found = {"sample:qwen-original": found["sample:qwen-original"].select(requests=range(8))}
    answer: dict[str, Any] = {"traces": {}}
    for name, trace in found.items():
        rows = answer["traces"][name] = []
        for share in SHARES[:1] if args.quick else SHARES:
            rows.append(row(trace, share, args.quick_policy))
            print(name, share, rows[-1]["saved_percent"], rows[-1]["seconds"], file=sys.stderr, flush=True)
            if args.output:
                keep(answer, args.output)
    every = [one for rows in answer["traces"].values() for one in rows]
    answer["caches"] = len(every)
    for name in ("best_plain", "lru"):
        answer[f"worse_than_{name}"] = sum(one[f"worse_than_{name}"] for one in every)
    answer["significantly_better_than_lru"] = sum(
        one["interval_percent"] is not None and one["interval_percent"][0] > 0 for one in every
    )
    show(answer, args.output)


if __name__ == "__main__":
    main()
