"""The bundled traces: what the original and the ReMoE model of `train.py` route, of both architectures.

    python -m benchmarks.paper.train                  # the models and their traces
    python -m benchmarks.paper.samples                # traces/samples/*.parquet; prints the rows of their card

Only ids of experts are kept: gate weights would not fit, and the texts are told by `stdlib_texts.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import remoe_sim
from benchmarks.paper.drawing import OUTPUT
from benchmarks.script import options
from remoe_sim import InMemory, Trace, read_trace, write_trace
from tests.support.data import DEMO

SIDES = {"original": "original", "remoe": "paper"}  # name of a sample: of a trace of train.py
ARCHITECTURES = {"deepseek": "deepseek-v2", "qwen": "qwen2-moe"}  # name of a sample: in the name of its model
SAMPLES = Path(__file__).resolve().parents[2] / "traces" / "samples"


def sample(path: Path, name: str) -> Trace:
    """A recorded trace without gate weights and token ids, under another name."""
    trace = read_trace(path)
    decisions = [trace.decisions(index) for index in range(trace.moe_layers)]
    origin = {"format": "capture", "path": path.name, "sha256": None}
    return replace(
        trace, source=InMemory(decisions), token_id=None, origin=origin, model=replace(trace.model, name=name)
    )


def write(models: Path, folder: Path) -> Iterator[Path]:
    """Write the samples of the traces in models/ARCHITECTURE/."""
    for architecture, family in ARCHITECTURES.items():
        for side, recipe in SIDES.items():
            path = folder / f"{architecture}-{side}.parquet"
            write_trace(sample(models / architecture / f"{recipe}.parquet", f"{family}-5m-{side}"), path)
            yield path


def untrained(models: Path) -> None:
    """Write a small drawn trace in the place of each that train.py writes."""
    for architecture in ARCHITECTURES:
        (models / architecture).mkdir(parents=True, exist_ok=True)
        for recipe in SIDES.values():
            write_trace(read_trace(DEMO), models / architecture / f"{recipe}.parquet")


def card(path: Path) -> str:
    """The row of a sample in README.md."""
    trace = read_trace(path)
    about = remoe_sim.info(trace)
    reuse = remoe_sim.reuse(trace).reuse_rate.iloc[-1]
    kib = path.stat().st_size / 1024
    return f"| `{path.name}` | {about.requests} | {trace.tokens:,} | {100 * reuse:.2f} % | {kib:.0f} |"


def main() -> None:
    parser = options(__doc__, quick={"output": OUTPUT / "quick"}, output=None)
    parser.add_argument("--models", type=Path, default=OUTPUT / "models" / "full", help="folder that train.py wrote")
    parser.add_argument("-o", "--output", type=Path, default=SAMPLES, help="folder")
    given = parser.parse_args()
    if given.quick:
        given.models = given.output / "models"
        untrained(given.models)
    print("\n".join(card(path) for path in write(given.models, given.output)))


if __name__ == "__main__":
    main()
