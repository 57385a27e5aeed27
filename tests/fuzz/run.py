"""Fuzzes all targets in turn: python -m tests.fuzz.run --seconds 300 [--target NAME]... [--record FILE.json].

What was reached is kept in build/fuzz (or --kept) from run to run. Ends with 1 and a list if anything broke the
contract.
"""

import argparse
import json
import re
import sys
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SLICE_S = 45  # of one target, before it is the next one's turn
STATUS = re.compile(r"^#(\d+)\s+(\w+)\s+cov: (\d+) ft: (\d+)")


def main():
    options = _options()
    if find_spec("atheris") is None:
        sys.exit("fuzzing needs atheris, for Linux and macOS: python -m pip install 'remoe-sim[fuzz]'")
    from tests.fuzz import worker

    targets = worker.targets()
    from tests.fuzz.targets import folder_name

    folder = {name: options.kept / folder_name(name) for name in targets}
    names = options.target or list(targets)
    for name in names:
        worker.begin(targets[name], folder[name])
    records = _records(options.record)
    until = time.monotonic() + options.seconds
    slice_s = max(1, min(SLICE_S, options.seconds // len(names)))
    found = {}
    while time.monotonic() < until:
        turn = [name for name in names if not _settled(records.get(name))] or names
        for name in sorted(turn, key=lambda name: (records.get(name) or _nothing())["seconds"]):
            if time.monotonic() >= until:
                break
            record = records.get(name) or _nothing()
            start = time.monotonic()
            worker.fuzz(name, targets[name], folder[name], slice_s, options.seed + record["executions"])
            records[name] = _added(record, folder[name].with_suffix(".log"), time.monotonic() - start)
            found |= {path: name for path in folder[name].glob("found/*") if path.suffix != ".txt"}
            if options.record:
                _write(records, options.record)
        total = sum(one["executions"] for one in records.values())
        if 0 < options.executions <= total and all(_settled(records.get(name)) for name in names):
            break
    for name in names:
        one = records.get(name) or _nothing()
        last = one["last_new_coverage_at"]
        print(f"{name:24} {one['executions']:>9,} executions, {one['edges']:>5} edges, last new one at {last:,}")
    print(f"{sum(one['executions'] for one in records.values()):,} executions, {len(found)} defects")
    for path, name in found.items():
        told = path.with_suffix(".txt")
        print(f"{name}: {path}\n{told.read_text() if told.exists() else 'the process ended or hung'}")
    sys.exit(bool(found))


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--executions", type=int, default=0, help="end when there are so many and no target gains")
    parser.add_argument("--target", action="append")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--kept", type=Path, default=ROOT / "build" / "fuzz", help="where that is which was reached")
    return parser.parse_args()


def _nothing():
    return {"executions": 0, "seconds": 0.0, "edges": 0, "features": 0, "last_new_coverage_at": 0, "growth": []}


def _settled(one):
    """Whether the later half of many executions reached nothing new."""
    return one is not None and one["executions"] >= 20_000 and one["executions"] >= 2 * one["last_new_coverage_at"]


def _added(record, log, seconds):
    """The record of a target with what the log of another slice of time says."""
    text = log.read_text(errors="replace")
    seen = [tuple(map(int, (match[1], match[3], match[4]))) for match in map(STATUS.match, text.splitlines()) if match]
    if not seen:
        raise SystemExit(f"the fuzzer did not start:\n{text[-3000:]}")
    before, growth = record["executions"], list(record["growth"])
    edges, features, last = record["edges"], record["features"], record["last_new_coverage_at"]
    for number, cov, ft in seen:
        if cov > edges:
            last = before + number
            growth.append([last, cov])
        edges, features = max(edges, cov), max(features, ft)
    return {
        "executions": before + seen[-1][0],
        "seconds": round(record["seconds"] + seconds, 1),
        "edges": edges,
        "features": features,
        "last_new_coverage_at": last,
        "growth": _thinned(growth),
    }


def _thinned(growth, most=24):
    """Points of a curve, fewer where there are many, the first and the last always."""
    step = -(-len(growth) // most)
    return growth if step <= 1 else growth[:-1:step] + growth[-1:]


def _records(path):
    return json.loads(path.read_text())["targets"] if path and path.exists() else {}


def _write(records, path):
    total = {key: round(sum(one[key] for one in records.values()), 1) for key in ("executions", "seconds")}
    path.write_text(
        json.dumps(
            {
                "command": "python -m tests.fuzz.run --seconds … --record benchmarks/results/fuzz.json",
                "total": total,
                "targets": records,
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
