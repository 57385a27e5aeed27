"""Measured runs of real engines: read from a table of runs, or from an engine's metrics per token.

A table is a CSV file with a row per run. Columns: `model` and `tpot_ms` (or `tok_s`), and `MiB_read_per_token` or
`hit_rate_pct`; if there are any, `id`, `hardware`, `quant`, `topk_used`, `compute_ms`, and `mode`, whose words `serial`
or `overlap` and `N lanes` say how reads overlap (columns `overlap` and `lanes` go before it). Metrics have a row per
token with `wall_ms` and `read_bytes`, and `stall_ms` if it is known (BigMoeOnEdge's `.metrics`).
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from remoe_sim.util.cards import card_names
from remoe_sim.util.errors import TraceError
from remoe_sim.util.input_files import ROWS_BYTES, UnsuitableError, read_text

Row = dict[str, str]


@dataclass(frozen=True)
class Run:
    """One measured run. model: the name of a card; bytes_per_token: what misses read per token, or None when only
    hit_rate is known; compute_ms: measured computing time per token, None if unknown; overlap and lanes as in
    `estimate`; line: where it stands in its file."""

    id: str
    hardware: str
    model: str
    quant: str | None
    tpot_ms: float
    bytes_per_token: float | None
    hit_rate: float | None = None
    top_k: int | None = None
    compute_ms: float | None = None
    overlap: str = "layer"
    lanes: int | None = None

    @property
    def configuration(self) -> tuple[str, str, int | None]:
        """Hardware, model and top-k: what is left out together when predictions are tested."""
        return self.hardware, self.model, self.top_k


@dataclass(frozen=True)
class LeftOut:
    """A row that no prediction can be made for, and why."""

    id: str
    reason: str


def read_runs(
    path: str | os.PathLike[str], model: str | None = None, quant: str | None = None, top_k: int | None = None,
    overlap: str = "layer", lanes: int | None = None,
) -> tuple[list[Run], list[LeftOut]]:  # fmt: skip
    """The runs of a file and the rows that cannot be used. The other arguments say what its columns do not.

    Raises TraceError, naming the file and the line, for a file that is neither a table of runs nor metrics.
    """
    given = Run("", "", model or "", quant, 0.0, None, top_k=top_k, overlap=overlap, lanes=lanes)
    try:
        text = io.StringIO(read_text(path, "", ROWS_BYTES))
        lines = [(number, line) for number, line in enumerate(text, 1) if not line.startswith("#")]
    except UnsuitableError as error:
        raise TraceError(f"{path}: it {error.why}") from None
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no UTF-8 text"
        raise TraceError(f"{path}: it cannot be read ({why}); give a CSV file of measured runs") from None
    reader = csv.DictReader(line for _, line in lines)
    columns = reader.fieldnames or []
    take: Callable[[int, Row, Run], Run | LeftOut]
    if "wall_ms" in columns and "read_bytes" in columns:
        if model is None:
            raise TraceError(
                f"{path}: metrics do not say which model ran; name it with --model, and --quant and --top-k"
            )
        take = _token
    elif "model" in columns and ("tpot_ms" in columns or "tok_s" in columns):
        take = _run
    else:
        raise TraceError(
            f"{path}: it has columns {', '.join(columns) or 'none'}; a table of runs has model and tpot_ms, metrics "
            "have wall_ms and read_bytes"
        )
    runs: list[Run] = []
    left_out: list[LeftOut] = []
    for number, row in enumerate(reader):
        line = lines[number + 1][0] if number + 1 < len(lines) else number + 2
        try:
            one = take(number + 1, row, given)
        except ValueError as error:
            raise TraceError(f"{path}: line {line}: {error}; correct it") from None
        (runs if isinstance(one, Run) else left_out).append(one)  # type: ignore[arg-type]
    return runs, left_out


def _run(number: int, row: Row, given: Run) -> Run | LeftOut:
    name = row.get("id") or f"row {number}"
    card = given.model or model_card_of(row["model"] or "")
    if not card:
        return LeftOut(name, f"no card for model '{row['model']}'")
    tpot = _number(row, "tpot_ms")
    rate = _number(row, "tok_s")
    if tpot is None and rate:
        tpot = 1e3 / rate
    if not tpot:
        return LeftOut(name, "no time per token is published")
    mib, hits = _number(row, "MiB_read_per_token"), _number(row, "hit_rate_pct")
    if mib is None and hits is None:
        return LeftOut(name, "neither bytes per token nor a hit rate is published")
    mode = row.get("mode") or ""
    words = re.search(r"(\d+) lanes?", mode)
    lanes, top_k = _number(row, "lanes"), _number(row, "topk_used")
    return Run(
        id=name,
        hardware=row.get("hardware") or "",
        model=card,
        quant=given.quant or quant_of(row.get("quant") or ""),
        tpot_ms=tpot,
        bytes_per_token=None if mib is None else mib * 2**20,
        hit_rate=None if hits is None else hits / 100,
        top_k=given.top_k or (None if top_k is None else int(top_k)),
        compute_ms=_number(row, "compute_ms"),
        overlap=row.get("overlap") or ("none" if "serial" in mode else "layer" if "overlap" in mode else given.overlap),
        lanes=int(lanes) if lanes else int(words[1]) if words else given.lanes,
    )


def _token(number: int, row: Row, given: Run) -> Run | LeftOut:
    wall, read, stall = _number(row, "wall_ms"), _number(row, "read_bytes"), _number(row, "stall_ms")
    if not wall or read is None:
        return LeftOut(f"token {number}", "no wall_ms or read_bytes")
    return Run(
        f"token {number}", "", given.model, given.quant, wall, read, top_k=given.top_k,
        compute_ms=None if stall is None else max(wall - stall, 0.0), overlap=given.overlap, lanes=given.lanes,
    )  # fmt: skip


def _number(row: Row, column: str) -> float | None:
    """A number of a column; None if it is empty or names no single number."""
    text = (row.get(column) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    if not 0 <= value < float("inf"):
        raise ValueError(f"column '{column}' is {text}, which is no number from 0")
    return value


def model_card_of(text: str) -> str | None:
    """The longest name of a card that a model's name contains, in any case and with any separators."""
    plain = re.sub(r"[^a-z0-9.]+", "-", Path(text).name.lower() if "/" in text else text.lower())
    return max((card for card in card_names("model") if card in plain), key=len, default=None)


def quant_of(text: str) -> str | None:
    """The quantisation that a text begins with, such as `Q4_K_M (experts MXFP4)`; None if it names none."""
    found = re.match(r"(?:ud-)?(q\d_k_[sml]|q\d_k|q\d_[01]|iq\d_\w+|mxfp4|nvfp4|bf16|fp16|fp8|int8)\b", text.lower())
    bits = re.search(r"\(([\d.]+) bits/param\)", text)
    return found[1] if found else f"bpw:{bits[1]}" if bits else None
