"""What `from_arrays` takes beyond the ids: 10 million tokens, 26 layers, top-6 of 64, as uint8.

    python -m benchmarks.speed.from_arrays [--tokens 1e7] [--output benchmarks/results/from_arrays.json]

`ids_mib` is the array, `made_mib` the most that was resident beyond it while the trace was made (the columns of tokens,
and one layer at a time), `replayed_mib` the same after a replay of one policy, whose threads hold a layer each. A copy
of the ids would be `ids_mib` more. Kernels are compiled before, on a small trace.
"""

from __future__ import annotations

import resource
import time
from typing import Any

import numpy as np

from benchmarks.script import options, show

LAYERS, K, EXPERTS = 26, 6, 64


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ids_of(tokens: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Six different experts of each token and layer, made without anything of the size of the array."""
    ids = np.empty((tokens, LAYERS, K), np.uint8)
    chance = np.random.default_rng(1)
    for layer in range(LAYERS):
        first = chance.integers(0, EXPERTS, tokens, np.uint8)
        for slot in range(K):
            ids[:, layer, slot] = (first + 7 * slot) % EXPERTS
    return ids


def measure(tokens: int) -> dict[str, Any]:
    import remoe_sim

    small = remoe_sim.from_arrays(ids_of(1000), experts=EXPERTS)
    remoe_sim.replay(small, cache=16, policy="lru")
    ids = ids_of(tokens)
    offsets = np.append(np.arange(0, tokens, 1000), tokens)
    before, began = peak_mib(), time.process_time()
    trace = remoe_sim.from_arrays(
        ids, offsets=offsets, prompt_lengths=np.minimum(np.diff(offsets), 100), experts=EXPERTS
    )
    made, seconds = peak_mib(), time.process_time() - began
    remoe_sim.replay(trace, cache=16, policy="lru")
    return {
        "tokens": tokens, "layers": LAYERS, "top_k": K, "type": "uint8", "ids_mib": round(ids.nbytes / 2**20),
        "before_mib": round(before), "made_mib": round(made - before), "made_cpu_s": round(seconds, 1),
        "replayed_mib": round(peak_mib() - before), "shares_memory": bool(np.shares_memory(trace.source.ids, ids)),
    }  # fmt: skip


def main() -> None:
    parser = options(__doc__, quick={"tokens": 4000})
    parser.add_argument("--tokens", type=float, default=1e7)
    given = parser.parse_args()
    show(measure(int(given.tokens)), given.output)


if __name__ == "__main__":
    main()
