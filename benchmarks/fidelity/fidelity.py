"""Predicted against measured: time per token of published runs of real engines.

    python -m benchmarks.fidelity.fidelity [measurements.csv …] [--json] [--output FILE] [--quick]

Every row of the table is predicted or listed with the reason why not. A row's prediction comes from numbers that were
fitted without its configuration (hardware, model, top-k): from the other runs of the same engine, or, where there are
none, from the device card as it would be without fits. `blind` knows the bytes that were read, `given` also the run's
own computing time. In-sample errors, of cards fitted to all rows, stand beside. Rows of both tables are published
figures, each with its source.

What leaving out does not cover: which numbers are fitted, what they start from, and which costs the model has at all
(contention, overlap efficiency) were chosen with all rows in view, after about ten other forms had been tried. So were
two numbers of the laptop's card: its efficiency, and that it takes the phone's time per expert. Runs that were
not in view may be predicted worse than the table says.

`--output` keeps what `--json` prints; README.md and docs/claims.md take their figures from it. `--quick` predicts one
configuration of each engine, to show that all of it runs.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import remoe_sim
from benchmarks.script import keep, options, show
from remoe_sim.devices.calibrate import fit_devices, predict_ms
from remoe_sim.devices.device import Device
from remoe_sim.devices.measured_runs import LeftOut, Run, read_runs
from remoe_sim.util.cards import Fact

HERE = Path(__file__).parent
TABLES = ("measurements.csv", "measurements_2.csv")
KEYS = ("blind_error", "given_error", "blind_in_sample_error", "given_in_sample_error")


def assumed(value: float) -> Fact:
    return Fact(value, "assumed", "before any fit")


@dataclass(frozen=True)
class Engine:
    """Runs of one engine: text in `hardware` -> device card, numbers that are fitted together, and what they start
    from (nothing of it was fitted to the table)."""

    name: str
    devices: dict[str, str]
    fit: tuple[str, ...]
    start: dict[str, float]
    overlap: str | None = None


PHONE = {"efficiency": 0.8, "expert_s": 1e-4, "contention_bytes_per_s": 5e9, "overlap_efficiency": 0.3,
         "storage.overhead_s": 0.0, "storage.latency_s": 2e-4, "storage.bandwidth_bytes_per_s": 2.6e9,
         "state_bytes_per_s": 1e9}  # fmt: skip
IMP = "RTX 5090 32 GB (imp)"
ENGINES = (
    Engine("BigMoeOnEdge, phone", {"OnePlus 15R": "oneplus-15r"},
           ("expert_s", "contention_bytes_per_s", "state_bytes_per_s", "overlap_efficiency", "storage.latency_s",
            "storage.bandwidth_bytes_per_s"), PHONE),
    # the time per expert is the phone's (same engine); its efficiency was set with these rows in view
    Engine("BigMoeOnEdge, laptop", {"Windows laptop 8c": "laptop-ddr4-nvme"}, ("storage.bandwidth_bytes_per_s",), {}),
    Engine("imp", {"imp#32": "rtx-5090", IMP: "rtx-5090"}, ("layer_s",), {}),
    Engine("mixtral-offloading",
           {"A100": "a100-80gb", "3080 Mobile": "rtx-3080-mobile", "3060": "rtx-3060-pcie3", "T4": "t4"}, ("layer_s",),
           {}, "none"),
    Engine("Crow", {"one Phison NVMe": "rtx-5090"}, ("layer_s",), {}),
)  # fmt: skip
OUT = {
    "lossy": "marked lossy: experts were dropped",
    "prefetch": "prefetches by a rule that is not modelled from bytes alone",
    "VRAM + RAM + SSD": "three tiers: how many bytes came from which is not published",
    "3-tier": "three tiers: how many bytes came from which is not published",
}
HELD_OUT = "held out of fits: a paging case, or its rate counts the prompt"
RESIDENT = "nothing is missed: kernels run in a graph, another path of its engine than with a cache"
UNKNOWN_BITS = "bits per weight of this quantisation are not stated"


def usable(run: Run, row: dict[str, str]) -> str | None:
    """Why a run that could be read is not predicted; None if it is."""
    for word, reason in OUT.items():
        if word.lower() in row["mode"].lower():
            return reason
    if "hold out of fits" in row["quote_or_note"]:
        return HELD_OUT
    if run.hit_rate == 1 and row["mode"].startswith("imp"):
        return RESIDENT
    if "3-bit experts" in row["quant"]:
        return UNKNOWN_BITS
    if engine_of(run) is None:
        return "no card for this hardware and engine, or its quantisation is not stated"
    if "sim C=6" in row["cache_budget"]:
        return "its hit rate is that of a simulation, not of the run"
    return None


def engine_of(run: Run) -> tuple[Engine, str] | None:
    found = [(engine, card) for engine in ENGINES for text, card in engine.devices.items() if text in run.hardware]
    return found[0] if found else None


def placed(run: Run) -> Run:
    engine, _ = engine_of(run)  # type: ignore[misc]
    return replace(run, overlap=engine.overlap or run.overlap)


def device_of(run: Run) -> Device:
    """The card without what was fitted to the table."""
    engine, card = engine_of(run)  # type: ignore[misc]
    return remoe_sim.device(card).changed({name: assumed(value) for name, value in engine.start.items()})


def place_of(run: Run) -> str | None:
    return "storage" if "NVMe" in run.hardware and "5090" in run.hardware else None


def fitted_without(runs: list[Run], engine: Engine, configuration: Any) -> dict[str, Fact]:
    others = [run for run in runs if engine_of(run)[0] is engine and run.configuration != configuration]  # type: ignore[index]
    if len(others) < max(len(engine.fit), 3):
        return {}
    return fit_devices([(run, device_of(run)) for run in others], engine.fit, place_of(others[0]))[0]


def predict(runs: list[Run], quick: bool = False) -> list[dict[str, Any]]:
    rows = []
    for engine in ENGINES:
        mine = [run for run in runs if engine_of(run)[0] is engine]  # type: ignore[index]
        configurations = list(dict.fromkeys(run.configuration for run in mine))
        fits = {one: fitted_without(runs, engine, one) for one in (configurations[:1] if quick else configurations)}
        in_all = fits[configurations[0]] if quick else fitted_without(runs, engine, None)
        for configuration, facts in fits.items():
            for run in (one for one in mine if one.configuration == configuration):
                row: dict[str, Any] = {
                    "id": run.id, "engine": engine.name, "hardware": run.hardware[:30], "model": run.model,
                    "top_k": run.top_k, "measured_ms": run.tpot_ms, "fitted_on_others": bool(facts),
                }  # fmt: skip
                for name, numbers in (("", facts), ("_in_sample", in_all)):
                    device = device_of(run).changed(numbers)
                    blind = predict_ms(run, device, False, place_of(run))
                    row[f"blind{name}_ms"], row[f"blind{name}_error"] = blind, blind / run.tpot_ms - 1
                    given = predict_ms(run, device, True, place_of(run)) if run.compute_ms else None
                    row[f"given{name}_ms"] = given
                    row[f"given{name}_error"] = None if given is None else given / run.tpot_ms - 1
                rows.append(row)
    return rows


def summary(rows: list[dict[str, Any]], key: str) -> dict[str, Any]:
    errors = np.abs([row[key] for row in rows if row[key] is not None])
    if not errors.size:
        return {"rows": 0, "median": None, "p90": None}
    return {"rows": int(errors.size), "median": float(np.median(errors)), "p90": float(np.quantile(errors, 0.9))}


def read_table(path: Path) -> tuple[list[Run], list[LeftOut]]:
    """Runs that are predicted, and rows that are not, with the reason."""
    with path.open(encoding="utf-8", newline="") as file:
        table = {row["id"]: row for row in csv.DictReader(file)}
    read, left_out = read_runs(path)
    runs = []
    for run in read:
        if table[run.id]["mode"].startswith("imp,"):
            run = replace(run, hardware=IMP)
        reason = usable(run, table[run.id])
        if reason is None:
            runs.append(placed(run))
        else:
            left_out.append(LeftOut(run.id, reason))
    return runs, left_out


def answer_of(paths: list[Path], quick: bool) -> dict[str, Any]:
    """Rows, what was left out, and errors in all, of the phone and the laptop, and by engine."""
    runs: list[Run] = []
    left_out: list[LeftOut] = []
    for path in paths:
        more, without = read_table(path)
        runs, left_out = runs + more, left_out + without
    rows = predict(runs, quick)
    phones = [row for row in rows if row["engine"].startswith("BigMoeOnEdge")]
    return {
        "quick": quick,
        "rows": rows,
        "left_out": [vars(one) for one in left_out],
        "all": {key: summary(rows, key) for key in KEYS},
        "phone_and_laptop": {key: summary(phones, key) for key in KEYS},
        "by_engine": {
            engine.name: {key: summary([row for row in rows if row["engine"] == engine.name], key) for key in KEYS}
            for engine in ENGINES
        },
    }


def print_tables(answer: dict[str, Any]) -> None:
    print(
        f"{'run':6}{'hardware':32}{'model':20}{'k':>3}{'measured':>10}{'blind':>9}{'error':>8}{'given':>9}{'error':>8}"
    )
    for row in answer["rows"]:
        given = "" if row["given_ms"] is None else f"{row['given_ms']:9.0f}{100 * row['given_error']:+7.0f}%"
        mark = "" if row["fitted_on_others"] else "  card only"
        print(
            f"{row['id']:6}{row['hardware']:32}{row['model']:20}{row['top_k'] or '':>3}{row['measured_ms']:10.0f}"
            f"{row['blind_ms']:9.0f}{100 * row['blind_error']:+7.0f}%{given:>17}{mark}"
        )
    for label in ("all", "phone_and_laptop"):
        print(f"\n{label}: absolute errors, median and 90th percentile")
        for key in KEYS:
            one = answer[label][key]
            if one["rows"]:
                print(f"  {key:24}{one['rows']:4} rows {100 * one['median']:6.1f} % {100 * one['p90']:6.1f} %")
    print(f"\nleft out ({len(answer['left_out'])}):")
    for one in answer["left_out"]:
        print(f"  {one['id']}: {one['reason']}")


def main() -> None:
    parser = options(__doc__, quick={}, output="write the JSON to this file too")
    parser.add_argument("measurements", nargs="*", type=Path, default=[HERE / name for name in TABLES])
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    given = parser.parse_args()
    answer = answer_of(given.measurements, given.quick)
    if given.output:
        keep(answer, given.output, indent=1)
    if given.json:
        show(answer, indent=1)
    else:
        print_tables(answer)


if __name__ == "__main__":
    main()
