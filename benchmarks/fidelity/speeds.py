"""Predicted against measured: decode speeds of models that are resident, or have experts of some layers on the CPU.

    python -m benchmarks.fidelity.speeds [speeds.csv] [--json] [--output FILE] [--quick]

Every row of the table is predicted or listed with the reason why not, in two ways. `card`: the device's card alone, as
`estimate` takes it without an engine. `engine`: with numbers of the engine that were fitted without the row's
configuration (hardware, model, top-k). Their form was fixed before the errors were looked at a last time: a token takes

    bytes / (bandwidth * share) + layers * layer_s + bytes on the CPU / (matvec * cpu_share) + CPU layers * handover_s

with a share for each engine and kind of device, a layer_s and a cpu_share for each engine, all drawn towards what is
expected of any engine (PRIORS). A host's matvec and handover_s are those of its card. Two rules came after a first
look at the errors: runs whose host is not known are not fitted to, and the only run of an engine is left out. A form
with a layer_s for each kind of device, a time for layers with a state and a share for reading the context was tried
afterwards and was not better (12.1 and 28.0 % for resident models). `--quick` predicts four rows.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import remoe_sim
from benchmarks.script import keep, options, show
from remoe_sim.devices.estimate import estimate_one
from remoe_sim.devices.host import host as find_host
from remoe_sim.devices.measured_runs import LeftOut
from remoe_sim.models.sizes import SizedModel
from remoe_sim.util.cards import Fact

HERE = Path(__file__).parent
PRIORS = {"share": (0.7, 0.2), "layer_s": (5e-5, 0.7), "cpu_share": (0.9, 0.3)}  # value, deviation of its logarithm
NOISE = 0.12  # between runs that only differ in what is not modelled: of logarithms
QUANTS = {"mxfp4_moe": "q4_k_m", "int4-g128": "bpw:4.25"}  # experts of gpt-oss stay MXFP4; a 16-bit scale per 128
ENGINES = {
    "llama.cpp": "llama.cpp", "ollama": "llama.cpp", "ik_llama.cpp": "llama.cpp", "vllm": "vllm",
    "ktransformers": "ktransformers",
}  # fmt: skip
CARDS = {  # the card that a machine without one is like, but for its bandwidth
    "RTX PRO 6000": "rtx-5090", "RX 7900": "rtx-3090", "M4 Pro": "apple-m4-max", "M1 Max": "apple-m3-max",
    "AGX Thor": "jetson-agx-orin-64gb", "RTX 5000": "rtx-3090", "RTX 2080": "rtx-3090", "RTX 4080": "rtx-4090",
    "ROCm GPU": "rtx-3090", "RDNA4": "rtx-3090",
}  # fmt: skip
HOSTS = {
    "7950X": "desktop-ddr5-6000", "one Xeon 6454S": "xeon-6454s", "two Xeon 6454S": "xeon-6454s-dual",
    "i9-10900X": "hedt-ddr4-quad",
}  # fmt: skip
UNKNOWN_HOST = "desktop-ddr5-5600"


@dataclass(frozen=True)
class Speed:
    """One row: what it measured, and what the sizes of its model say it moves."""

    id: str
    hardware: str
    model: SizedModel
    card: str
    kind: str
    engine: str
    bandwidth: float
    seconds: float
    device_bytes: float
    cpu_bytes: float
    cpu_layers: int
    host: str | None
    top_k: int | None

    @property
    def configuration(self) -> tuple[str, str, int | None]:
        return self.hardware, self.model.name, self.top_k

    @property
    def residency(self) -> str:
        return "cpu" if self.cpu_layers else "resident"


def read_speeds(path: Path) -> tuple[list[Speed], list[LeftOut]]:
    speeds, left_out = [], []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            reason = not_predicted(row)
            if reason is None:
                speeds.append(speed_of(row))
            else:
                left_out.append(LeftOut(row["id"], reason))
    return speeds, left_out


def not_predicted(row: dict[str, str]) -> str | None:
    if row["kind"] == "cpu":
        return "all on the CPU: two rows of two machines, too few to fit a number and leave one out"
    if row["engine"] == "tensorrt-edge-llm":
        return "the only run of its engine"
    if "dense bytes are too small" in row["note"]:
        return "its dense weights are in 16 bits, which the row's quantisation does not say"
    return None


def speed_of(row: dict[str, str]) -> Speed:
    top_k = int(row["top_k"]) if row["top_k"] else None
    model = remoe_sim.model(row["model"], QUANTS.get(row["quant"], row["quant"]), top_k)
    context = int(row["context"])
    cached = sum(
        (each or 0.0) * min(context, window or context)
        for each, window in zip(model.kv_bytes_per_token, model.kv_window_tokens, strict=True)
    )
    experts, on_cpu = np.array(model.expert_bytes) * model.top_k, int(row["moe_layers_on_cpu"] or 0)
    name = row["device_card"]
    if name == "adhoc":
        name = next(card for text, card in CARDS.items() if text in row["hardware"])
    kind = "rocm" if "hip" in row["engine"] else "metal" if "Apple" in row["hardware"] else "cuda"
    words = row["host"]
    return Speed(
        row["id"], row["hardware"], model, name, kind, ENGINES[row["engine"].split()[0]],
        float(row["mem_bw_GBs"]) * 1e9, 1 / float(row["tok_s"]),
        sum(model.dense_bytes) + model.head_bytes + 2 * sum(model.state_bytes) + cached + float(experts[on_cpu:].sum()),
        float(experts[:on_cpu].sum()), on_cpu, next((card for text, card in HOSTS.items() if text in words), None),
        top_k,
    )  # fmt: skip


def names_of(speeds: list[Speed]) -> list[tuple[str, ...]]:
    """The numbers that are fitted: (share, engine, kind), (layer_s, engine), (cpu_share, engine)."""
    names: dict[tuple[str, ...], None] = {}
    for one in speeds:
        names |= {("share", one.engine, one.kind): None, ("layer_s", one.engine): None}
        if one.cpu_layers:
            names["cpu_share", one.engine] = None
    return list(names)


def predicted(one: Speed, numbers: dict[tuple[str, ...], float]) -> float:
    """Seconds per token."""

    def number(kind: str, *of: str) -> float:
        return numbers.get((kind, one.engine, *of), PRIORS[kind][0])

    rate = one.bandwidth * min(number("share", one.kind), 1.0)
    seconds = one.device_bytes / rate + one.model.layers * number("layer_s")
    if one.cpu_layers:
        host = find_host(one.host or UNKNOWN_HOST)
        matvec = host.matvec_bytes_per_s.get("q4", 0.8 * host.bandwidth_bytes_per_s)
        seconds += one.cpu_bytes / (matvec * number("cpu_share")) + one.cpu_layers * (host.handover_s or 0.0)
    return seconds


def fitted(speeds: list[Speed]) -> dict[tuple[str, ...], float]:
    """Fitted numbers; runs whose host is not known tell nothing of an engine, so they are only predicted."""
    from scipy.optimize import least_squares

    speeds = [one for one in speeds if one.host or not one.cpu_layers]
    names = names_of(speeds)
    start = np.log([PRIORS[name[0]][0] for name in names])
    spread = np.array([PRIORS[name[0]][1] for name in names])

    def residuals(x: np.ndarray) -> np.ndarray:
        numbers = dict(zip(names, np.exp(x), strict=True))
        errors = [np.log(predicted(one, numbers) / one.seconds) / NOISE for one in speeds]
        return np.array([*errors, *((x - start) / spread)])

    found = least_squares(residuals, start, loss="soft_l1").x
    shares = np.where([name[0] != "layer_s" for name in names], 1.0, np.inf)
    return dict(zip(names, np.minimum(np.exp(found), shares).tolist(), strict=True))


def by_card(one: Speed) -> float:
    """Seconds per token as `estimate` predicts without an engine."""
    read = Fact(one.bandwidth, "verified-secondary", "speeds.csv")
    device = remoe_sim.device(one.card).changed({"bandwidth_bytes_per_s": read})
    share = float(sum(one.model.expert_bytes[one.cpu_layers :]) / sum(one.model.expert_bytes))
    host = None if device.unified else one.host or UNKNOWN_HOST
    device = remoe_sim.machine(device, host=host, engine="generic")
    return (
        estimate_one(
            one.model, device, overlap="layer", lanes=None, hit_rate=share, bytes_per_token=None, compute_ms=None,
            misses_from="cpu" if one.cpu_layers else None,
        ).tpot_ms
        / 1e3
    )  # fmt: skip


def rows_of(speeds: list[Speed], quick: bool = False) -> list[dict[str, Any]]:
    rows = []
    fits: dict[Any, dict[tuple[str, ...], float]] = {}
    for one in speeds[:4] if quick else speeds:
        if one.configuration not in fits:
            fits[one.configuration] = fitted([other for other in speeds if other.configuration != one.configuration])
        engine, card = predicted(one, fits[one.configuration]), by_card(one)
        rows.append({
            "id": one.id, "hardware": one.hardware, "model": one.model.name, "top_k": one.model.top_k,
            "configuration": list(map(str, one.configuration)), "engine": one.engine, "residency": one.residency,
            "host_known": one.host is not None if one.cpu_layers else None, "measured_ms": one.seconds * 1e3,
            "card_ms": card * 1e3, "card_error": card / one.seconds - 1,
            "engine_ms": engine * 1e3, "engine_error": engine / one.seconds - 1,
        })  # fmt: skip
    return rows


def summary(rows: list[dict[str, Any]], key: str) -> dict[str, Any]:
    errors = np.abs([row[key] for row in rows])
    if not errors.size:
        return {"rows": 0, "median": None, "p90": None}
    return {"rows": int(errors.size), "median": float(np.median(errors)), "p90": float(np.quantile(errors, 0.9))}


def answer_of(path: Path, quick: bool) -> dict[str, Any]:
    speeds, left_out = read_speeds(path)
    rows = rows_of(speeds, quick)
    groups = {
        "resident": [row for row in rows if row["residency"] == "resident"],
        "hybrid_known_host": [row for row in rows if row["host_known"]],
        "hybrid_unknown_host": [row for row in rows if row["host_known"] is False],
    }
    return {
        "quick": quick, "rows": rows, "left_out": [vars(one) for one in left_out],
        "errors": {
            name: {way: summary(of, f"{way}_error") for way in ("card", "engine")} for name, of in groups.items()
        },
        "fitted": {".".join(name): value for name, value in fitted(speeds).items()},
    }  # fmt: skip


def main() -> None:
    parser = options(__doc__, quick={}, output="write the JSON to this file too")
    parser.add_argument("speeds", nargs="?", type=Path, default=HERE / "speeds.csv")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    given = parser.parse_args()
    answer = answer_of(given.speeds, given.quick)
    if given.output:
        keep(answer, given.output, indent=1)
    if given.json:
        show(answer, indent=1)
        return
    for row in answer["rows"]:
        print(
            f"{row['id']:6}{row['hardware'][:24]:26}{row['model']:18}{row['engine']:14}{row['measured_ms']:9.2f}"
            f"{row['card_ms']:9.2f}{100 * row['card_error']:+6.0f}%"
            f"{row['engine_ms']:9.2f}{100 * row['engine_error']:+6.0f}%"
        )
    for name, errors in answer["errors"].items():
        for key, one in errors.items():
            if one["rows"]:
                print(f"{name}, {key}: {one['rows']} rows, {100 * one['median']:.1f} % {100 * one['p90']:.1f} %")
    print(answer["fitted"])
    for one in answer["left_out"]:
        print(f"left out {one['id']}: {one['reason']}")


if __name__ == "__main__":
    main()
