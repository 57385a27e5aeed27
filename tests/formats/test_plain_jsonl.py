"""Plain JSON Lines: options and every malformed variant."""

import json

import numpy as np
import pytest

from remoe_sim import import_trace
from tests.support.imported import assert_round_trip, refused, rows_of
from tests.support.plain_files import ROWS, objects, write_jsonl

MALFORMED_JSONL = {
    "broken": ['{"request": 0, "pos'],
    "list": ["[1, 2]"],
    "request": [{"request": 1.5}, "'?request'?", "1.5"],
    "bool": [{"request": True}, "'request'", "true"],
    "position": [{"position": "first"}, "'position'", '"first"'],
    "negative": [{"position": -1}, "'position'", "-1"],
    "layer": [{"layer": None}, "'layer'", "null"],
    "phase": [{"phase": "decoding"}, "'phase'", "'decoding', expected prefill or decode"],
    "number": [{"phase": 1}, "'phase'", "1 is not 'prefill'"],
    "text": [{"experts": "5"}, "'experts'", "a list of whole numbers"],
    "scalar": [{"experts": 5}, "'experts'", "a list of whole numbers"],
    "fraction": [{"experts": [5.5, 2]}, "'experts'", "a list of whole numbers"],
    "empty": [{"experts": []}, "'experts'", "at least one"],
    "short": [{"experts": [5]}, "'experts'", "1 slots where 2"],
    "long": [{"experts": [5, 2, 1]}, "'experts'", "3 slots where 2"],
    "twice": [{"experts": [5, 5]}, "'experts'", "expert 5 appears twice"],
    "weights": [{"weights": [1]}, "'weights'", "a list of 2 numbers"],
    "weight": [{"weights": ["a", "b"]}, "'weights'", "a list of numbers"],
    "late step": [{"step": 3}, "'step'", "in all or in none"],
}


@pytest.mark.parametrize("case", MALFORMED_JSONL)
def test_malformed_jsonl(tmp_path, case):
    wrong, *parts = MALFORMED_JSONL[case]
    records = objects()
    records[2] = wrong if isinstance(wrong, str) else records[2] | wrong
    refused(write_jsonl(tmp_path, records), "line 3", *parts)


@pytest.mark.parametrize("field", ["request", "position", "phase", "layer", "experts"])
def test_jsonl_with_a_field_missing(tmp_path, field):
    records = objects()
    del records[1][field]
    refused(write_jsonl(tmp_path, records), "line 2", f"'{field}'", "missing")


def test_other_faults_of_jsonl(tmp_path):
    same = [one | {"step": 0} for one in objects()]
    del same[3]["step"]
    refused(write_jsonl(tmp_path, same), "line 4", "'step'", "missing")
    refused(write_jsonl(tmp_path, [*objects(), objects()[0]]), "line 13, column 'experts'", "slot 0 .*twice")
    empty = [one | {"experts": None} for one in objects()]
    refused(write_jsonl(tmp_path, empty), "no token has an expert")
    path = tmp_path / "t.jsonl"
    path.write_bytes(json.dumps(objects()[0]).encode() + b'\n{"request": "\xff"}\n')
    refused(path, "line 2", "UTF-8")
    path.write_text("\n\n")
    refused(path, "no record", format="jsonl")


def test_jsonl_with_weights_and_empty_lines(tmp_path):
    records = [one | {"weights": [0.5, None], "token_id": 9} for one in objects()]
    trace = import_trace(write_jsonl(tmp_path, ["", records[0], "  ", *records[1:]]))
    assert np.array_equal(trace.source.weights(0)[0], np.float32([0.5, np.nan]), equal_nan=True)
    assert trace.token_id.tolist() == [9] * 6
    assert_round_trip(trace, tmp_path)


def test_all_slots_null_is_a_decision_in_jsonl(tmp_path):
    """There a null decision has a word of its own."""
    records = objects()
    records[5]["experts"] = [None, None]
    assert rows_of(import_trace(write_jsonl(tmp_path, records)))[2].decisions == [[7, 5], [None, None]]


def test_jsonl_with_a_byte_order_mark(tmp_path):
    path = write_jsonl(tmp_path, objects())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert rows_of(import_trace(path)) == ROWS


@pytest.mark.parametrize("name", ["weights", "gate_weights"])
def test_weights_in_some_records(tmp_path, name):
    records = objects()
    records[7][name] = [0.25, 0.75]
    trace = import_trace(write_jsonl(tmp_path, records))
    assert "not imported" not in trace.notes
    found = [one for one in map(trace.source.weights, range(2)) if one is not None]
    assert sum(one.tolist().count([0.75, 0.25]) for one in found) == 1


@pytest.mark.parametrize("name", ["phase", "request", "token_id", "token_idx"])
def test_fields_that_only_some_records_have(tmp_path, name):
    records = [{"layer": 0, "experts": [at, 9]} for at in range(3)]
    records[2][name] = "prefill" if name == "phase" else 1
    refused(write_jsonl(tmp_path, records), f"line 3, column '{name}'", "in all or in none")
