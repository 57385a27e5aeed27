"""The importer of BigMoeOnEdge's route traces: real captures, every trap of the format, and every malformed variant."""

import gzip
import hashlib
import time

import numpy as np
import pyarrow as pa
import pytest

from remoe_sim import import_trace
from tests.oracle.naive import DECODE, PREFILL
from tests.support.bigmoe import COLUMNS, PREAMBLE, ROWS, capture
from tests.support.data import SHARED, bigmoe_rows, needs_traces
from tests.support.imported import assert_round_trip, refused, rows_of


def test_every_token_is_where_the_engine_had_it(tmp_path):
    trace = import_trace(capture(tmp_path))
    assert [(row.request, row.position, row.step, row.phase, row.decisions) for row in rows_of(trace)] == [
        (0, 0, 0, PREFILL, [[5, 2], None]),
        (0, 1, 0, PREFILL, [[2, 7], [1, 0]]),
        (0, 2, 1, DECODE, [[7, 5], [3, 1]]),
        (1, 0, 2, PREFILL, [[6, 5], [4, 3]]),
    ]
    assert trace.layer_numbers == (1, 2)


def test_the_preamble_describes_the_model(tmp_path):
    path = capture(tmp_path)
    trace = import_trace(path)
    model = trace.model
    assert (model.name, model.quant, model.layers) == ("Tiny-MoE-Q4_K_M.gguf", "Q4_K_M", 3)
    assert (model.experts, model.top_k) == ((8, 8), (2, 2))
    assert (model.expert_bytes, model.dense_bytes) == ((1000, 2000), (100, 200, 300))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert trace.origin == {"format": "bigmoe", "path": "tiny.route.csv", "sha256": digest}
    assert "one prefill step" in trace.notes


def test_weights_are_kept_in_slot_order_and_nan_stays_unknown(tmp_path):
    trace = import_trace(capture(tmp_path))
    first, last = (trace.source.weights(index) for index in range(2))
    assert np.array_equal(first, np.float32([[0.6, 0.4], [0.7, 0.3], [0.8, np.nan], [0.5, 0.5]]), equal_nan=True)
    assert last[0].tolist() == [0, 0]  # a null decision


def test_a_layer_without_any_weight_has_no_weights(tmp_path):
    rows = "".join(",".join([*line.split(",")[:6], "nan", "0", "0"]) + "\n" for line in ROWS.splitlines())
    trace = import_trace(capture(tmp_path, rows))
    assert trace.source.weights(0) is None
    assert_round_trip(trace, tmp_path)


def test_a_dropped_expert_is_a_null_slot_in_its_place(tmp_path):
    dropped = {0, 8, 9}
    rows = "".join(f"{line},{int(row in dropped)}\n" for row, line in enumerate(ROWS.splitlines()))
    trace = import_trace(capture(tmp_path, rows, columns=COLUMNS + ",dropped"))
    decisions = [row.decisions for row in rows_of(trace)]
    assert decisions[0] == [[None, 2], None]
    assert decisions[2] == [[7, 5], [None, None]]  # routed there, though nothing was computed
    assert trace.source.weights(0)[0].tolist() == pytest.approx([0.6, 0.4])  # what the router gave it
    assert "3 slots were dropped" in trace.notes
    assert_round_trip(trace, tmp_path)


def test_columns_are_read_by_name_and_rows_in_any_order(tmp_path):
    expected = rows_of(import_trace(capture(tmp_path)))
    lines = [line.split(",") for line in ROWS.splitlines()][::-1]
    rows = "".join(",".join(["x", *line[5:0:-1], line[0]]) + "\n" for line in lines)
    trace = import_trace(capture(tmp_path, rows, columns="new,expert,slot,layer,step,phase,turn"))
    # turns come in the order in which they appear, and here the second comes first
    assert [row.decisions for row in rows_of(trace)] == [row.decisions for row in expected[3:] + expected[:3]]


def test_a_conversation_goes_on_at_its_position(tmp_path):
    rows = ROWS.replace("1,0,0,", "1,0,3,")
    assert import_trace(capture(tmp_path, rows)).position.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("path", "name", "quant"),
    [
        ("/sdcard/my models/a b=c Q8_0.gguf", "a b=c Q8_0.gguf", "Q8_0"),
        (r"C:\models\gpt-oss-120b-MXFP4.gguf", "gpt-oss-120b-MXFP4.gguf", "MXFP4"),
        ("mix-IQ2_XXS-q6_k.gguf", "mix-IQ2_XXS-q6_k.gguf", None),  # two of them: not clear
        ("SEQ4_K_MODEL.gguf", "SEQ4_K_MODEL.gguf", None),
        ("", None, None),
    ],
)
def test_model_names(tmp_path, path, name, quant):
    preamble = PREAMBLE.replace("/data/local/tmp/Tiny-MoE-Q4_K_M.gguf", path)
    model = import_trace(capture(tmp_path, preamble=preamble)).model
    assert (model.name, model.quant, model.layers) == (name, quant, 3)


