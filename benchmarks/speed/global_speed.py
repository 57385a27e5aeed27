"""Lookups per second with one cache of all layers: LRU at every byte budget in one pass, Belady at one budget.

    python -m benchmarks.speed.global_speed [--tokens 2000] [--runs 5] [--output FILE]

60 layers of 384 experts, top-8: 23,040 entries of three sizes by layer (unequal, so that nothing of equal sizes helps).
Timed is what a policy does with the stream of accesses; merging layers into that stream (`stream`) and the counting of
hits at 100 budgets (`curve`, call to table) are rows of their own. One thread; processor time, medians of rounds in
turn. Targets: LRU 5 million lookups per second, Belady 3 million.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import remoe_sim
from benchmarks.script import options, show
from remoe_sim.policy import Rules
from remoe_sim.policy.find import find_policy
from remoe_sim.policy.stack import needed_bytes
from remoe_sim.trace.accesses import global_stream, select_tokens

LAYERS, EXPERTS, TOP_K = 60, 384, 8
SIZES = [20_000_000 + 3_000_000 * (layer % 3) for layer in range(LAYERS)]
TARGETS = {"lru, every budget": 5e6, "belady, 10 % of the bytes": 3e6, "belady, 50 % of the bytes": 3e6}


def measure(tokens: int, runs: int) -> dict[str, Any]:
    trace = remoe_sim.synth(
        tokens=tokens, layers=LAYERS, experts=EXPERTS, top_k=TOP_K, reuse=0.3, request_tokens=tokens, prompt_tokens=0,
        seed=4,
    )  # fmt: skip
    trace = sized(trace)
    chosen = select_tokens(trace)
    stream = global_stream(trace, chosen, "set", True)
    lru, belady, rules = find_policy("lru"), find_policy("belady"), Rules()
    total = int(stream.sizes.sum())
    calls: dict[str, Callable[[], object]] = {
        "stream": lambda: global_stream(trace, chosen, "set", True),
        "lru, every budget": lambda: needed_bytes(lru, stream, rules),
        "belady, 10 % of the bytes": lambda: belady.replay(stream, total // 10, rules),
        "belady, 50 % of the bytes": lambda: belady.replay(stream, total // 2, rules),
        "curve lru": lambda: remoe_sim.curve(trace, "lru", scope="global"),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles
    for _ in range(runs):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    lookups = stream.entries.size
    rates = {name: round(lookups / statistics.median(found)) for name, found in times.items()}
    met = {name: rates[name] >= target for name, target in TARGETS.items()}
    return {
        "layers": LAYERS, "experts": EXPERTS, "top_k": TOP_K, "entries": LAYERS * EXPERTS, "lookups": lookups,
        "runs": runs, "processors": os.cpu_count(), "lookups_per_s": rates, "targets": TARGETS, "met": met,
    }  # fmt: skip


def sized(trace: remoe_sim.Trace) -> remoe_sim.Trace:
    """The trace in memory, with experts of SIZES."""
    layers = [trace.decisions(index) for index in range(trace.moe_layers)]
    return replace(trace, model=replace(trace.model, expert_bytes=tuple(SIZES)), source=remoe_sim.InMemory(layers))


def main() -> None:
    parser = options(__doc__, quick={"tokens": 50, "runs": 1})
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    show(measure(given.tokens, given.runs), given.output)


if __name__ == "__main__":
    sys.exit(main())
