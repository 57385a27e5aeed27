"""How often `compare` says what it should: on halves of one trace, and on a half whose reuse was raised.

    python benchmarks/compare_power.py [--splits 100] [--points 3] [--traces ../shared/traces] [--output power.json]

The requests of gpt-oss-20b (or of the bundled sample, which has 8) are split into two halves at random, once per seed.
`no_difference_shown`: on how many splits the verdict on the halves as they are is that no difference is shown.
`difference_shown`: on how many it is found that B reuses more, after B's reuse was raised by so many points: a token
takes over the experts of the token before it with a probability that was fitted on the whole trace.
`paired_difference_shown`: the same for all requests against themselves with raised reuse.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import remoe_sim
from remoe_sim.metrics import adjacent_reuse, previous_rows

TRACES = Path(__file__).resolve().parents[2] / "shared" / "traces"


def some_requests(trace: remoe_sim.Trace, ids: np.ndarray) -> remoe_sim.Trace:
    """The trace of some requests alone."""
    return of_rows(trace, np.flatnonzero(np.isin(trace.request, ids)))


def of_rows(trace: remoe_sim.Trace, rows: np.ndarray) -> remoe_sim.Trace:
    """Some rows of a trace."""
    layers = [trace.decisions(index).take(rows) for index in range(trace.moe_layers)]
    columns = {name: getattr(trace, name)[rows] for name in ("request", "position", "step", "phase")}
    return replace(trace, **columns, token_id=None, source=remoe_sim.InMemory(layers))


def raised(trace: remoe_sim.Trace, probability: float, seed: int) -> remoe_sim.Trace:
    """The same tokens, some of which take over the experts of the token before them."""
    copies = (np.random.default_rng(seed).random(trace.tokens) < probability) & (previous_rows(trace) >= 0)
    source = np.maximum.accumulate(np.where(copies, 0, np.arange(trace.tokens)))  # rows of a request are together
    layers = [trace.decisions(index).take(source) for index in range(trace.moe_layers)]
    return replace(trace, source=remoe_sim.InMemory(layers))


def fitted(trace: remoe_sim.Trace, points: float) -> float:
    """The probability that raises adjacent reuse by so many points, by bisection."""
    target = adjacent_reuse(trace) + points / 100
    low, high = 0.0, 0.5
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if adjacent_reuse(raised(trace, middle, 0)) > target else (middle, high)
    return (low + high) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--points", type=float, default=3.0)
    parser.add_argument("--traces", type=Path, default=TRACES)
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    given = parser.parse_args()
    path = given.traces / "gpt-oss-20b" / "gptoss20b_decode_subset.npz"
    trace = remoe_sim.import_trace(path, experts=32) if path.exists() else remoe_sim.read_trace("sample:demo")
    probability, ids = fitted(trace, given.points), np.unique(trace.request)
    quiet, found, paired, changes, widths = 0, 0, 0, [], []
    start = time.perf_counter()
    for seed in range(given.splits):
        shuffled = np.random.default_rng(seed).permutation(ids)
        a, b = (some_requests(trace, half) for half in np.array_split(shuffled, 2))
        same = remoe_sim.compare(a, b, seed=seed)
        more = remoe_sim.compare(a, raised(b, probability, seed), seed=seed)
        own = remoe_sim.compare(trace, raised(trace, probability, seed), seed=seed)
        quiet += same.difference_shown is False
        found += bool(more.difference_shown) and more.verdict.difference > 0
        paired += own.paired and bool(own.difference_shown) and own.verdict.difference > 0
        changes.append(own.verdict.difference)
        widths.append((same.verdict.interval[1] - same.verdict.interval[0]) / 2)
    answer = {
        "trace": path.stem if path.exists() else "sample:demo",
        "requests": int(ids.size),
        "splits": given.splits,
        "no_difference_shown": quiet,
        "points_raised": round(100 * float(np.mean(changes)), 3),
        "difference_shown": found,
        "paired_difference_shown": paired,
        "mean_half_width_points": round(100 * float(np.mean(widths)), 3),
        "seconds_per_comparison": round((time.perf_counter() - start) / given.splits / 3, 2),
    }
    text = json.dumps(answer, indent=2)
    print(text)
    if given.output:
        given.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
