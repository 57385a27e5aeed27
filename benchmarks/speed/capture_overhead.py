"""What recording costs: time of greedy generation with and without `remoe_sim.capture.record`, on small random models.

    python -m benchmarks.speed.capture_overhead [--tokens 64] [--rounds 9] [--output overhead.json]

Needs torch and transformers. Rounds with and without alternate; times are the least of all rounds, CPU time
on one thread (which other processes disturb less), in ms per forward pass of one token.
"""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from typing import Any

import remoe_sim
from benchmarks.script import library, options

torch = library("torch")
library("transformers")


def generate(model: Any, tokens: int, recorded: bool, probs: bool) -> float:
    """CPU seconds of one generation after a prompt of eight tokens."""
    ids = torch.arange(3, 11)[None]
    recording: Any = remoe_sim.capture.record(model, probs=probs) if recorded else contextlib.nullcontext()
    with recording, torch.inference_mode():
        begin = time.process_time()
        model.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0)
        return time.process_time() - begin


def measure(family: str, tokens: int, rounds: int) -> dict[str, Any]:
    """Times of a family's tiny model, and the share that recording adds."""
    from tests.support.tiny_models import tiny

    model = tiny(family)
    ways = {"plain": (False, False), "recorded": (True, False), "with_probs": (True, True)}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, how in ways.items():
            seconds = generate(model, tokens, *how)
            if turn:  # the first warms up
                times[way].append(1000 * seconds / tokens)
    least = {way: min(values) for way, values in times.items()}
    return {
        "family": family,
        "ms_per_pass": {way: round(value, 3) for way, value in least.items()},
        "overhead": round(least["recorded"] / least["plain"] - 1, 4),
        "overhead_with_probs": round(least["with_probs"] / least["plain"] - 1, 4),
    }


def main() -> None:
    from tests.support.tiny_models import INSTALLED

    parser = options(__doc__, quick={"tokens": 4, "rounds": 1, "families": "mixtral"})
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--families", default=",".join(INSTALLED), metavar="NAME,…")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [measure(family, given.tokens, given.rounds) for family in given.families.split(",")]
    text = json.dumps(
        {"torch": torch.__version__, "tokens": given.tokens, "rounds": given.rounds, "rows": rows}, indent=2
    )
    print(text)
    if given.output:
        given.output.write_text(text)


if __name__ == "__main__":
    main()
