"""Slot policies at every capacity of one layer: all in one call, beside a replay for each, in turn in one process.

    python -m benchmarks.speed.all_capacities [--runs 5] [--output FILE]

Both give the same hits, which is checked. `ns` are processor time per lookup and capacity, the least of the runs, and
`ratio` is the median of how many times as long the replays took. A replay also counts evictions and what is held.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import numpy as np

import remoe_sim
from benchmarks.script import options, show
from remoe_sim.kernels.tallies import count_hits
from remoe_sim.policy import CompiledSlotPolicy, Rules, Stream
from remoe_sim.policy.find import find_policy
from remoe_sim.trace.accesses import layer_stream, select_tokens

POLICIES = ("fifo", "sieve", "clock", "arc", "2q", "slru", "s3fifo", "lfu-forget", "random")
CASES = {  # experts, top-k, reuse; of how many of the tokens
    "64 experts, top-6, reuse 0.28": (64, 6, 0.28, 1.0),
    "64 experts, top-6, reuse 0.45": (64, 6, 0.45, 1.0),
    "32 experts, top-4, reuse 0.45": (32, 4, 0.45, 2.0),
    "256 experts, top-8, reuse 0.28": (256, 8, 0.28, 0.25),
}


def stream_of(experts: int, top_k: int, reuse: float, tokens: int) -> Stream:
    trace = remoe_sim.synth(
        tokens=tokens,
        layers=2,
        experts=experts,
        top_k=top_k,
        reuse=reuse,
        request_tokens=tokens,
        prompt_tokens=0,
        seed=8,
    )
    return layer_stream(trace, 0, trace.decisions(0), select_tokens(trace), "set")


def one_by_one(policy: CompiledSlotPolicy, stream: Stream) -> np.ndarray:
    hits = np.zeros((3, stream.n_entries + 1), np.int64)
    for capacity in range(1, stream.n_entries + 1):
        count_hits(stream.kinds, policy.replay(stream, capacity, Rules()).hit, hits[:, capacity])
    return hits


def race(name: str, stream: Stream, runs: int) -> dict[str, Any]:
    policy = find_policy(name)
    assert isinstance(policy, CompiledSlotPolicy)
    capacities, took = np.arange(stream.n_entries + 1), ([], [])  # type: tuple[Any, Any]
    for number in range(runs + 1):
        start = time.process_time()
        slowly = one_by_one(policy, stream)
        between = time.process_time()
        at_once = policy.hits_at(stream, capacities, Rules())
        end = time.process_time()
        assert np.array_equal(slowly, at_once)
        if number:  # the first compiles
            took[0].append(between - start)
            took[1].append(end - between)
    each = stream.entries.size * stream.n_entries / 1e9
    return {
        "policy": name, "ns": round(min(took[1]) / each, 2), "ns_one_by_one": round(min(took[0]) / each, 2),
        "ratio": round(statistics.median(slow / fast for slow, fast in zip(*took, strict=True)), 2),
    }  # fmt: skip


def main() -> None:
    parser = options(__doc__, quick={"runs": 1, "tokens": 60})
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=4000)
    given = parser.parse_args()
    streams = {name: stream_of(*what[:3], max(int(given.tokens * what[3]), 10)) for name, what in CASES.items()}
    rows = [
        {"trace": name, **race(policy, stream, given.runs)} for policy in POLICIES for name, stream in streams.items()
    ]
    show({"runs": given.runs, "rows": rows}, given.output)


if __name__ == "__main__":
    sys.exit(main())
