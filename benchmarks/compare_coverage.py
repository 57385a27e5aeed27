"""Measure how often the intervals of `compare` hold the truth, and how often it calls equal models different.

    python benchmarks/compare_coverage.py [--repetitions 1000] [--quick] [--output results/compare_coverage.json]

Experiments are drawn and given to `remoe_sim.studies.bootstrap.differences`, which `compare` takes its intervals from.
A request has a length (equal, or lognormal with σ = 1) and a rate of its own, and of each of its lookups it is drawn
whether it is a reuse. The truth is known: the difference of the two ratios over all requests that there could be.

Kinds of rates: `uniform`, all requests have the same; `spread`, 40 points, give or take 5; `skewed`, 6 points, give or
take 4; `long`, like `spread`, and long requests have more; `some`, like `spread`, and B has 5 points more on average,
most of them in a few requests. `+3`: B has 3 points more. Pairs have rates with a correlation of 0.9 and the same
lengths; those of `paired, own lengths` have lengths of their own.

An interval holds the truth if the truth, taken off B, leaves a p-value above 5 %; that both say the same is checked.
`--quick`: 200 repetitions, and fewer kinds.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr
from scipy.stats import beta

from remoe_sim.studies.bootstrap import Ratios, differences

REQUESTS = (4, 6, 10, 20, 50, 200)
DESIGNS = (
    ("equal", "paired"), ("equal", "unpaired"), ("lognormal", "paired"), ("lognormal", "paired, own lengths"),
    ("lognormal", "unpaired"),
)  # fmt: skip
KINDS = ("uniform", "spread", "spread +3", "skewed", "skewed +3", "long", "some")
QUICK = ("uniform", "spread +3")
EQUAL = ("uniform", "spread", "skewed")  # A and B are the same, and length says nothing about the rate
LOOKUPS = 8  # of a token
MIDDLE = 5.0  # logarithm of the median length
ALPHA, RESAMPLES, CHECKED = 0.05, 499, 10


@dataclass(frozen=True)
class Experiments:
    """Draw many experiments of one kind and design."""

    kind: str
    lengths: str
    pairing: str
    requests: int
    repetitions: int

    @property
    def paired(self) -> bool:
        return self.pairing != "unpaired"

    @property
    def truth(self) -> float:
        return 0.03 if self.kind.endswith("+3") else 0.05 if self.kind == "some" else 0.0

    def drawn(self, rng: np.random.Generator) -> tuple[Ratios, Ratios]:
        size = (self.repetitions, self.requests)

        def lengths() -> np.ndarray:
            many = np.full(size, np.exp(MIDDLE)) if self.lengths == "equal" else rng.lognormal(MIDDLE, 1, size)
            return np.ceil(many)

        x_a = lengths()
        x_b = x_a if self.pairing == "paired" else lengths()
        z_a, noise = rng.standard_normal((2, *size))
        z_b = 0.9 * z_a + np.sqrt(1 - 0.9**2) * noise if self.paired else noise
        rates = [self._rates(z, x, more) for z, x, more in ((z_a, x_a, 0.0), (z_b, x_b, self.truth))]
        if self.kind == "some":
            rates[1] = self._rates(z_b, x_b, 0.0) + 0.05 * rng.exponential(1.0, size)
        a, b = (
            Ratios(rng.binomial((x * LOOKUPS).astype(np.int64), np.clip(rate, 0, 1)).astype(np.float64), x * LOOKUPS)
            for x, rate in zip((x_a, x_b), rates, strict=True)
        )
        return a, b

    def _rates(self, z: np.ndarray, x: np.ndarray, more: float) -> np.ndarray:
        if self.kind == "uniform":
            return np.full(z.shape, 0.4)
        mean, deviation = (0.06 + more, 0.04) if self.kind.startswith("skewed") else (0.4 + more, 0.05)
        both = mean * (1 - mean) / deviation**2 - 1
        rates: np.ndarray = beta.ppf(ndtr(z), mean * both, (1 - mean) * both)
        return rates + 0.03 * (np.log(x) - MIDDLE) if self.kind == "long" else rates

    def measured(self, seed: int) -> dict[str, Any]:
        """One row of the results: the share of intervals that hold the truth, and the median width in points."""
        a, b = self.drawn(np.random.default_rng(seed))
        found = differences(a, Ratios(b.y - self.truth * b.x, b.x), self.paired, RESAMPLES, seed)
        p_values = [found.p_value(at) for at in range(self.repetitions)]
        intervals = [found.interval(at, ALPHA) for at in range(min(CHECKED, self.repetitions))]
        for interval, p in zip(intervals, p_values, strict=False):
            assert interval is not None
            assert p is not None
            assert (interval[0] <= 0 <= interval[1]) == (p > ALPHA)
        held = sum(p is None or p > ALPHA for p in p_values)
        return {
            "kind": self.kind, "lengths": self.lengths, "pairing": self.pairing, "requests": self.requests,
            "truth": self.truth, "held": round(held / self.repetitions, 5),
            "half_width_points": round(100 * float(np.median([(i[1] - i[0]) / 2 for i in intervals if i])), 3),
        }  # fmt: skip


def study(repetitions: int, kinds: tuple[str, ...], requests: tuple[int, ...]) -> dict[str, Any]:
    """All cells, each with a seed of its own."""
    cells = [
        Experiments(kind, lengths, pairing, count, repetitions)
        for kind in kinds
        for lengths, pairing in DESIGNS
        for count in requests
        if (kind, lengths) != ("long", "equal")
    ]
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(Experiments.measured, cells, range(len(cells))))
    return {"repetitions": repetitions, "confidence": 1 - ALPHA, "resamples": RESAMPLES, "cells": rows}


def tables(answer: dict[str, Any]) -> tuple[str, str]:
    """Return the tables of docs/compare.md, in percent: intervals that hold the truth, from the worst kind to the best,
    and false verdicts of all EQUAL kinds together."""
    head = [f"{lengths} lengths, {pairing}" for lengths, pairing in DESIGNS]
    held, false = ([f"| requests | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"] for _ in range(2))
    for count in sorted({cell["requests"] for cell in answer["cells"]}):
        some = [
            [one for one in answer["cells"] if (one["requests"], one["lengths"], one["pairing"]) == (count, *design)]
            for design in DESIGNS
        ]
        ranges = [[100 * cell["held"] for cell in cells] for cells in some]
        held.append(f"| {count} | " + " | ".join(f"{min(of):.1f} to {max(of):.1f}" for of in ranges) + " |")
        wrong = [100 * np.mean([1 - cell["held"] for cell in cells if cell["kind"] in EQUAL]) for cells in some]
        false.append(f"| {count} | " + " | ".join(f"{one:.1f}" for one in wrong) + " |")
    return "\n".join(held), "\n".join(false)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    given = parser.parse_args()
    start = time.perf_counter()
    if given.quick:
        answer = study(200, QUICK, (4, 10, 50))
    else:
        answer = study(given.repetitions, KINDS, REQUESTS)
    answer["seconds"] = round(time.perf_counter() - start, 1)
    print("\n\n".join(tables(answer)))
    if given.output:
        given.output.write_text(json.dumps(answer, indent=1) + "\n")


if __name__ == "__main__":
    main()
