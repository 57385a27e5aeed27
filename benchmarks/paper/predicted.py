"""What the measured pair would mean on real devices: time per token of models that were not tuned here.

    python -m benchmarks.paper.predicted [--traces FOLDER] [-o FOLDER]

Measured: the reuse of adjacent tokens of a small original and its tuned model, and how unevenly both use their experts
(the bundled samples, or the traces of a folder). Extrapolated: that DeepSeek-V2-Lite and Qwen1.5-MoE have the same.
`remoe_sim.synth` draws traces in the shape of a large model whose reuse is the measured one, in all layers alike, and
whose popularity is as skewed; the recency of experts beyond the token before is that of synth's plain law, as stacks of
32 experts say nothing of those of 64. Times are modelled, with the cards' numbers, of which some are assumed.
Writes predicted.json and predicted.md, and prints the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import remoe_sim
from benchmarks.paper.drawing import OUTPUT
from benchmarks.paper.expert_use import balance
from benchmarks.script import keep, options
from remoe_sim import Trace
from remoe_sim.trace import DECODE

MODELS = {"deepseek": "deepseek-v2-lite", "qwen": "qwen1.5-moe-a2.7b"}  # small architecture: large model
DEVICES = "jetson-orin-nx-16gb,rtx-4090"
QUANTS = ("bf16", "q4_k_m")
SHARES = (None, 0.25, 0.5)  # of the experts of a layer that its cache holds; None: k of them
REQUEST, PROMPT = 512, 64
SAID = (
    "Measured: reuse and load balance of the small models, on 200 texts. Extrapolated: that the large models have the "
    "same reuse and gain. Modelled: all times, from the device cards; one LRU cache per layer, misses from host memory "
    "where the device has a link to it, else from storage."
)


@dataclass(frozen=True)
class Measured:
    """What is taken from a trace: adjacent reuse of decode tokens, and the CV of how often experts are used, the mean
    over layers."""

    reuse: float
    cv: float


def measured(trace: Trace) -> Measured:
    rows = trace.phase == DECODE
    reuse = float(remoe_sim.reuse(trace).reuse_rate.iloc[-1])
    uses = [np.bincount(trace.decisions(at).experts[rows].ravel(), minlength=trace.model.experts[at])
            for at in range(trace.moe_layers)]  # fmt: skip
    return Measured(reuse, float(np.mean([balance(one) for one in uses])))


def in_the_shape_of(name: str, like: Measured, tokens: int, seed: int) -> Trace:
    """A synthetic trace of a large model with the measured reuse, and the skew that gives the measured CV; none where
    recency alone gives more."""
    from scipy.optimize import brentq

    def made(skew: float) -> Trace:
        return remoe_sim.synth(tokens=tokens, reuse=like.reuse, seed=seed, model=name, skew=skew,
                               request_tokens=REQUEST, prompt_tokens=PROMPT)  # fmt: skip

    def off(skew: float) -> float:
        return measured(made(skew)).cv - like.cv

    return made(float(brentq(off, 0.0, 3.0, xtol=0.005)) if off(0.0) < 0 else 0.0)


def predict(
    architecture: str, pair: dict[str, Trace], tokens: int, devices: list[str], seed: int
) -> list[dict[str, Any]]:
    """Rows of device, quantisation and capacity: time per token of both, and what changes."""
    name = MODELS[architecture]
    card = remoe_sim.model(name)
    found = {side: measured(trace) for side, trace in pair.items()}
    made = {side: in_the_shape_of(name, one, tokens, seed) for side, one in found.items()}
    reached = {side: measured(trace) for side, trace in made.items()}
    rows = []
    for device in devices:
        for quant in QUANTS:
            for share in SHARES:
                cache = card.top_k if share is None else round(share * card.experts)
                sized = remoe_sim.model(name, quant)
                left_out = sum(sized.expert_bytes) * (card.experts - cache)
                if sized.total_bytes - left_out > remoe_sim.device(device).memory_bytes:
                    continue  # it does not fit
                results = {
                    side: remoe_sim.replay(trace, cache, policy="lru", phase="decode", device=device, model=name,
                                           quant=quant)["lru"]
                    for side, trace in made.items()
                }  # fmt: skip
                tpot = {side: one.tpot_ms["mean"] for side, one in results.items()}
                rows.append({
                    "model": name, "device": device, "quant": quant, "cache": cache, "experts": card.experts,
                    "hit_rate": {side: one.hit_rate for side, one in results.items()}, "tpot_ms": tpot,
                    "change": tpot["remoe"] / tpot["original"] - 1, "speedup": tpot["original"] / tpot["remoe"],
                    "measured": {side: vars(one) for side, one in found.items()},
                    "drawn": {side: vars(one) for side, one in reached.items()},
                })  # fmt: skip
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        SAID,
        "",
        "| model | device | weights | cache | hit rate | TPOT, ms | change | speed-up |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        hits, times = row["hit_rate"], row["tpot_ms"]
        lines.append(
            f"| {row['model']} | {row['device']} | {row['quant']} | {row['cache']} of {row['experts']} | "
            f"{100 * hits['original']:.1f} → {100 * hits['remoe']:.1f} % | {times['original']:.1f} → "
            f"{times['remoe']:.1f} | {100 * row['change']:+.1f} % | {row['speedup']:.2f}× |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = options(__doc__, quick={"output": OUTPUT / "quick", "tokens": 640, "devices": "t4"}, output=None)
    parser.add_argument("--traces", type=Path, help="folder of deepseek-original.parquet, deepseek-remoe.parquet, …")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, help="folder")
    parser.add_argument("--tokens", type=int, default=8192, help="of each drawn trace (8192)")
    parser.add_argument("--devices", default=DEVICES, metavar="NAME,…", help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = []
    for architecture in MODELS:
        names = {side: f"{architecture}-{side}" for side in ("original", "remoe")}
        place = {
            side: given.traces / f"{name}.parquet" if given.traces else f"sample:{name}" for side, name in names.items()
        }
        pair = {side: remoe_sim.read_trace(one) for side, one in place.items()}
        rows += predict(architecture, pair, given.tokens, given.devices.split(","), given.seed)
    given.output.mkdir(parents=True, exist_ok=True)
    keep({"said": SAID, "rows": rows}, given.output / "predicted.json")
    (given.output / "predicted.md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
