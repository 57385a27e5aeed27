"""The real traces that some tests need, read with nothing but the standard library."""

import csv
import os
import re
from pathlib import Path

import pytest

from tests.oracle.naive import DECODE, PREFILL, Row

SHARED = Path(os.environ.get("REMOE_SIM_TRACES") or Path(__file__).resolve().parents[3] / "shared" / "traces")
DEMO = str(Path(__file__).with_name("demo.parquet"))  # drawn by demo_trace.py
needs_traces = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no traces in {SHARED}; set REMOE_SIM_TRACES")


def bigmoe_rows(name):
    """A BigMoeOnEdge capture: rows, expert bytes per layer. A prefill is one step, a decode token its own."""
    lines = (SHARED / "bigmoe" / f"{name}.route.csv").read_text().splitlines()
    sizes = [int(size) for size in re.findall(r"# layer=\d+ expert_bytes=(\d+)", "\n".join(lines))]
    tokens = {}  # (turn, phase, position) -> layer -> slot -> expert
    for record in csv.DictReader(line for line in lines if not line.startswith("#")):
        token = int(record["turn"]), int(record["phase"]), int(record["step"])
        slots = tokens.setdefault(token, {}).setdefault(int(record["layer"]), {})
        slots[int(record["slot"])] = int(record["expert"])

    rows, step, previous = [], -1, None
    for turn, phase, position in sorted(tokens):
        if phase == 1 or previous != (turn, phase):
            step += 1
        previous = turn, phase
        layers = tokens[turn, phase, position]
        decisions = [
            [layers[layer][slot] for slot in sorted(layers[layer])] if layer in layers else None
            for layer in range(len(sizes))
        ]
        rows.append(Row(turn, position, step, DECODE if phase else PREFILL, decisions))
    return rows, sizes
