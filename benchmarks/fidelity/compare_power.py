"""How often `compare` says what it should: on halves of one trace, and where reuse was raised by some points.

    python -m benchmarks.fidelity.compare_power [--splits 100] [--points 3] [--traces FOLDER] [--output FILE]

The requests of gpt-oss-20b (or of a bundled sample, which has 200) are split into two halves at random, once per seed.
The verdict is that of `remoe_sim.compare`, on pooled adjacent reuse; it takes the sums over each request alone, so they
are made once, and for the first splits `compare` itself is run and must give the same interval.

`no_difference_shown`: on how many splits that is the verdict on the halves as they are.
`difference_shown`: on how many B is found to reuse more, where B is of the other half and has so many points more:
`synth`: drawn like the whole trace by `synth`, which gives all requests nearly the same rate;
`copied`: as recorded, where a token takes over the experts of the token before it with a probability fitted on the
whole trace, so that requests differ among themselves as the recorded ones do.
`..._paired`: the same with all requests on both sides, paired.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import remoe_sim
from benchmarks.script import NO_TRACES, TRACES, options, show
from remoe_sim.studies.bootstrap import Differences, Ratios, differences
from remoe_sim.studies.compare import Requests, adjacent_sums
from remoe_sim.trace.metrics import adjacent_reuse, previous_rows
from tests.support.data import DEMO

ALPHA, RESAMPLES = 0.05, 1999  # those of `compare`
CHECKED = 2  # splits on which `compare` itself is run


@dataclass(frozen=True)
class Sums:
    """Shared and wanted experts of every request, float64[requests], in the order of their numbers."""

    shared: np.ndarray
    wanted: np.ndarray

    @classmethod
    def of(cls, trace: remoe_sim.Trace) -> Sums:
        shared, wanted = adjacent_sums(Requests.of(trace))
        return cls(shared.sum(axis=0), wanted.sum(axis=0))

    def some(self, places: np.ndarray) -> Ratios:
        return Ratios(self.shared[None, places], self.wanted[None, places])

    @property
    def spread(self) -> float:
        """Standard deviation of the rates of single requests."""
        known = self.wanted > 0
        return float((self.shared[known] / self.wanted[known]).std(ddof=1))


def some_requests(trace: remoe_sim.Trace, ids: np.ndarray) -> remoe_sim.Trace:
    """The trace of some requests alone."""
    rows = np.flatnonzero(np.isin(trace.request, ids))
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
    target = (adjacent_reuse(trace) or 0.0) + points / 100
    low, high = 0.0, 0.5
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if (adjacent_reuse(raised(trace, middle, 0)) or 0.0) > target else (middle, high)
    return (low + high) / 2


def halves(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the requests of either half."""
    a, b = np.array_split(np.random.default_rng(seed).permutation(count), 2)
    return np.sort(a), np.sort(b)


def normal_coverage(sums: Sums, many: int) -> float:
    """How often a plain interval, the difference and 1.96 of its standard errors, holds zero on many more splits."""
    inside = 0
    for seed in range(many):
        difference = variance = 0.0
        for sign, places in zip((-1, 1), halves(sums.wanted.size, seed), strict=True):
            y, x = sums.shared[places], sums.wanted[places]
            rate = y.sum() / x.sum()
            difference += sign * rate
            variance += places.size / (places.size - 1) * float(((y - rate * x) ** 2).sum()) / x.sum() ** 2
        inside += abs(difference) <= 1.96 * variance**0.5
    return inside / many


def more(found: Differences) -> bool:
    """Whether the verdict is that B reuses more."""
    interval = found.interval(0, ALPHA)
    return interval is not None and interval[0] > 0


