"""What recording costs in llama.cpp: time of greedy generation with and without the evaluation callback that
`remoe-sim capture model.gguf` gives it, on a random model.

    python -m benchmarks.speed.gguf_capture_overhead [--tokens 64] [--rounds 9] [--layers 12] [--model FILE.gguf]

Needs llama-cpp-python and gguf. Rounds with and without alternate; times are the least of all rounds, in ms per forward
pass of one token (and of 128 prompt tokens). CPU time, all threads together, which other processes disturb less.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.script import library, options, show
from remoe_sim.capture.llama import loaded
from remoe_sim.capture.llama_tensors import RoutingTensors

llama_cpp = library("llama_cpp", "llama-cpp-python")
PROMPT = [3 + number % 90 for number in range(128)]


class Nothing:
    """In the place of `RoutingTensors`: no callback."""

    callback = llama_cpp.ggml_backend_sched_eval_callback()

    def choose(self) -> None: ...

    def check(self) -> None: ...

    def passed(self, tokens: int) -> list[int]:
        return [tokens]


def generate(path: Path, tokens: int, tensors: Any) -> tuple[float, float]:
    """CPU seconds of the prompt and of the generation after it."""
    with loaded(path, "cpu") as model:
        model.open(tensors, 1, len(PROMPT) + tokens)
        begin = time.process_time()
        model.decode([(0, *one) for one in enumerate(PROMPT)])
        middle = time.process_time()
        for position in range(tokens):
            model.decode([(0, len(PROMPT) + position, 3 + position % 90)])
            model.likeliest(0)
        return middle - begin, time.process_time() - middle


def measure(path: Path, tokens: int, rounds: int) -> dict[str, Any]:
    """Times of a model, and the share that recording adds."""
    ways: dict[str, Any] = {
        "plain": Nothing, "recorded": lambda: RoutingTensors(False), "with_probs": lambda: RoutingTensors(True)
    }  # fmt: skip
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, make in ways.items():
            seconds = generate(path, tokens, make())
            if turn:  # the first warms up
                times[way].append((1000 * seconds[0], 1000 * seconds[1] / tokens))
    least = {way: tuple(min(values) for values in zip(*pairs, strict=True)) for way, pairs in times.items()}
    return {
        "ms_per_prompt": {way: round(one[0], 3) for way, one in least.items()},
        "ms_per_token": {way: round(one[1], 3) for way, one in least.items()},
        "overhead_prompt": round(least["recorded"][0] / least["plain"][0] - 1, 4),
        "overhead": round(least["recorded"][1] / least["plain"][1] - 1, 4),
        "overhead_with_probs": round(least["with_probs"][1] / least["plain"][1] - 1, 4),
    }


def main() -> None:
    parser = options(__doc__, quick={"tokens": 2, "rounds": 1, "layers": 1, "hidden": 64}, output=None)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()
    from tests.support.tiny_gguf import save_tiny_gguf

    with tempfile.TemporaryDirectory() as folder:
        sizes = {"layers": given.layers, "experts": 16, "top_k": 4, "hidden": given.hidden, "inner": given.hidden // 2}
        path = given.model or save_tiny_gguf(Path(folder) / "m.gguf", "qwen3moe", kind="Q8_0", **sizes)
        found = measure(path, given.tokens, given.rounds)
        about = {"llama_cpp": llama_cpp.__version__, "tokens": given.tokens, "rounds": given.rounds}
        show(about | {"model_bytes": path.stat().st_size} | found)


if __name__ == "__main__":
    main()
