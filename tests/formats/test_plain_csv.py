"""Plain CSV: both layouts, their options, and every malformed variant."""

import pytest

from remoe_sim import TraceError, import_trace
from tests.support.imported import assert_round_trip, refused, rows_of
from tests.support.plain_files import LONG, ROWS, WIDE, long_csv, wide_csv, write_csv


@pytest.mark.parametrize(("header", "lines"), [(LONG, long_csv), (WIDE, wide_csv)])
def test_csv_rows_in_any_order_of_tokens(tmp_path, header, lines):
    layer_major = sorted(lines(), key=lambda line: (line.split(",")[0], line.split(",")[3]))
    assert rows_of(import_trace(write_csv(tmp_path, header, layer_major))) == ROWS


def test_csv_with_slots_weights_and_token_ids(tmp_path):
    lines = [f"{line},{slot},{0.75 - slot / 4},{17}" for slot in (1, 0) for line in long_csv()[slot::2]]
    trace = import_trace(write_csv(tmp_path, LONG + ",slot,weight,token_id", lines))
    assert rows_of(trace) == ROWS
    assert trace.source.weights(0)[0].tolist() == [0.75, 0.5]
    assert trace.source.weights(1)[0].tolist() == [0, 0]
    assert trace.token_id.tolist() == [17] * 6
    assert_round_trip(trace, tmp_path)


def test_csv_with_columns_of_weights_in_any_order(tmp_path):
    lines = [f"0.25,{line},0.75" for line in wide_csv()]
    header = "weight_1," + WIDE.replace("e0,e1", "expert_1,expert_0") + ",weight_0"
    trace = import_trace(write_csv(tmp_path, header, lines))
    assert rows_of(trace)[0].decisions[0] == [2, 5]
    assert trace.source.weights(0)[0].tolist() == [0.75, 0.25]


def test_tokens_are_in_order_of_the_steps(tmp_path):
    lines = ["a,0,decode,0,3,7", "b,0,decode,0,4,9", "c,0,decode,0,5,5"]
    trace = import_trace(write_csv(tmp_path, LONG + ",step", lines))
    assert (trace.step.tolist(), trace.request.tolist()) == ([5, 7, 9], [2, 0, 1])
    assert [row.decisions for row in rows_of(trace)] == [[[5]], [[3]], [[4]]]


def test_layers_may_differ_in_k(tmp_path):
    narrow = [line for line in long_csv() if not (line.split(",")[3] == "4" and line.split(",")[4] in "02")]
    narrow = [line for line in narrow if line != "0,2,decode,4,"]
    narrow = [line for line in narrow if line not in ("1,0,prefill,4,3", "1,1,decode,4,0")]
    trace = import_trace(write_csv(tmp_path, LONG, narrow))
    assert trace.model.top_k == (2, 1)
    assert_round_trip(trace, tmp_path)
    wide = [line if line.split(",")[3] == "1" else line.rpartition(",")[0] + "," for line in wide_csv()]
    trace = import_trace(write_csv(tmp_path, WIDE, wide))
    assert trace.model.top_k == (2, 1)
    assert "last slots that are empty" in trace.notes


