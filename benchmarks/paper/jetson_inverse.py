"""The paper's Jetson rows as an inverse problem: which cache and which storage would make both times come out?

    python -m benchmarks.paper.jetson_inverse [-o FOLDER]

llama.cpp maps the model's file, so the page cache is the expert cache. Quantisation, size of the cache and storage are
not published. For traces with the published overlap rates, drawn at random (locality.py), this finds the capacities
(experts per layer, LRU) and bandwidths at which the model of a Jetson Orin NX gives the published TPOT of the original,
and how far ReMoE's is then from the published one. How long locality lasts is not published either, so it is varied.
Prints JSON and draws two figures. An answer says what would fit, never what the authors had.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import remoe_sim
from benchmarks.paper.drawing import OUTPUT, save
from benchmarks.paper.jetson_figures import draw_falls, draw_surfaces
from benchmarks.paper.locality import LAYERS, REQUEST, WHOLE_REQUEST, miss_rates, trace_with
from benchmarks.paper.published import EOR, JETSON_TPOT_MS, MODEL, TOP_K, UNIQUE_MISSES, change
from benchmarks.paper.surfaces import DEVICE, FAULT_BYTES, Inverse, Surface
from benchmarks.script import options, show

LIFETIMES = (16, 128, WHOLE_REQUEST)  # tokens
QUANTS, READS = ("q4_k_m", "q8_0"), ("fault", "direct")
SHOWN = {"original": 128, "same": 128, "longer": WHOLE_REQUEST}  # lifetimes of the figure
Reals = Any


def needed_falls() -> list[dict[str, Any]]:
    """How far misses must fall for the published fall of TPOT, if all but computing is in proportion to misses."""
    return [
        {
            "dataset": dataset,
            "change_of_tpot": change(pair),
            "needed_change_of_misses": {
                f"computing_{ms}_ms": (pair["remoe"] - ms) / (pair["original"] - ms) - 1 for ms in (0, 50, 100, 200)
            },
        }
        for dataset, pair in JETSON_TPOT_MS.items()
    ]


def change_of_misses(before: Reals, after: Reals) -> Reals:
    """From k experts per layer up to where the original misses nothing any more."""
    before, after = before[TOP_K:-1], after[TOP_K:-1]
    return after[before > 0] / before[before > 0] - 1


def answer(surface: Surface, misses: dict[str, Reals], published: dict[str, float]) -> dict[str, Any]:
    """Where both times come out, or the nearest to it."""
    inverse = Inverse.of(surface, misses, published, TOP_K)

    def place(capacity: float, bandwidth: float) -> dict[str, float]:
        missed = {name: float(np.interp(capacity, range(rates.size), rates)) for name, rates in misses.items()}
        read = missed["original"] * TOP_K * surface.expert_bytes
        waiting = published["original"] - surface.computing_ms
        return {
            "experts_per_layer": round(capacity, 1),
            "cache_gib": capacity * surface.expert_bytes / 2**30,
            "storage_bytes_per_s": bandwidth,
            "bytes_read_per_token_original": read,
            "effective_bytes_per_s": read / waiting * 1e3,
            "miss_rate_original": missed["original"],
            "miss_rate_remoe": missed["remoe"],
        }

    crossings, closest = [place(*one) for one in inverse.crossings()], inverse.closest()
    if crossings or closest is None:
        return {"both_come_out": crossings, "closest": None}
    residual = closest[2]
    missed_by = {"remoe_ms": published["remoe"] + residual, "residual_ms": residual,
                 "residual_share": residual / published["remoe"]}  # fmt: skip
    return {"both_come_out": [], "closest": {**place(*closest[:2]), **missed_by}}


def at_k(surface: Surface, misses: dict[str, Reals]) -> dict[str, Any]:
    """With a cache of k experts per layer: change of misses, and the largest fall of TPOT at any bandwidth."""
    tpot = {name: surface.at_rate(1 - rates[TOP_K]) for name, rates in misses.items()}
    return {
        "change_of_misses": float(misses["remoe"][TOP_K] / misses["original"][TOP_K] - 1),
        "largest_fall_of_tpot": float((tpot["remoe"] / tpot["original"]).min() - 1),
    }


def measure(tokens: int, layers: int, grid: tuple[int, int], seed: int) -> tuple[dict[str, Any], Any]:
    """The result, and what its figures show."""
    misses, traces = {}, []
    for lifetime in LIFETIMES:
        for which, rate in EOR.items():
            trace, strength = trace_with(rate, lifetime, tokens, layers, seed)
            misses[lifetime, which] = miss_rates(trace)
            traces.append({"router": which, "lifetime": lifetime, "strength": strength,
                           "reuse_rate": remoe_sim.info(trace).to_dict()["reuse_rate"]})  # fmt: skip
    pairs = [(a, b) for at, a in enumerate(LIFETIMES) for b in LIFETIMES[at:]]
    falls = {(a, b): change_of_misses(misses[a, "original"], misses[b, "remoe"]) for a, b in pairs}
    surfaces = {(quant, reads): Surface.of(quant, reads, *grid) for quant in QUANTS for reads in READS}
    answers, at_six = [], []
    for (quant, reads), surface in surfaces.items():
        for before, after in pairs:
            both = {"original": misses[before, "original"], "remoe": misses[after, "remoe"]}
            said = {"quant": quant, "reads": reads, "lifetime_original": before, "lifetime_remoe": after}
            at_six.append({**said, **at_k(surface, both)})
            answers += [
                {**said, "dataset": dataset, **answer(surface, both, published)}
                for dataset, published in JETSON_TPOT_MS.items()
            ]
    result = {
        "published": {"tpot_ms": JETSON_TPOT_MS, "eor": EOR, "change_of_misses_at_6": change(UNIQUE_MISSES)},
        "assumed": {
            "device": DEVICE, "model": MODEL, "overlap": "none", "policy": "lru per layer, warm", "tokens": tokens,
            "request_tokens": REQUEST, "layers_drawn": layers, "seed": seed, "lifetimes": list(LIFETIMES),
            "fault_bytes": FAULT_BYTES,
        },
        "needed": needed_falls(),
        "traces": traces,
        "largest_fall_of_misses": [
            {"lifetime_original": a, "lifetime_remoe": b, "experts_per_layer": int(fall.argmin()) + TOP_K,
             "change_of_misses": float(fall.min())} for (a, b), fall in falls.items()
        ],
        "at_6_experts_per_layer": at_six,
        "answers": answers,
        "computing_ms": {quant: surfaces[quant, READS[0]].computing_ms for quant in QUANTS},
        "largest_cache_that_fits": [room(quant, gib) for quant in QUANTS for gib in (8, 16)],
        "notes": list(remoe_sim.estimate(MODEL, DEVICE, quant="q4_k_m", hit_rate=0.5)[0].notes),
    }  # fmt: skip
    return result, ({quant: surfaces[quant, READS[0]] for quant in QUANTS}, misses, falls)


def room(quant: str, gib: int) -> dict[str, Any]:
    """Experts per layer that fit beside what is always resident, if nothing else took memory: an upper bound."""
    model = remoe_sim.model(MODEL, quant)
    free = gib * 2**30 - sum(model.resident_bytes) - model.head_bytes - model.embedding_bytes
    return {"quant": quant, "memory_gib": gib, "experts_per_layer": min(64, int(free // sum(model.expert_bytes)))}


def main() -> None:
    quick = {"output": OUTPUT / "quick", "tokens": 512, "layers": 1, "grid": (3, 4)}
    parser = options(__doc__, quick, output=None)
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, metavar="FOLDER", help="figures (build/paper)")
    parser.add_argument("--tokens", type=int, default=8192, help="of each drawn trace (8192)")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of each drawn trace (26)")
    parser.add_argument("--grid", type=int, nargs=2, default=(17, 40), help="hit rates and bandwidths (17 40)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    result, (surfaces, misses, falls) = measure(given.tokens, given.layers, tuple(given.grid), given.seed)
    result["figures"] = save(lambda c: draw_surfaces(surfaces, misses, SHOWN, c), given.output, "jetson-inverse")
    result["figures"] += save(lambda c: draw_falls(falls, c), given.output, "jetson-misses")
    show(result)


if __name__ == "__main__":
    main()
