"""What the plain formats csv, jsonl and npz have in common: the same trace in each of them."""

import numpy as np
import pytest

from remoe_sim import import_trace
from tests.support.imported import assert_round_trip, refused, rows_of
from tests.support.plain_files import (
    LAYERS,
    LONG,
    ROWS,
    WIDE,
    arrays,
    long_csv,
    objects,
    wide_csv,
    write_csv,
    write_jsonl,
    write_npz,
    written,
)

FORMS = ("long", "wide", "jsonl", "npz")


@pytest.mark.parametrize("form", FORMS)
def test_the_same_trace_in_every_format(tmp_path, form):
    path = written(tmp_path, form)
    trace = import_trace(path)
    assert rows_of(trace) == ROWS
    assert trace.layer_numbers == LAYERS
    assert trace.model.experts == (8, 8)
    assert trace.model.expert_bytes is None
    assert trace.origin["format"] == {"long": "csv", "wide": "csv"}.get(form, form)
    assert trace.origin["path"] == path.name
    assert "taken as 8, the largest id + 1" in trace.notes
    assert "each decode token is a step of its own" in trace.notes
    assert_round_trip(trace, tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_the_number_of_experts_can_be_given(tmp_path, form):
    path = written(tmp_path, form)
    trace = import_trace(path, experts=32)
    assert trace.model.experts == (32, 32)
    assert "largest id" not in trace.notes
    refused(path, "expert 7 is not below the model's 7 experts", "--experts", experts=7)


@pytest.mark.parametrize("form", FORMS)
def test_sizes_can_be_given(tmp_path, form):
    path = written(tmp_path, form)
    assert import_trace(path, expert_bytes="3MiB").model.expert_bytes == (3 << 20, 3 << 20)
    assert import_trace(path, expert_bytes="3B,4kB").model.expert_bytes == (3, 4000)
    assert import_trace(path, dense_bytes=7).model.dense_bytes == (7,) * (max(LAYERS) + 1)
    refused(path, "expert_bytes has 3 sizes for 2 MoE layers", expert_bytes=[1, 2, 3])


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_steps_that_the_file_gives_are_kept(tmp_path, form):
    """Continuous batching: the second request is processed together with the first one's last token."""
    steps = {(0, 0): 10, (0, 1): 10, (0, 2): 11, (0, 3): 12, (1, 0): 12, (1, 1): 15}
    if form == "csv":
        lines = [f"{line},{steps[tuple(map(int, line.split(',')[:2]))]}" for line in long_csv()]
        path = write_csv(tmp_path, LONG + ",step", lines)
    else:
        path = write_jsonl(tmp_path, [one | {"step": steps[one["request"], one["position"]]} for one in objects()])
    trace = import_trace(path)
    assert trace.step.tolist() == [10, 10, 11, 12, 12, 15]
    assert [row.decisions for row in rows_of(trace)] == [row.decisions for row in ROWS]
    assert "as the column 'step' gives them" in trace.notes


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_requests_may_have_names(tmp_path, form):
    names = {0: "chat-b", 1: "chat-a"}
    if form == "csv":
        path = write_csv(tmp_path, LONG, [names[int(line[0])] + line[1:] for line in long_csv()])
    else:
        path = write_jsonl(tmp_path, [one | {"request": names[one["request"]]} for one in objects()])
    trace = import_trace(path)
    assert rows_of(trace) == ROWS
    assert "named by text" in trace.notes


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_numbers_of_requests_are_kept(tmp_path, form):
    if form == "csv":
        path = write_csv(tmp_path, LONG, [f"{41 - int(line[0])}{line[1:]}" for line in long_csv()])
    else:
        path = write_jsonl(tmp_path, [one | {"request": 41 - one["request"]} for one in objects()])
    assert import_trace(path).request.tolist() == [41, 41, 41, 41, 40, 40]


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_without_any_expert_is_no_moe_layer(tmp_path, form):
    if form == "npz":
        given = arrays()
        dense = np.full((6, 1, 2), -1)
        given["experts"] = np.concatenate([dense, given["experts"]], axis=1)
        path = write_npz(tmp_path, **given | {"layer_numbers": [0, *LAYERS]})
    elif form == "jsonl":
        path = write_jsonl(tmp_path, [objects()[0] | {"layer": 0, "experts": None}, *objects()])
    else:
        header, lines, empty = (LONG, long_csv(), "") if form == "long" else (WIDE, wide_csv(), ",-1")
        path = write_csv(tmp_path, header, [*lines, f"0,0,prefill,0,{empty}"])
    trace = import_trace(path)
    assert trace.layer_numbers == LAYERS
    assert "layers without any expert left out: 0" in trace.notes
    assert rows_of(trace) == ROWS


def test_what_is_not_imported_is_said(tmp_path):
    csv = import_trace(write_csv(tmp_path, LONG + ",mood", [line + ",good" for line in long_csv()]))
    assert "columns not imported: mood" in csv.notes
    jsonl = import_trace(write_jsonl(tmp_path, [one | {"mood": 1} for one in objects()]))
    assert "fields not imported: mood" in jsonl.notes
    npz = import_trace(write_npz(tmp_path, **arrays(), mood=1))
    assert "arrays not imported: mood" in npz.notes
