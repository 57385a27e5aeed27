"""Kernels beside a plain copy and compare of arrays in the same run: rates, operations, and whether any became slower.

    python -m benchmarks.speed.roofline [--output FILE]             the table
    python -m benchmarks.speed.roofline --check benchmarks/results/roofline.json      what `make bench` does

`reference` copies 16-bit ids and counts how many equal those of another array: 6 bytes per lookup, nothing else. All
kernels take turns with it on one thread, and each counts with its least processor time over the rounds, so other load
on the machine matters little; `times_reference` is how many times as long a lookup takes. A check fails where that is
more than TOLERANCE times what is kept, in three attempts. `bytes` and `operations` per lookup are what the algorithm
has to move and do (one comparison, addition, minimum or maximum on one number; vectors do 16 to 64 at once), null where
that hangs on the trace.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

import remoe_sim
from benchmarks.script import options, show
from remoe_sim.cache import curve
from remoe_sim.cache.caches import Caches
from remoe_sim.cache.settings import Settings
from remoe_sim.kernels import lanes
from remoe_sim.policy import Rules
from remoe_sim.policy.find import find_policy
from remoe_sim.policy.stack import count as depths_of
from remoe_sim.policy.stack import needed_bytes
from remoe_sim.trace.accesses import global_stream, layer_stream, select_tokens

LAYERS, EXPERTS, TOP_K = 16, 64, 6
TOLERANCE = 1.6


@njit
def copy_and_compare(source, other, target):  # type: ignore[no-untyped-def]
    equal = 0
    for i in range(source.size):
        target[i] = source[i]
        equal += source[i] == other[i]
    return equal


def calls(count: int) -> tuple[int, dict[str, tuple[Callable[[], object], float, float | None]]]:
    """Lookups per call; by name what to call, bytes per lookup and operations per lookup."""
    trace = remoe_sim.synth(
        tokens=count, layers=LAYERS, experts=EXPERTS, top_k=TOP_K, reuse=0.28, request_tokens=count, prompt_tokens=0,
        seed=8,
    )  # fmt: skip
    tokens, rules = select_tokens(trace), Rules()
    caches = Caches(trace, Settings(), tokens)
    streams = [layer_stream(trace, index, trace.decisions(index), tokens, "set") for index in range(trace.moe_layers)]
    whole = global_stream(trace, tokens, "set", True)
    budget = int(whole.sizes.sum()) // 4
    lru, lfu, belady, fifo, sieve, arc = map(find_policy, ("lru", "lfu", "belady", "fifo", "sieve", "arc"))  # type: Any
    eight = np.arange(EXPERTS // 8, EXPERTS + 1, EXPERTS // 8)
    ids = np.concatenate([stream.entries for stream in streams])
    tables = np.zeros((LAYERS, 3, EXPERTS + 1), np.int64)
    other, target = np.roll(ids, TOP_K), np.empty_like(ids)
    sought = lanes.SOUGHT * -(-TOP_K // lanes.SOUGHT) / TOP_K  # comparisons per depth, spread over the members
    sinking = EXPERTS * (sought + 2 * 1 + 3 / TOP_K)
    return ids.size, {
        "reference": (lambda: copy_and_compare(ids, other, target), 6, 1),
        "lru, all capacities": (
            lambda: depths_of(lru, streams, [rules] * LAYERS, tables),
            3,
            EXPERTS * (2 + 1 / TOP_K),
        ),
        "lfu, all capacities": (lambda: curve.lane_curves(lfu, caches, streams), 22, sinking),
        "belady, all capacities": (lambda: curve.lane_curves(belady, caches, streams), 22, sinking),
        "belady, one capacity": (lambda: [belady.replay(one, 16, rules) for one in streams], 80, None),
        "fifo, one capacity": (lambda: [fifo.replay(one, 16, rules) for one in streams], 20, None),
        "fifo, eight capacities": (lambda: [fifo.hits_at(one, eight, rules) for one in streams], 20, None),
        "sieve, eight capacities": (lambda: [sieve.hits_at(one, eight, rules) for one in streams], 20, None),
        "arc, eight capacities": (lambda: [arc.hits_at(one, eight, rules) for one in streams], 20, None),
        "lru, all byte budgets": (lambda: needed_bytes(lru, whole, rules), 12, 4 * np.log2(2 * LAYERS * EXPERTS)),
        "lru, one byte budget": (lambda: lru.replay(whole, budget, rules), 33, None),
        "belady, one byte budget": (lambda: belady.replay(whole, budget, rules), 80, None),
    }


def measure(tokens: int, rounds: int) -> list[dict[str, Any]]:
    lookups, chosen = calls(tokens)
    least = dict.fromkeys(chosen, float("inf"))
    for number in range(rounds + 1):
        for name, (call, _, _) in chosen.items():
            start = time.thread_time()
            call()
            if number:  # the first compiles
                least[name] = min(least[name], time.thread_time() - start)
    return [
        {
            "what": name, "lookups_per_s": round(lookups / least[name]),
            "times_reference": round(least[name] / least["reference"], 2),
            "bytes": bytes_moved, "operations": None if operations is None else round(float(operations), 1),
            "operations_per_s": None if operations is None else round(operations * lookups / least[name]),
        }
        for name, (_, bytes_moved, operations) in chosen.items()
    ]  # fmt: skip


def slower(rows: list[dict[str, Any]], kept: list[dict[str, Any]]) -> list[str]:
    """A sentence for every kernel that takes longer than what is kept allows."""
    allowed = {row["what"]: row["times_reference"] * TOLERANCE for row in kept}
    return [
        f"{row['what']}: {row['times_reference']} times the reference, {allowed[row['what']]:.1f} allowed"
        for row in rows
        if row["times_reference"] > allowed.get(row["what"], float("inf"))
    ]


def main() -> int:
    parser = options(__doc__, quick={"tokens": 500, "rounds": 1})
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with what was written there")
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    kept = json.loads(given.check.read_text())["rows"] if given.check else []
    rows = measure(given.tokens, given.rounds)
    for _ in range(2):
        if slower(rows, kept):
            rows = measure(given.tokens, given.rounds)
    show({"tolerance": TOLERANCE, "processors": os.cpu_count(), "rows": rows}, given.output)
    for sentence in slower(rows, kept):
        print(sentence, file=sys.stderr)
    return 1 if slower(rows, kept) else 0


if __name__ == "__main__":
    sys.exit(main())
