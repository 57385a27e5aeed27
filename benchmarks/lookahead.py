"""What look-ahead choices are worth: recall by distance and rank, and prefetching with them, by bytes and by time.

    python -m benchmarks.lookahead [--quick] [-o benchmarks/results/lookahead.json]

Trains the two small models of `benchmarks.paper.small_models` (a DeepSeek-V2-like and a Qwen2-MoE-like one) on the
sources of Python's standard library, lets them generate from texts that they have not seen, and records with `ahead=3`
what the router of each layer says up to three MoE layers before. Then `prefetch` replays the tokens with every
predictor, at a quarter of the experts in the cache. Transitions are learnt on other requests. Sizes are those of the
models as they were loaded; times are modelled on an RTX 3090 that reads from its host.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.script import library, options, show

DISTANCES = (1, 2, 3)
PREDICTORS = ("previous", "transition", "lookahead", "oracle")
PROMPT = 32  # bytes of a text that are the prompt
DEVICE = "rtx-3090"


def main() -> None:
    parser = options(__doc__, quick={"steps": 4, "texts": 4, "new_tokens": 6, "architecture": "qwen"})
    parser.add_argument("--steps", type=int, default=60, help="of training")
    parser.add_argument("--texts", type=int, default=32, help="half to learn transitions on, half to replay")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--architecture", default="deepseek,qwen")
    given = parser.parse_args()
    for package in ("torch", "transformers"):
        library(package)
    answer = {
        "steps": given.steps, "texts": given.texts, "new_tokens": given.new_tokens, "device": DEVICE,
        "models": {name: measure(name, given) for name in given.architecture.split(",")},
    }  # fmt: skip
    show(answer, given.output)


def measure(architecture: str, given: Any) -> dict[str, Any]:
    import remoe_sim

    trace = recorded(architecture, given)
    requests = sorted(set(trace.request.tolist()))
    half = len(requests) // 2
    learnt, replayed = trace.select(requests=requests[:half]), trace.select(requests=requests[half:])
    cache = trace.model.experts[0] // 4
    return {
        "experts": trace.model.experts[0], "top_k": trace.model.top_k[0], "moe_layers": trace.moe_layers,
        "tokens": replayed.tokens, "cache": cache, "expert_bytes": trace.model.expert_bytes[0],
        "recall": recall(remoe_sim.info(replayed)),
        "prefetch": [row for depth in DISTANCES for row in prefetched(replayed, learnt, cache, depth)],
    }  # fmt: skip


def recorded(architecture: str, given: Any) -> Any:
    """The trace of a model that was trained just now."""
    from benchmarks.paper.small_models import train
    from benchmarks.paper.stdlib_texts import excerpts, sources, tokenizer
    from remoe_sim.capture import run
    from remoe_sim.finetune.texts import read_texts

    parts, batch, length = sources(), 8, 128
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        texts = excerpts(parts["train"], length, given.steps * batch)
        pieces = [one for text in read_texts(texts, tokenizer(), length) for one in text]
        train(architecture, pieces, given.steps, batch, "cpu", 0, path)
        prompts = excerpts(parts["test"], PROMPT, given.texts)
        return run(str(path), prompts, max_new_tokens=given.new_tokens, batch=8, device="cpu", ahead=max(DISTANCES))


def recall(info: Any) -> list[dict[str, Any]]:
    """For each distance over all layers: the recall of all choices, and by rank."""
    found = []
    for distance in sorted({one.distance for one in info.ahead}):
        some = [one for one in info.ahead if one.distance == distance]
        share = sum(one.foreseen for one in some) / sum(one.wanted for one in some)
        ranks = [sum(values) / len(values) for values in zip(*(one.by_rank for one in some), strict=True)]
        layers = {str(one.layer): round(one.recall or 0, 4) for one in some}
        by_rank = [round(one, 4) for one in ranks]
        found.append({"distance": distance, "recall": round(share, 4), "by_rank": by_rank, "by_layer": layers})
    return found


def prefetched(trace: Any, learnt: Any, cache: int, depth: int) -> list[dict[str, Any]]:
    """A row for each predictor, and one without any."""
    import remoe_sim

    report = remoe_sim.prefetch(
        trace, cache, predictor=PREDICTORS, depth=depth, train=learnt, phase="decode", device=DEVICE
    )
    bare = report[0].without
    rows = [_row("none", depth, bare), *(_row(one.predictor, depth, one) for one in report)]
    return rows if depth == DISTANCES[0] else rows[1:]


def _row(predictor: str, depth: int, one: Any) -> dict[str, Any]:
    tokens, counts = one.decode.tokens, one.decode
    return {
        "predictor": predictor, "depth": depth, "hit_rate": round(counts.hit_rate, 4),
        "demand_kib": round(counts.demand_bytes / tokens / 1024, 1),
        "prefetch_kib": round(counts.prefetch_bytes / tokens / 1024, 1),
        "wasted_kib": round(counts.wasted_bytes / tokens / 1024, 1),
        "tpot_ms": round(1000 / one.timed.times.tokens_per_second, 4),
        "late": one.late if predictor != "none" else 0, "loaded": counts.prefetched,
    }  # fmt: skip


def tables(answer: dict[str, Any]) -> str:
    """Both tables of docs/what-if.md."""
    lines = ["| model | MoE layers ahead | recall | by rank |", "|---|---|---|---|"]
    for name, one in answer["models"].items():
        for row in one["recall"]:
            ranks = ", ".join(f"{value:.2f}" for value in row["by_rank"])
            lines.append(f"| {name} | {row['distance']} | {row['recall']:.2f} | {ranks} |")
    lines += [
        "",
        "| model | ahead | predictor | hit rate | KiB/token missed | prefetched | of it wasted | ms per token |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in answer["models"].items():
        for row in one["prefetch"]:
            ahead = "" if row["predictor"] == "none" else row["depth"]
            lines.append(
                f"| {name} | {ahead} | {row['predictor']} | {100 * row['hit_rate']:.1f} % | {row['demand_kib']:.1f} | "
                f"{row['prefetch_kib']:.1f} | {row['wasted_kib']:.1f} | {row['tpot_ms']:.4f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
