"""One small trace in each of the plain formats, for tests of importers."""

import json

import numpy as np

from tests.oracle.naive import DECODE, PREFILL, Row

# two requests, layers 1 and 4, a pruned prompt token, a slot that was not computed
ROWS = [
    Row(0, 0, 0, PREFILL, [[5, 2], None]),
    Row(0, 1, 0, PREFILL, [[2, 7], [1, 0]]),
    Row(0, 2, 1, DECODE, [[7, 5], [3, None]]),
    Row(0, 3, 2, DECODE, [[1, 5], [3, 2]]),
    Row(1, 0, 3, PREFILL, [[6, 5], [4, 3]]),
    Row(1, 1, 4, DECODE, [[6, 0], [0, 3]]),
]
LAYERS = (1, 4)
LONG = "request,position,phase,layer,expert"
WIDE = "request,position,phase,layer,e0,e1"


def cells():
    """(row, layer number, decision) of every decision that is not null, token by token."""
    for row in ROWS:
        for layer, decision in zip(LAYERS, row.decisions, strict=True):
            if decision is not None:
                yield row, layer, ["" if expert is None else expert for expert in decision]


def long_csv():
    return [f"{r.request},{r.position},{r.phase},{layer},{expert}" for r, layer, chosen in cells() for expert in chosen]


def wide_csv():
    return [f"{r.request},{r.position},{r.phase},{layer},{a},{b}" for r, layer, (a, b) in cells()]


def objects():
    return [
        {"request": r.request, "position": r.position, "phase": r.phase, "layer": layer, "experts": decision}
        for r in ROWS
        for layer, decision in zip(LAYERS, r.decisions, strict=True)
    ]


def arrays():
    ids = [[[-1 if e is None else e for e in one or [None] * 2] for one in row.decisions] for row in ROWS]
    return {"experts": np.array(ids), "offsets": [0, 4, 6], "prompt_lengths": [2, 1], "layer_numbers": LAYERS}


def write_csv(folder, header, lines, name="t.csv"):
    path = folder / name
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def write_jsonl(folder, records, name="t.jsonl"):
    path = folder / name
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records))
    return path


def write_npz(folder, **given):
    path = folder / "t.npz"
    np.savez(path, **given)
    return path


def written(folder, form):
    return {
        "long": lambda: write_csv(folder, LONG, long_csv()),
        "wide": lambda: write_csv(folder, WIDE, wide_csv()),
        "jsonl": lambda: write_jsonl(folder, objects()),
        "npz": lambda: write_npz(folder, **arrays()),
    }[form]()
