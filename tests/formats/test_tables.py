"""Parquet and Arrow tables of rows that other programs write."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import remoe_sim
from remoe_sim import import_trace
from tests.support.imported import assert_round_trip, refused, rows_of
from tests.support.plain_files import ROWS, cells, objects
from tests.support.small import small

FORMS = {
    "lists": lambda: pa.Table.from_pylist(objects()),
    "slots": lambda: pa.Table.from_pylist(
        [
            {"prompt_index": r.request, "token_position": r.position, "phase": r.phase, "layer_index": layer}
            | {f"expert_id_{n}": None if e == "" else e for n, e in enumerate(chosen)}
            for r, layer, chosen in cells()
        ]
    ),
    "one expert": lambda: pa.Table.from_pylist(
        [
            {"req": str(r.request), "pos": r.position, "phase": r.phase, "l": layer, "rank": n, "expert": e}
            for r, layer, chosen in cells() for n, e in enumerate(chosen) if e != ""
        ]
        + [{"req": "0", "pos": 2, "phase": "decode", "l": 4, "rank": 1, "expert": None}]
    ),
}  # fmt: skip


def saved(table, path, form):
    if form == "parquet":
        pq.write_table(table, path)
    elif form == "feather":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("case", FORMS)
@pytest.mark.parametrize("form", ["parquet", "feather", "stream"])
def test_tables_of_rows(tmp_path, case, form):
    trace = import_trace(saved(FORMS[case](), tmp_path / "t", form))
    assert rows_of(trace) == ROWS
    assert trace.origin["format"] == "tables"
    assert_round_trip(trace, tmp_path)


def test_weights_dictionaries_and_small_integers(tmp_path):
    frame = pd.DataFrame(
        {
            "token": np.arange(2, dtype=np.uint8), "layer": np.int16([3, 3]), "expert_0": [1.0, 2.0],
            "expert_1": [0, np.nan], "expert_weight_0": [0.25, 0.5], "expert_weight_1": [0.75, np.nan],
            "phase": pd.Categorical(["prompt", "decode"]),
        }
    )  # fmt: skip
    frame.to_parquet(tmp_path / "t.parquet")
    trace = import_trace(tmp_path / "t.parquet")
    assert [row.decisions for row in rows_of(trace)] == [[[0, 1]], [[2, None]]]
    assert trace.source.weights(0)[0].tolist() == [0.75, 0.25]
    assert trace.layer_numbers == (3,)


def test_a_trace_that_pandas_has_filtered(tmp_path):
    trace = small()
    remoe_sim.write_trace(trace, tmp_path / "t.parquet")
    refused(tmp_path / "t.parquet", "it is a trace of remoe-sim already; use it as it is")
    pd.read_parquet(tmp_path / "t.parquet").to_parquet(tmp_path / "u.parquet")
    again = import_trace(tmp_path / "u.parquet")
    assert rows_of(again) == rows_of(trace)
    assert again.layer_numbers == trace.layer_numbers
    with pytest.raises(remoe_sim.TraceError, match="make a trace with 'remoe-sim import'"):
        remoe_sim.read_trace(tmp_path / "u.parquet")


MALFORMED = {
    "no layer": ({"token": [0], "expert": [1]}, "no column says layer .there are token, expert.; name it"),
    "no experts": ({"token": [0], "layer": [1]}, "no column says experts"),
    "no rows": ({"token": pa.array([], pa.int64()), "layer": [], "expert": []}, "no rows"),
    "text": ({"token": [0], "layer": ["x"], "expert": [1]}, "column 'layer': string, expected whole numbers"),
    "fractions": ({"token": [0], "layer": [1], "expert": [1.5]}, "column 'expert': double, expected whole numbers"),
    "empty": ({"token": [0, None], "layer": [1, 1], "expert": [1, 2]}, "row 1, column 'token': the cell is empty"),
    "negative": ({"token": [0, -1], "layer": [1, 1], "expert": [1, 2]}, "row 1, column 'token': -1 is not possible"),
    "too large": ({"token": [0], "layer": [1], "expert": pa.array([2**63], pa.uint64())}, "too large"),
    "nested": ({"request": [[0]], "token": [0], "layer": [1], "expert": [1]}, "column 'request'"),
    "weights": ({"token": [0], "layer": [1], "experts": [[1, 2]], "weights": [[0.5]]}, "row 0.*1 weights for 2"),
    "beyond": ({"token": pa.array([2**63], pa.uint64()), "layer": [1], "expert": [1]}, "too large"),
    "large layer": ({"token": [0], "layer": [2**62], "expert": [1]}, f"row 0, column 'layer': {2**62} is not possible"),
    "phase": ({"token": [0], "phase": ["up"], "layer": [1], "expert": [1]}, "row 0, column 'phase': 'up'"),
    "twice": ({"token": [0, 0], "layer": [1, 1], "expert": [1, 1]}, "row 1.*expert 1 appears twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_tables(tmp_path, case):
    columns, part = MALFORMED[case]
    refused(saved(pa.table(columns), tmp_path / "t.parquet", "parquet"), part)


@pytest.mark.parametrize("form", ["parquet", "feather", "stream"])
def test_damaged_tables(tmp_path, form):
    raw = saved(FORMS["slots"](), tmp_path / "t", form).read_bytes()
    for cut in (8, len(raw) // 2, len(raw) - 3):
        (tmp_path / "u").write_bytes(raw[:cut])
        refused(tmp_path / "u", "cannot be read as a table|no rows")


def test_a_column_that_is_there_twice(tmp_path):
    table = pa.table([[0], [1], [1], [2]], names=["token", "layer", "layer", "expert"])
    refused(saved(table, tmp_path / "t", "stream"), "column 'layer' is there twice")


def test_lists_that_reach_beyond_their_numbers(tmp_path):
    table = pa.table({"token": [0], "layer": [1], "experts": pa.array([[5, 6]], pa.list_(pa.int64()))})
    raw = saved(table, tmp_path / "t", "stream").read_bytes()
    offsets = np.array([0, 2], "<i4").tobytes()
    assert raw.count(offsets) > 0
    at = raw.rindex(offsets)
    (tmp_path / "u").write_bytes(raw[:at] + np.array([0, 9_999_999], "<i4").tobytes() + raw[at + 8 :])
    refused(tmp_path / "u", "cannot be read as a table .*list offsets")
