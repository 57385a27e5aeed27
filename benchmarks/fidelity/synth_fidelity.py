"""How like a real trace `synth --like` is, and whether `--reuse` reaches what is asked for.

    python -m benchmarks.fidelity.synth_fidelity [--traces ../shared/traces] [--seed 0]

Differences in points. Per layer: the mean over layers of how far each is off, at the capacity where that is largest.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import remoe_sim
from benchmarks.script import TRACES, options, show
from tests.support.data import DEMO

PATHS = {
    "qwen": "bigmoe/qwen.route.csv",
    "gptoss": "bigmoe/gptoss.route.csv",
    "gpt-oss-20b": "gpt-oss-20b/gptoss20b_decode_subset.npz",
}
WINDOWS = (1, 2, 4, 8)


def compare(real: remoe_sim.Trace, made: remoe_sim.Trace) -> dict[str, Any]:
    """Points between the two: hits at every capacity, reuse, balance."""
    found: dict[str, Any] = {}
    for policy in ("lru", "lfu", "belady"):
        theirs, ours = (remoe_sim.curve(trace, policy=policy) for trace in (real, made))
        off = 100 * (ours.hit_rate - theirs.hit_rate).abs()
        in_all = theirs.layer == "all"
        found[f"{policy}_most"] = round(float(off[in_all].max()), 2)
        found[f"{policy}_per_layer"] = round(float(off[~in_all].groupby(theirs.capacity).mean().max()), 2)
    theirs, ours = (remoe_sim.reuse(trace, WINDOWS) for trace in (real, made))
    off = 100 * (ours.reuse_rate - theirs.reuse_rate)
    for window in WINDOWS:
        here, in_all = theirs.window == window, theirs.layer == "all"
        found[f"reuse_{window}"] = round(float(off[here & in_all].iloc[0]), 2)
        found[f"reuse_{window}_per_layer"] = round(float(off[here & ~in_all].abs().mean()), 2)
    theirs, ours = remoe_sim.info(real), remoe_sim.info(made)
    found["top10_share"] = round(100 * ((ours.popularity_top10_share or 0) - (theirs.popularity_top10_share or 0)), 2)
    return found


def traces(folder: Path) -> dict[str, remoe_sim.Trace]:
    """The real traces that are there, by name."""
    return {name: remoe_sim.import_trace(folder / path) for name, path in PATHS.items() if (folder / path).is_file()}


def measure(chosen: dict[str, remoe_sim.Trace], seed: int) -> dict[str, Any]:
    answer = {}
    for name, real in chosen.items():
        before = remoe_sim.reuse(real).reuse_rate.iloc[-1]
        answer[name] = compare(real, remoe_sim.synth(real, seed=seed))
        for wanted in ("1.26x", "0.8x", "+0.07"):
            after = remoe_sim.reuse(remoe_sim.synth(real, reuse=wanted, seed=seed)).reuse_rate.iloc[-1]
            reached = after / before if wanted.endswith("x") else after - before
            answer[name][f"asked {wanted}"] = round(float(reached), 4)
    return answer


def main() -> None:
    parser = options(__doc__, quick={}, output=None)
    parser.add_argument("--traces", type=Path, default=TRACES, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chosen = {"demo": remoe_sim.read_trace(DEMO)} if given.quick else traces(given.traces)
    show(measure(chosen, given.seed))


if __name__ == "__main__":
    sys.exit(main())
