"""The figures of the ReMoE paper from a pair of traces: the original model's and the tuned one's.

    python -m benchmarks.paper.pair original.parquet tuned.parquet -o out/
    python -m benchmarks.paper.pair original.parquet tuned.parquet --cache 6,12,32 --names base,remoe -o out/

Writes two tables (pair.csv and pair.md, of the whole model; layers.csv) and figures on a light and a dark background,
as SVG and PNG, and prints pair.md. Caches are emptied at each request, as in the paper, and hold the same number of
experts at every layer. Intervals are over requests, paired where both traces hold the same ones, by the code of
`remoe-sim compare`. From Python: `pair.compare_pair(original, tuned, output)`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import remoe_sim
from benchmarks.paper import pair_figures
from benchmarks.paper.drawing import OUTPUT
from benchmarks.paper.expert_use import compare_evenness
from benchmarks.script import options
from remoe_sim import Trace, read_trace
from remoe_sim.studies.compare import PAIRINGS, Requests
from remoe_sim.studies.compare_result import Comparison, Difference
from remoe_sim.trace import DECODE
from remoe_sim.util.files import replacing
from remoe_sim.util.units import parse_range
from tests.support.data import DEMO

POLICIES = "lru,belady"
COLUMNS = ("metric", "policy", "capacity", "layer", "original", "tuned", "difference", "change", "low", "high",
           "confidence", "p_value", "p_adjusted", "difference_shown")  # fmt: skip
WORDS = {
    "reuse_rate": "reuse of adjacent tokens (EOR)",
    "hit_rate": "unique hit rate",
    "misses_per_token": "unique misses / token",
    "unique_misses": "unique misses",
    "bytes_read_per_token": "MiB / token",
    "routing_entropy": "routing entropy / ln E",
    "load_balance_cv": "load-balance CV",
    "distinct_experts_of_a_request": "distinct experts / request and layer",
    "distinct_experts": "distinct experts / layer",
}


@dataclass(frozen=True)
class Pair:
    """comparison: what `remoe_sim.compare` found; table: a row per number of the whole model, layers: per number and
    layer, both with COLUMNS; markdown: the table to read; files: what was written."""

    names: tuple[str, str]
    comparison: Comparison
    table: pd.DataFrame
    layers: pd.DataFrame
    markdown: str
    files: tuple[Path, ...] = ()


def compare_pair(
    original: Trace | str | os.PathLike[str],
    tuned: Trace | str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    names: Sequence[str] = ("original", "tuned"),
    cache: str | int | Sequence[int] | None = None,
    pairing: str = "auto",
    confidence: float = 0.95,
    resamples: int = 1999,
    seed: int = 0,
) -> Pair:
    """Tables and figures of a pair of traces, written to the folder `output` if one is given.

    cache: experts per layer, by default k, 2k, 4k and a quarter, half and three quarters of the experts; k is always
    among them. pairing, confidence, resamples, seed: as `remoe_sim.compare` takes them. In the tables rates are
    fractions of one, `change` is the difference over the original, and `low` and `high` are the interval of the
    difference, at `confidence`: adjusted (Holm) for how many there are, but for the reuse rate of the whole model.

    Raises ValueError if the traces differ in layers, experts or top-k, and like `remoe_sim.compare`.
    """
    a, b = (one if isinstance(one, Trace) else remoe_sim.read_trace(one) for one in (original, tuned))
    shapes = [(one.layer_numbers, one.model.experts, one.model.top_k) for one in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError("the traces differ in MoE layers, experts or top-k; give two traces of one architecture")
    shown = _capacities(a, cache)
    found = remoe_sim.compare(
        a, b, cache=shown, policy=POLICIES, pairing=pairing, confidence=confidence, resamples=resamples, seed=seed
    )
    even = compare_evenness(a, b, pairing, 1 - found.confidence, resamples, seed)
    rows = [_row(one) for one in (found.verdict, *found.metrics)]
    requests = Requests.of(a), Requests.of(b)
    if (found.a.requests, found.b.requests) == tuple(one.ids.size for one in requests):  # rates are of all tokens
        rows += list(_totals(rows, [int((one.phase == DECODE).sum()) for one in (a, b)]))
    rows += [_row(one) for one in even.pooled]
    rows.append(_plain("distinct_experts", *even.distinct))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    layers = pd.DataFrame([_row(one) for one in (*found.layers, *even.layers)], columns=list(COLUMNS))
    pair = Pair((str(names[0]), str(names[1])), found, table, layers, _markdown(found, table, names))
    if output is None:
        return pair
    return Pair(pair.names, found, table, layers, pair.markdown, tuple(_write(pair, Path(output))))


def _capacities(trace: Trace, given: str | int | Sequence[int] | None) -> list[int]:
    """Experts per layer, k among them."""
    k, most = max(trace.model.top_k), max(trace.model.experts)
    if given is None:
        given = [count for count in (2 * k, 4 * k, most // 4, most // 2, 3 * most // 4) if k < count < most]
    texts = [given] if isinstance(given, str | int) else given
    return sorted({k, *(count for text in texts for count in parse_range(text, "cache", 1))})


def _row(one: Difference) -> dict[str, Any]:
    found = one.to_dict()
    low, high = found["interval"] or (None, None)
    return found | {
        "capacity": next(iter((one.capacity or {"": None}).values())), "original": one.a, "tuned": one.b,
        "change": one.difference / one.a if one.a and one.difference is not None else None, "low": low, "high": high,
    }  # fmt: skip


def _plain(metric: str, original: float, tuned: float) -> dict[str, Any]:
    """A row without an interval."""
    difference = tuned - original
    return {"metric": metric, "original": original, "tuned": tuned, "difference": difference,
            "change": difference / original if original else None}  # fmt: skip


def _totals(rows: list[dict[str, Any]], tokens: list[int]) -> Iterator[dict[str, Any]]:
    """Unique misses in all, of misses per token; without intervals, as they also hang on how much was recorded."""
    for row in rows:
        if row["metric"] == "misses_per_token":
            counts = [round(row[side] * count) for side, count in zip(("original", "tuned"), tokens, strict=True)]
            yield _plain("unique_misses", *counts) | {"policy": row["policy"], "capacity": row["capacity"]}


def _markdown(found: Comparison, table: pd.DataFrame, names: Sequence[str]) -> str:
    requests = f"{found.a.requests} and {found.b.requests} requests, {found.pairing}"
    lines = [
        f"A is {names[0]}, B is {names[1]}. {found.sentence}", "",
        f"{requests[0].upper()}{requests[1:]}. Caches are emptied at each request. Intervals are of the difference; "
        "all but the first row's are adjusted (Holm).", "",
        f"| | C | policy | {names[0]} | {names[1]} | change | difference | interval |", "|---" * 8 + "|",
    ]  # fmt: skip
    for row in table.to_dict("records"):
        lines.append("| " + " | ".join(_cells(row)) + " |")
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    name = row["metric"]
    rate, unit = name.endswith("_rate"), 2**-20 if name.startswith("bytes") else 1
    digits = 0 if name == "unique_misses" else 4 if name in ("routing_entropy", "load_balance_cv") else 2

    def number(value: Any, sign: str = "") -> str:
        if pd.isna(value):
            return ""
        return f"{100 * value:{sign}.2f}" if rate else f"{value * unit:{sign},.{digits}f}"

    capacity, policy = ("" if pd.isna(row[name]) else row[name] for name in ("capacity", "policy"))
    change = "" if pd.isna(row["change"]) else f"{100 * row['change']:+.1f} %"
    share, points = (" %", " points") if rate else ("", "")
    span = "" if pd.isna(row["low"]) else f"{number(row['low'], '+')} to {number(row['high'], '+')}{points}"
    sides = [number(row[side]) and number(row[side]) + share for side in ("original", "tuned")]
    difference = number(row["difference"], "+") and number(row["difference"], "+") + points
    return [WORDS[name], str(capacity and int(capacity)), policy, *sides, change, difference, span]


def _write(pair: Pair, folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "pair.csv": pair.table.to_csv(index=False),
        "pair.md": pair.markdown,
        "layers.csv": pair.layers.to_csv(index=False),
    }
    for name, text in texts.items():
        with replacing(folder / name) as beside:
            beside.write_text(text)
        yield folder / name
    for name in pair_figures.draw(pair.table, pair.layers, pair.names, folder):
        yield folder / name


def main() -> None:
    parser = options(__doc__, quick={"output": OUTPUT / "quick", "cache": "8", "resamples": 199}, output=None)
    parser.add_argument("original", nargs="?", help="trace of the original model")
    parser.add_argument("tuned", nargs="?", help="trace of the tuned model")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT / "pair", help="folder")
    parser.add_argument("--names", default="original,tuned", help="of the two, as figures call them")
    parser.add_argument("--cache", help="experts per layer, such as 6,12,32")
    parser.add_argument("--pairing", default="auto", choices=PAIRINGS)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--resamples", type=int, default=1999)
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    if given.pop("quick"):
        given |= {side: read_trace(DEMO) for side in ("original", "tuned")}
    if given["tuned"] is None:
        parser.error("name two traces: of the original model and of the tuned one")
    names = given.pop("names").split(",")
    if len(names) != 2:
        parser.error("--names takes two names, such as original,tuned")
    try:
        pair = compare_pair(given.pop("original"), given.pop("tuned"), **given | {"names": names})
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(pair.markdown)
    print("\n".join(str(path) for path in pair.files))


if __name__ == "__main__":
    main()