@dataclass(frozen=True)
class Study:
    trace: remoe_sim.Trace
    sums: Sums
    points: float
    probability: float
    synthetic: tuple[Sums, ...]  # each serves several splits: they differ far less than halves do

    @classmethod
    def of(cls, trace: remoe_sim.Trace, points: float, draws: int) -> Study:
        text = f"{points / 100:+g}"
        drawn = tuple(Sums.of(remoe_sim.synth(trace, reuse=text, seed=seed)) for seed in range(1, draws + 1))
        return cls(trace, Sums.of(trace), points, fitted(trace, points), drawn)

    def split(self, seed: int) -> dict[str, Any]:
        """What is found on one split."""
        a, b = halves(self.sums.wanted.size, seed)
        mine = self.sums.some(a)
        same = differences(mine, self.sums.some(b), False, RESAMPLES, seed)
        interval = same.interval(0, ALPHA)
        assert interval is not None
        row: dict[str, Any] = {
            "quiet": interval[0] <= 0 <= interval[1], "interval": interval, "error": float(same.error[0]),
            "difference": float(same.value[0]),
        }  # fmt: skip
        everyone = np.arange(self.sums.wanted.size)
        sources = {
            "synth": self.synthetic[seed % len(self.synthetic)],
            "copied": Sums.of(raised(self.trace, self.probability, seed)),
        }
        for name, source in sources.items():
            row[name] = more(differences(mine, source.some(b), False, RESAMPLES, seed))
            both = differences(self.sums.some(everyone), source.some(everyone), True, RESAMPLES, seed)
            row[f"{name}_paired"], row[f"{name}_points"] = more(both), 100 * float(both.value[0])
            row[f"{name}_paired_error"] = float(both.error[0])
        return row

    def check(self, seed: int, row: dict[str, Any]) -> None:
        """`compare` itself says the same on a split."""
        ids = np.unique(self.trace.request)
        a, b = (some_requests(self.trace, ids[places]) for places in halves(ids.size, seed))
        found = remoe_sim.compare(a, b, seed=seed)
        assert found.verdict.interval is not None
        np.testing.assert_allclose(found.verdict.interval, row["interval"], rtol=1e-9)
        assert found.difference_shown is not row["quiet"]


def main() -> None:
    parser = options(__doc__, quick={"splits": 2, "draws": 1, "many": 100, "traces": NO_TRACES})
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--points", type=float, default=3.0)
    parser.add_argument("--draws", type=int, default=10, help="synthetic traces, each with a seed of its own")
    parser.add_argument("--many", type=int, default=20_000, help="splits on which only the standard error is looked at")
    parser.add_argument("--traces", type=Path, default=TRACES)
    given = parser.parse_args()
    path = given.traces / "gpt-oss-20b" / "gptoss20b_decode_subset.npz"
    other = DEMO if given.quick else "sample:qwen-original"
    trace = remoe_sim.import_trace(path, experts=32) if path.exists() else remoe_sim.read_trace(other)
    start = time.perf_counter()
    study = Study.of(trace, given.points, given.draws)
    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(study.split, range(given.splits)))
    for seed, row in enumerate(rows[:CHECKED]):
        study.check(seed, row)

    def mean(name: str) -> float:
        return round(float(np.mean([row[name] for row in rows])), 5)

    def kinds(suffix: str = "") -> Iterator[tuple[str, int]]:
        yield from ((name, sum(row[name + suffix] for row in rows)) for name in ("synth", "copied"))

    answer = {
        "trace": path.stem if path.exists() else other,
        "requests": int(study.sums.wanted.size),
        "reuse_rate": round(float(study.sums.shared.sum() / study.sums.wanted.sum()), 5),
        "spread_of_requests": {
            "recorded": round(study.sums.spread, 5), "synth": round(study.synthetic[0].spread, 5),
        },
        "splits": given.splits,
        "no_difference_shown": sum(row["quiet"] for row in rows),
        "points_raised": {name: mean(f"{name}_points") for name in ("synth", "copied")},
        "difference_shown": dict(kinds()),
        "difference_shown_paired": dict(kinds("_paired")),
        "standard_error_points": {
            "halves": round(100 * mean("error"), 3),
            "halves_as_they_vary": round(100 * float(np.std([row["difference"] for row in rows])), 3),
            **{f"{name}_paired": round(100 * mean(f"{name}_paired_error"), 3) for name in ("synth", "copied")},
        },
        "an_interval_of_that_error_holds_zero": round(normal_coverage(study.sums, given.many), 4),
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip
    show(answer, given.output)


if __name__ == "__main__":
    main()