@pytest.mark.parametrize(
    ("line", "expert_bytes", "dense_bytes"),
    [
        ("# layer=2 expert_bytes=0 dense_bytes=300", None, (100, 200, 300)),
        ("", None, None),
        ("# layer=2 expert_bytes=2000", (1000, 2000), None),
    ],
)
def test_sizes_that_are_not_there_are_unknown_and_never_zero(tmp_path, line, expert_bytes, dense_bytes):
    preamble = PREAMBLE.replace("# layer=2 expert_bytes=2000 dense_bytes=300\n", line and line + "\n")
    trace = import_trace(capture(tmp_path, preamble=preamble))
    assert (trace.model.expert_bytes, trace.model.dense_bytes) == (expert_bytes, dense_bytes)
    assert ("expert sizes unknown" in trace.notes) == (expert_bytes is None)


def test_what_the_user_says_goes_before_the_file(tmp_path):
    options = {"experts": 16, "expert_bytes": "3KiB", "dense_bytes": [1, "2B", "3B"], "name": "mine", "quant": "q"}
    model = import_trace(capture(tmp_path), **options).model
    assert (model.experts, model.expert_bytes, model.dense_bytes) == ((16, 16), (3072, 3072), (1, 2, 3))
    assert (model.name, model.quant) == ("mine", "q")


@pytest.mark.parametrize("variant", ["gzip", "zstd", "windows", "unfinished last line", "byte order mark"])
def test_the_same_trace_in_other_clothes(tmp_path, variant):
    path = capture(tmp_path)
    expected = rows_of(import_trace(path))
    content = path.read_bytes()
    if variant == "gzip":
        path = tmp_path / "t.csv.gz"
        path.write_bytes(gzip.compress(content))
    elif variant == "zstd":
        path = tmp_path / "t.csv.zst"
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(content)
    elif variant == "windows":
        path.write_bytes(content.replace(b"\n", b"\r\n"))
    elif variant == "unfinished last line":
        path.write_bytes(content.rstrip(b"\n"))
    else:
        path.write_bytes(b"\xef\xbb\xbf" + content)
    assert rows_of(import_trace(path)) == expected


def test_a_capture_that_ends_between_two_layers_says_so(tmp_path):
    more = "1,1,1,1,0,6,0.5,0,1000\n1,1,1,1,1,5,0.5,1,0\n"
    cut = import_trace(capture(tmp_path, ROWS + more))
    assert rows_of(cut)[-1].decisions == [[6, 5], None]
    assert "the last token has no experts at 1 layers from 2 on" in cut.notes
    assert "the last token" not in import_trace(capture(tmp_path)).notes


