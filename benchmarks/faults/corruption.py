"""Damages a trace file in every part of it, reads each variant in every way, and counts what comes out.

    python -m benchmarks.faults.corruption [--variants 12000] [--seed 0] [-o benchmarks/results/corruption.json]

Bits and bytes are changed, runs of bytes set to zeros, ones or noise, swapped, removed, and the file cut off, each
beginning in one class of bytes: the magic, the footer with its metadata and statistics, page headers, and the pages of
each kind of column. A variant is refused with a sentence, read with exactly the original content (all columns, weights,
probabilities, token ids and metadata), or silently changed, which must not be. JSON: variants by class and outcome.
"""

from __future__ import annotations

import multiprocessing
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.script import options, show
from tests.support.corrupting import Reading, damaged, ranges, whole_trace, written

AT_ONCE = 500  # variants of one process, so that a crash is told apart and memory is measured
Job = tuple[str, str, int]  # class, way of reading, seed


def jobs(classes: list[str], variants: int, seed: int) -> list[Job]:
    """The classes and ways in turn, so that each has as many variants."""
    ways = Reading.WAYS
    return [(classes[n % len(classes)], ways[n // len(classes) % len(ways)], seed + n) for n in range(variants)]


def work(good: bytes, some: list[Job], folder: Path, answers: Any) -> None:
    """Sends (how it was damaged, outcome) of each job, then the peak of memory above the beginning."""
    spans, reading = ranges(good), Reading(good, folder)
    for way in Reading.WAYS:
        reading.outcome(good, way)
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, way, seed in some:
        data, how = damaged(good, spans[name], random.Random(seed))
        answers.send((how, reading.outcome(data, way)))
    answers.send(("", str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin)))


def outcomes(good: bytes, todo: list[Job], folder: Path) -> Iterator[tuple[Job, str, str]]:
    """Job, damage and outcome of each; `crash` where the process died."""
    while todo:
        some, todo = todo[:AT_ONCE], todo[AT_ONCE:]
        ours, theirs = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("spawn").Process(target=work, args=(good, some, folder, theirs))
        child.start()
        theirs.close()
        for number, job in enumerate(some):
            try:
                yield job, *ours.recv()
            except EOFError:
                child.join()
                yield job, "", f"crash: the process ended with {child.exitcode}"
                todo = some[number + 1 :] + todo
                break
        else:
            yield ("memory", "", 0), *ours.recv()
            child.join()


def main() -> None:
    parser = options(__doc__, quick={"variants": 40})
    parser.add_argument("--variants", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = written(whole_trace(), folder / "whole.parquet")
        classes = list(ranges(good))
        by_class: dict[str, Counter[str]] = {one: Counter() for one in classes}
        by_way: dict[str, Counter[str]] = {one: Counter() for one in Reading.WAYS}
        kinds, wrong, peak = Counter[str](), [], 0
        for (one, way, seed), how, outcome in outcomes(good, jobs(classes, given.variants, given.seed), folder):
            if one == "memory":
                peak = max(peak, int(outcome))
                continue
            short = outcome if outcome in ("refused", "identical", "silent") else "other"
            by_class[one][short] += 1
            by_way[way][short] += 1
            kinds[how] += 1
            if short in ("silent", "other"):
                wrong.append({"class": one, "way": way, "seed": seed, "damage": how, "outcome": outcome})
    total = sum(by_class.values(), Counter())
    result = {
        "command": f"python -m benchmarks.faults.corruption --variants {given.variants} --seed {given.seed}",
        "file_bytes": len(good),
        "variants": sum(total.values()),
        "outcomes": {name: total[name] for name in ("refused", "identical", "silent", "other")},
        "most_memory_mib_above_the_whole_file": round(peak / 1024, 1),
        "by_class": {name: dict(counts) for name, counts in by_class.items()},
        "by_way": {name: dict(counts) for name, counts in by_way.items()},
        "by_damage": dict(kinds),
        "wrong": wrong,
    }
    show(result, given.output, indent=1)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
