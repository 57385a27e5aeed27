"""The table of errors behind bands: measured over predicted of left-out runs, by class.

    python -m benchmarks.fidelity.errors [--json] [--output FILE] [--quick]

It reads what `fidelity` and `speeds` kept (benchmarks/results/fidelity.json, speeds.json) and writes the table that
the package comes with to FILE (remoe_sim/devices/errors.csv is it). Then it tests the bands: each run is looked for in
the band of the others, those of other hardware, models and top-k. `--quick` is the same, as it takes a second.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.script import options, show
from remoe_sim.devices.band import LEAST_RUNS, all_of
from remoe_sim.util.cards import write_text

RESULTS = Path(__file__).parents[1] / "results"
FROM_HOST = ("imp", "mixtral-offloading")
GIVEN = " compute time given"
TAIL = 0.08  # cut off at each end: of runs of other machines and models, which differ more than their number says, 80 %
# are then inside; with a tenth it was 75 %. Chosen after a look at both.


def runs_of() -> list[tuple[str, tuple[str, ...], str, float]]:
    """(class, configuration, id, measured over predicted) of every left-out prediction."""
    runs = []
    for row in json.loads((RESULTS / "fidelity.json").read_text("utf-8"))["rows"]:
        numbers = "fitted" if row["fitted_on_others"] else "card"
        of = f"{'host' if row['engine'] in FROM_HOST else 'storage'} {numbers}"
        configuration = (row["hardware"], row["model"], str(row["top_k"]))
        runs.append((of, configuration, row["id"], 1 / (1 + row["blind_error"])))
        if row["given_error"] is not None:
            runs.append((of + GIVEN, configuration, row["id"], 1 / (1 + row["given_error"])))
    for row in json.loads((RESULTS / "speeds.json").read_text("utf-8"))["rows"]:
        host = {True: " host known", False: " host unknown", None: ""}[row["host_known"]]
        for numbers, key in (("card", "card_error"), ("fitted", "engine_error")):
            of = f"{row['residency']} {numbers}{host}"
            runs.append((of, tuple(row["configuration"]), row["id"], 1 / (1 + row[key])))
    return runs


def between(ratios: list[float]) -> tuple[float, float]:
    """What 80 % are between; of few, further out, so that as many of others are."""
    low, high = np.quantile(ratios, [TAIL, 1 - TAIL], method="weibull")
    return float(low), float(high)


def table_of(runs: list[tuple[str, tuple[str, ...], str, float]]) -> dict[str, list[float]]:
    """Ratios by class, and those of all classes whose numbers were found in the same way."""
    table: dict[str, list[float]] = {}
    for of, _, _, ratio in runs:
        table.setdefault(of, []).append(ratio)
        table.setdefault(all_of(of), []).append(ratio)
    return table


def inside_of(runs: list[tuple[str, tuple[str, ...], str, float]]) -> dict[str, Any]:
    """How many runs are inside the band of the others: overall, and by class."""
    inside: dict[str, list[bool]] = {}
    for of, configuration, _, ratio in runs:
        table = table_of([one for one in runs if one[1] != configuration])
        others = table.get(of, [])
        if len(others) < LEAST_RUNS:
            others = table[all_of(of)]
        low, high = between(others)
        inside.setdefault(of, []).append(low <= ratio <= high)
    flat = [one for each in inside.values() for one in each]
    return {
        "runs": len(flat),
        "inside": float(np.mean(flat)),
        "by_class": {of: {"runs": len(each), "inside": float(np.mean(each))} for of, each in sorted(inside.items())},
    }


def text_of(runs: list[tuple[str, tuple[str, ...], str, float]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("class", "runs", "low", "high"))
    for of, ratios in sorted(table_of(runs).items()):
        low, high = between(ratios)
        writer.writerow((of, len(ratios), f"{low:.3f}", f"{high:.3f}"))
    return out.getvalue()


def main() -> None:
    parser = options(__doc__, quick={}, output="write the table to this file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    given = parser.parse_args()
    runs = runs_of()
    text = text_of(runs)
    if given.output:
        write_text(text, given.output)
    answer = inside_of(runs)
    if given.json:
        show(answer, indent=1)
        return
    print(text)
    print(f"{answer['runs']} left-out predictions, {answer['inside']:.0%} inside the band of the others")
    for of, one in answer["by_class"].items():
        print(f"  {of:34}{one['runs']:4}{one['inside']:6.0%}")


if __name__ == "__main__":
    main()