MALFORMED = {
    "slot left out": (ROWS.replace("0,0,1,1,1,7,0.3,0,1000\n", ""), [r"line 9, column 'expert'", "1 slots where 2"]),
    "fewer slots than stated": ("0,1,0,1,0,5,1,0,0\n", ["line 7", "1 slots where 2"]),
    "an earlier layer of the last token": (
        ROWS.replace("1,0,0,1,1,5,0.5,1,0\n", ""),
        ["line 17", "where 2 .*; correct"],
    ),
    "slot twice": (ROWS.replace("0,0,1,1,1,7", "0,0,1,1,0,7"), ["line 10, column 'slot'", "slot 0 .* twice"]),
    "row twice": (ROWS + "1,0,0,2,1,3,0.5,1,0\n", ["line 21, column 'slot'", "slot 1 .* twice"]),
    "slot too high": (ROWS.replace("0,0,1,1,1,7", "0,0,1,1,2,7"), ["line 10, column 'slot'", r"slot 2 .*0 to 1"]),
    "slot of two billion": (
        ROWS.replace("0,0,1,1,1,7", "0,0,1,1,2000000000,7"),
        ["line 10, column 'slot'", "2000000000"],
    ),
    "negative slot": (ROWS.replace("0,0,1,1,1,7", "0,0,1,1,-1,7"), ["line 10, column 'slot'", "-1"]),
    "expert too high": (ROWS.replace("0,0,1,1,1,7", "0,0,1,1,1,8"), ["line 10, column 'expert'", "8 .*0 to 7"]),
    "negative expert": (ROWS.replace("0,0,1,1,1,7", "0,0,1,1,1,-1"), ["line 10, column 'expert'", "-1"]),
    "expert twice": (
        ROWS.replace("0,0,1,1,1,7", "0,0,1,1,1,2"),
        ["line 10, column 'expert'", "expert 2 appears twice"],
    ),
    "phase": (ROWS.replace("1,0,0,1,0,6", "1,2,0,1,0,6"), ["line 17, column 'phase'", "2 .*0 to 1"]),
    "negative position": (ROWS.replace("1,0,0,1,0,6", "1,0,-1,1,0,6"), ["line 17, column 'step'", "-1"]),
    "negative turn": (ROWS.replace("1,0,0,1,0,6", "-1,0,0,1,0,6"), ["line 17, column 'turn'", "-1"]),
    "in both phases": (ROWS.replace("0,1,2,", "0,1,1,"), ["line 1[13], column 'phase'", "position 1 .*both phases"]),
    "not a number": (ROWS.replace("0,0,1,1,1,7", "0,0,1,1,1,x"), ["line 10, column 'expert'", "'x', expected a whole"]),
    "a fraction": (ROWS.replace("0,0,1,1,1,7", "0,0,1,1,1,7.5"), ["line 10, column 'expert'", "7.5"]),
    "too large": (ROWS.replace("0,0,1,1,1,7", "0,0,1,1,1,7000000000"), ["line 10, column 'expert'", "too large"]),
    "weight": (ROWS.replace("nan", "none"), ["line 14, column 'weight'", "'none', expected a number"]),
    "empty cell": (ROWS.replace("0,0,1,1,1,7", "0,0,1,,1,7"), ["line 10, column 'layer'", "empty"]),
    "truncated line": (ROWS[:-12], ["line 20", "5 cells where .* 9", "truncated"]),
    "a cell too many": (ROWS.replace("0,0,1,1,1,7", "0,0,1,1,1,7,0"), ["line 10", "10 cells", "correct"]),
    "truncated token": (ROWS.removesuffix("1,0,0,2,1,3,0.5,1,0\n"), ["line 19", "1 slots where 2", "truncated"]),
    "two captures in one": (ROWS + PREAMBLE, ["line 21", "second preamble"]),
    "no rows": ("", ["no rows"]),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_rows(tmp_path, case):
    rows, parts = MALFORMED[case]
    refused(capture(tmp_path, rows), *parts)


def test_a_dropped_column_holds_only_0_and_1(tmp_path):
    rows = "".join(f"{line},2\n" for line in ROWS.splitlines())
    refused(capture(tmp_path, rows, columns=COLUMNS + ",dropped"), "line 7, column 'dropped'", "2 .*0 to 1")


@pytest.mark.parametrize(
    ("preamble", "columns", "parts"),
    [
        ("", COLUMNS, ["line 1", "preamble", "missing"]),
        (PREAMBLE.replace("v1", "v2"), COLUMNS, ["line 1", "'v2'", "reads v1"]),
        (PREAMBLE.splitlines()[0] + "\n", COLUMNS, ["no line '# model="]),
        (PREAMBLE.replace("n_expert=8 ", ""), COLUMNS, ["line 2", "n_expert"]),
        (PREAMBLE.replace("n_expert=8", "n_expert=eight"), COLUMNS, ["line 2", "eight"]),
        (PREAMBLE.replace("used=2", "used=0"), COLUMNS, ["1 or more"]),
        (PREAMBLE.replace("used=2", "used=2000000000"), COLUMNS, ["line 2", "2000000000, but there are 8"]),
        (PREAMBLE.replace("expert_bytes=1000", "expert_bytes=big"), COLUMNS, ["line 4", "big"]),
        (PREAMBLE, COLUMNS.replace("expert,", "exports,"), ["line 6", "column 'expert' is missing", "exports"]),
        (PREAMBLE, COLUMNS.replace("weight", "slot"), ["line 6", "column 'slot' .*twice"]),
    ],
)
def test_malformed_preambles(tmp_path, preamble, columns, parts):
    refused(capture(tmp_path, preamble=preamble, columns=columns), *parts)


def test_a_preamble_alone(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(PREAMBLE)
    refused(path, "nothing below the preamble")


def test_truncated_compression(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(capture(tmp_path).read_bytes())[:-20])
    refused(path, "truncated")


def test_an_expert_that_the_user_rules_out(tmp_path):
    refused(capture(tmp_path), "line 7, column 'expert'", "5 .*0 to 4", experts=5)


@needs_traces
@pytest.mark.parametrize(("name", "k", "prompt"), [("qwen", 6, 28), ("gptoss", 2, 85)])
def test_real_captures(tmp_path, name, k, prompt):
    trace = import_trace(SHARED / "bigmoe" / f"{name}.route.csv")
    rows, sizes = bigmoe_rows(name)
    assert rows_of(trace) == rows
    assert trace.model.expert_bytes == tuple(sizes)
    assert (set(trace.model.experts), set(trace.model.top_k)) == ({128}, {k})
    assert (trace.model.quant, trace.model.layers) == ("Q4_K_M", trace.moe_layers)
    last = trace.decisions(trace.moe_layers - 1)
    assert last.routed[:prompt].tolist() == [False] * (prompt - 1) + [True]
    assert trace.source.weights(0)[:, 0].min() > 0
    assert_round_trip(trace, tmp_path)


@needs_traces
def test_a_real_capture_is_read_in_a_moment():
    path = SHARED / "bigmoe" / "qwen.route.csv"
    import_trace(path)
    start = time.perf_counter()
    import_trace(path)
    assert time.perf_counter() - start < 0.3