MALFORMED_CSV = {
    "no layer": (
        "request,position,phase,expert",
        ["0,0,decode,1"],
        ["phase, expert", "without layer"],
    ),
    "names again": (
        LONG,
        ["0,0,decode,1,1", LONG, "0,0,decode,1,1"],
        ["line 3", "second recording.*cut"],
    ),
    "no names": ("0,0,3", ["0,1,4"], ["3 columns without names", "--columns position,layer,expert might"]),
    "column twice": (LONG + ",layer", ["0,0,decode,1,1,1"], ["line 1", "column 'layer' .*twice"]),
    "both layouts": (WIDE + ",expert", ["0,0,decode,1,1,2,3"], ["line 1", "'expert' and 'e0'"]),
    "slot left out": ("request,position,phase,layer,e0,e2", ["0,0,decode,1,1,2"], ["line 1", "slot 1 has no column"]),
    "weights left out": (WIDE + ",w0", ["0,0,decode,1,1,2,.5"], ["line 1", "1 columns of weights for 2"]),
    "no rows": (LONG, [], ["no rows"]),
    "no expert at all": (LONG, ["0,0,decode,1,"], ["no token has an expert"]),
    "phase": (LONG, ["0,0,decode,1,1", "0,1,decoding,1,1"], ["line 3, column 'phase'", "'decoding'"]),
    "empty phase": (LONG, ["0,0,decode,1,1", "0,1,,1,1"], ["line 3, column 'phase'", "empty"]),
    "empty request": (LONG, [",0,decode,1,1"], ["line 2, column 'request'", "empty"]),
    "negative position": (LONG, ["0,-1,decode,1,1"], ["line 2, column 'position'", "-1"]),
    "negative layer": (LONG, ["0,0,decode,-1,1"], ["line 2, column 'layer'", "-1"]),
    "not a number": (LONG, ["0,0,decode,1,1", "", "0,1,decode,1,one"], ["line 4, column 'expert'", "'one'"]),
    "id of 65536": (LONG, ["0,0,decode,1,65536"], ["65537 experts", "65536"]),
    "too many slots": (
        LONG,
        ["0,0,decode,1,1", "0,1,decode,1,1", "0,2,decode,1,1", "0,2,decode,1,2"],
        ["line 4", "2 slo"],
    ),
    "expert twice": (LONG, ["0,0,decode,1,1", "0,0,decode,1,1"], ["line 3, column 'expert'", "expert 1 appears twice"]),
    "token twice": (WIDE, ["0,0,decode,1,1,2", "0,0,decode,1,3,4"], ["line 3", "slot 0 .*twice"]),
    "two phases": (LONG, ["0,0,decode,1,1", "0,0,prefill,2,1"], ["line [23], column 'phase'", "both phases"]),
    "two steps": (
        LONG + ",step",
        ["0,0,decode,1,1,5", "0,0,decode,2,1,6"],
        ["line 3, column 'step'", "6, but line 2 has 5"],
    ),
    "negative step": (LONG + ",step", ["0,0,decode,1,1,-5"], ["line 2, column 'step'", "-5"]),
    "broken line": (LONG, ["0,0,decode,1,1", "0,1,deco"], ["line 3", "3 cells where .* 5", "truncated"]),
    "large request": (LONG, ["3000000000,0,decode,1,1"], ["line 2, column 'request'", "3000000000"]),
}


@pytest.mark.parametrize("case", MALFORMED_CSV)
def test_malformed_csv(tmp_path, case):
    header, lines, parts = MALFORMED_CSV[case]
    refused(write_csv(tmp_path, header, lines), *parts)


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    lines = ['"a', 'b",0,decode,1,1', "", "c,0,decode,1,x"]
    refused(write_csv(tmp_path, LONG, lines), "line 5, column 'expert'", "'x'")
    refused(write_csv(tmp_path, LONG, [*lines[:3], "c,0,nope,1,1"]), "line 5, column 'phase'", "'nope'")


def test_what_only_the_fast_reader_refuses(tmp_path):
    refused(write_csv(tmp_path, LONG, ["0,0,decode,1,1_0"]), "cannot be read as CSV", "1_0")


def test_column_names_without_a_line_end(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(LONG)
    refused(path, "no rows")


def test_requests_of_many_digits_are_names(tmp_path):
    trace = import_trace(write_csv(tmp_path, LONG, [f"{'9' * 40},0,decode,1,1", "007,0,decode,1,1", "7,0,decode,1,1"]))
    assert trace.request.tolist() == [0, 1, 2]


def test_a_fault_below_empty_experts(tmp_path):
    refused(write_csv(tmp_path, LONG, ["0,0,decode,1,", "0,1,decode,1,x"]), "line 3, column 'expert'", "'x'")


def test_names_of_requests_in_a_file_of_several_blocks(tmp_path):
    """pyarrow reads blocks of 1 MiB, each with a dictionary of its own."""
    lines = [f"{name},{position},decode,1,3" for name in ("chat-b", "chat-a") for position in range(40_000)]
    path = write_csv(tmp_path, LONG, lines)
    assert path.stat().st_size > 2**20
    trace = import_trace(path)
    assert trace.request.tolist() == [0] * 40_000 + [1] * 40_000


def test_spaces_around_cells_do_not_count(tmp_path):
    trace = import_trace(write_csv(tmp_path, LONG.replace(",", " , "), ["a , 0, decode, 1, 5", " a,1 ,decode ,1,6"]))
    assert trace.request.tolist() == [0, 0]


def test_lines_may_end_in_carriage_returns(tmp_path):
    path = tmp_path / "mac.csv"
    rows = ["request,position,phase,layer,expert", "0,0,decode,0,1", "0,1,decode,0,2", "0,2,decode,0,3"]
    path.write_bytes("\r".join(rows).encode())
    assert import_trace(path).decisions(0).experts.tolist() == [[1], [2], [3]]
    path.write_bytes("\r".join(rows).replace("0,2,decode,0,3", "0,2,decode,0,x").encode())
    with pytest.raises(TraceError, match="line 4, column 'expert': 'x', expected a whole number"):
        import_trace(path)
    path.write_bytes("\r".join(rows).replace("0,2,decode", "0,1,prefill").encode())
    with pytest.raises(TraceError, match="line 4, column 'phase': position 1 of this request"):
        import_trace(path)
