"""Compiled code against slow twins of it, on random configurations, for as long as one likes.

    python -m benchmarks.fidelity.differential [--seed 0] [--configurations 1000] [--what KIND,…] [--output FILE]

Each kind draws random traces and settings (hypothesis; the strategies of the tests), and compares every count: replays
of every policy, curves, pinned experts, tiers, prefetching, re-routing and timelines with `tests/oracle/`; Belady
with an exhaustive search over all contents of a cache; policies that libCacheSim has with libCacheSim. A configuration
is a trace, all its settings and one policy. What differs is made as small as possible and kept with the seed.

JSON, of each kind: configurations, how many drawn cases they are of and how many of those were distinct, cases in which
there was nothing to compare (both sides refuse them), differences, and how often each value of each axis was there.
A second run with another `--output` part of the kinds adds them to the file, or replaces them there.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

import remoe_sim
from benchmarks.script import keep, options, show
from remoe_sim.studies.sweep.worker import fingerprint
from remoe_sim.util.threads import one_thread
from tests.support.differential_kinds import KINDS, Kind

CHUNK = 150  # cases that are drawn with one seed; what hypothesis knows of earlier cases takes memory
MOST_DIFFERENCES = 10  # then a kind is given up
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]


@dataclass
class Tally:
    """What was compared so far."""

    configurations: int = 0
    cases: int = 0
    nothing: int = 0
    seen: set[bytes] = field(default_factory=set)
    axes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    differences: list[dict[str, Any]] = field(default_factory=list)

    def add(self, drawn: Any, compared: list[dict[str, Any]]) -> None:
        self.cases += 1
        self.nothing += not compared
        self.configurations += len(compared)
        self.seen.add(digest(drawn))
        for one in compared:
            for axis, value in one.items():
                self.axes[axis][str(value)] += 1


def digest(drawn: Any) -> bytes:
    return hashlib.blake2b(words(drawn).encode(), digest_size=12).digest()


def words(drawn: Any) -> str:
    """A case in words, whole; a trace is told by its columns, as its rows are not always there."""
    if isinstance(drawn, remoe_sim.Trace):
        layers = [drawn.decisions(index) for index in range(drawn.moe_layers)]
        columns = [drawn.request, drawn.position, drawn.step, drawn.phase]
        return f"Trace({words([*columns, *layers, drawn.model])})"
    if isinstance(drawn, np.ndarray):
        return str(drawn.tolist())
    if isinstance(drawn, dict):
        return "{" + ", ".join(f"{name!r}: {words(one)}" for name, one in drawn.items()) + "}"
    if is_dataclass(drawn) and not isinstance(drawn, type):
        parts = (f"{one.name}={words(getattr(drawn, one.name))}" for one in fields(drawn))
        return f"{type(drawn).__name__}({', '.join(parts)})"
    return f"[{', '.join(map(words, drawn))}]" if isinstance(drawn, list | tuple) else repr(drawn)


def run(kind: Kind, seed: int, configurations: int, chunk: int = CHUNK) -> Tally:
    """Draws and compares until there are so many configurations; every chunk of cases has a seed of its own."""
    tally, number = Tally(), 0
    while tally.configurations < configurations and len(tally.differences) < MOST_DIFFERENCES:
        one_chunk(kind, tally, seed * 1_000_000 + number, chunk)
        number += 1
        print(f"\r{tally.configurations:,} of {configurations:,}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return tally


def one_chunk(kind: Kind, tally: Tally, seed: int, chunk: int) -> None:
    smallest: dict[str, Any] = {}

    def compare(drawn: Any) -> None:
        try:
            with one_thread():
                compared = kind.check(drawn)
        except hypothesis.errors.UnsatisfiedAssumption:
            raise
        except Exception as error:  # hypothesis goes on with smaller cases that fail likewise; the last is the smallest
            smallest.update({"seed": seed, "error": said(error), "case": words(drawn)})
            raise
        if not smallest:
            tally.add(drawn, compared)

    how = settings(
        max_examples=chunk, database=None, deadline=None, derandomize=False, suppress_health_check=SLOW,
        phases=[Phase.generate, Phase.shrink], report_multiple_bugs=False, verbosity=Verbosity.quiet,
    )  # fmt: skip
    try:
        hypothesis.seed(seed)(how(given(kind.strategy)(compare)))()
    except Exception:
        if not smallest:  # hypothesis itself
            raise
        tally.differences.append(smallest)


def said(error: Exception) -> str:
    return "; ".join([f"{type(error).__name__}: {error}"[:2000], *getattr(error, "__notes__", [])[:1]])


def to_dict(tally: Tally, seed: int, seconds: float) -> dict[str, Any]:
    axes = {axis: dict(sorted(counts.items())) for axis, counts in tally.axes.items()}
    return {
        "seed": seed, "configurations": tally.configurations, "cases": tally.cases, "distinct_cases": len(tally.seen),
        "nothing_to_compare": tally.nothing, "differences": tally.differences, "seconds": round(seconds),
        "axes": axes,
    }  # fmt: skip


def main() -> int:
    quick = {"configurations": 1, "chunk": 3, "what": "belady,timeline"}
    parser = options(__doc__, quick, output="also write the JSON there, kind by kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--configurations", type=int, default=1000, metavar="N", help="of each kind, at least")
    parser.add_argument("--what", default=",".join(KINDS), metavar="KIND,…", help="(default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=CHUNK, metavar="N", help="cases that are drawn with one seed")
    asked = parser.parse_args()
    answer: dict[str, Any] = {"kinds": {}}
    if asked.output and asked.output.exists():
        answer = json.loads(asked.output.read_text())
    for name in asked.what.split(","):
        print(name, file=sys.stderr)
        begun = time.monotonic()
        tally = run(KINDS[name], asked.seed, asked.configurations, asked.chunk)
        found = to_dict(tally, asked.seed, time.monotonic() - begun)
        versions = {"package": fingerprint(), "python": platform.python_version()}
        answer["kinds"][name] = found | versions
        if asked.output:
            keep(answer, asked.output, indent=1)
    show(answer, indent=1)
    return int(any(one["differences"] for one in answer["kinds"].values()))


if __name__ == "__main__":
    sys.exit(main())
