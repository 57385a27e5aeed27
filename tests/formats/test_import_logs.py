"""Formats with a line or object per decision: the traps of each layout and every malformed variant."""

import json

import numpy as np
import pytest

from remoe_sim import import_trace
from tests.support.foreign_files import (
    FIRST,
    SECOND,
    b64,
    colibri,
    flat_imp,
    imp,
    json_file,
    kimi_linear,
    lattice,
    lines_file,
    llamacpp,
    rows,
    speculative,
    speculative_raw,
    text_file,
    vllm_routes,
    vllm_routes_rows,
)
from tests.support.imported import refused, rows_of


def test_vllm_warm_up_is_left_out_and_said(tmp_path):
    trace = import_trace(lines_file(tmp_path, "r.jsonl", vllm_routes((8, 4))))
    assert rows_of(trace) == vllm_routes_rows()
    assert "12 dummy tokens of vLLM's warm-up left out (2 forward passes)" in trace.notes
    assert "requests are not told apart" in trace.notes
    assert trace.model.name == "some/moe"
    assert trace.source.weights(0).tolist() == [[0.75, 0.25]] * 10
    assert "dummy" not in import_trace(lines_file(tmp_path, "r.jsonl", vllm_routes(()))).notes


def test_vllm_passes_of_decoding_requests_are_steps(tmp_path):
    """Rows that follow each other in the file are of different requests, so they are no neighbours in time."""
    trace = import_trace(lines_file(tmp_path, "r.jsonl", vllm_routes()))
    assert trace.step.tolist() == [0] * 5 + [1, 1, 2, 2, 3]
    assert trace.request.tolist() == [0] * 5 + [1, 2, 1, 2, 3]


@pytest.mark.parametrize(
    ("sizes", "prefill"),
    [
        ([9, 9, 4, 1, 1, 1], [9, 9, 4]),  # a prompt in chunks: the steepest fall is that to one token
        ([8, 2, 2, 1], [8]),  # one of two requests ends
        ([6, 1, 1, 5, 1, 1], [6, 5]),  # one after the other
        ([3, 3, 3], []),
        ([7, 9, 2, 2], [7, 9]),
    ],
)
def test_vllm_prompts_are_told_by_the_size_of_a_pass(tmp_path, sizes, prefill):
    lines = [
        {"type": "route", "token_idx": at, "layer": 3, "topk_ids": [at % 7, 7]} for size in sizes for at in range(size)
    ]
    trace = import_trace(lines_file(tmp_path, "r.jsonl", lines))
    passes, counts = np.unique(trace.step[trace.phase == 0], return_counts=True)
    assert counts.tolist() == prefill
    assert trace.step.tolist() == np.repeat(range(len(sizes)), sizes).tolist()
    assert len(passes) == len(prefill)


def test_vllm_routes_without_passes(tmp_path):
    lines = [
        {"type": "route", "token_idx": at, "layer": 0, "topk_ids": ids[0].tolist()} for at, ids in enumerate(FIRST)
    ]
    trace = import_trace(lines_file(tmp_path, "r.jsonl", lines))
    assert rows_of(trace) == rows(FIRST[:, :1])
    assert "token_idx never starts again" in trace.notes


def test_malformed_vllm_routes(tmp_path):
    lines = vllm_routes(layers=(11, 12))
    refused(lines_file(tmp_path, "r.jsonl", lines[:-1]), "layer 12 has .* layer 11 has .*rows are missing")
    refused(lines_file(tmp_path, "r.jsonl", lines[:1]), "no route")
    refused(lines_file(tmp_path, "r.jsonl", vllm_routes()[:9]), "all tokens are on the same experts")
    for wrong, part in (
        ({"topk_ids": [1], "topk_weights": None}, "'topk_ids': this decision has 1 slots where 2"),
        ({"topk_ids": "12"}, "not a list of expert ids"),
        ({"topk_ids": [3, 3], "topk_weights": None}, "expert 3 appears twice"),
        ({"topk_weights": [1]}, "not a list of 2 numbers"),
        ({"token_idx": None}, "null is not a whole number"),
    ):
        broken = vllm_routes()
        broken[-1] = broken[-1] | wrong
        refused(lines_file(tmp_path, "r.jsonl", broken), f"line {len(broken)}", part)


def test_ragged_speculative_layers_are_counted(tmp_path):
    trace = import_trace(lines_file(tmp_path, "p.jsonl", speculative(drop={(1, 1), (1, 2), (0, 4)})))
    assert trace.tokens == 4
    assert [row.decisions[1] for row in rows_of(trace)] == [*FIRST[[0, 3, 4], 1].tolist(), None]
    assert "1 decisions are lost, up to 1 at a layer" in trace.notes
    assert "ragged" not in import_trace(lines_file(tmp_path, "p.jsonl", speculative())).notes


def test_speculative_token_pos_starts_again_in_every_pass(tmp_path):
    trace = import_trace(lines_file(tmp_path, "p.jsonl", speculative_raw()))
    assert trace.phase.tolist() == [0, 0, 1, 1, 1, 0, 1, 1]
    assert trace.position.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]


def test_malformed_speculative(tmp_path):
    lines = speculative()
    refused(
        lines_file(tmp_path, "p.jsonl", [lines[0], *lines[2:]]), "line 2, column 'token_idx': 2 where 1 is expected"
    )
    refused(lines_file(tmp_path, "p.jsonl", [*lines, {"problem_id": 1}]), "line 11, column 'layer': missing")
    refused(lines_file(tmp_path, "p.jsonl", [*lines, "{"]), "line 11: not valid JSON")
    refused(lines_file(tmp_path, "p.jsonl", [lines[0] | {"experts": [4, 4]}]), "expert 4 appears twice")
    del lines[3]["token_idx"]
    refused(lines_file(tmp_path, "p.jsonl", lines), "line 4, column 'token_idx': missing")


def test_lattice_in_any_order_and_with_more_fields(tmp_path):
    lines = [one | {"router": "top2"} for one in reversed(lattice())]
    del lines[0]["gate_weights"]
    trace = import_trace(lines_file(tmp_path, "l.jsonl", lines))
    assert rows_of(trace) == rows(FIRST)
    assert np.isnan(trace.source.weights(1)[4]).all()


def test_malformed_lattice(tmp_path):
    lines = lattice()
    refused(lines_file(tmp_path, "l.jsonl", [*lines, lines[0]]), "4 slots where 2")
    refused(lines_file(tmp_path, "l.jsonl", [lines[0], 7]), "line 2: 7 is not an object")
    refused(lines_file(tmp_path, "l.jsonl", [lines[0] | {"layer_idx": -1}]), "'layer_idx': -1")
    refused(lines_file(tmp_path, "l.jsonl", [lines[0] | {"selected_ids": []}]), "not a list of expert ids")
    refused(lines_file(tmp_path, "l.jsonl", [lines[0] | {"selected_ids": [70000]}]), "not a list of expert ids")


def test_llamacpp_needs_top_k(tmp_path):
    path = text_file(tmp_path, "m.csv", llamacpp())
    refused(path, "pass --top-k N")
    refused(path, "line 1, column 'layer': 6 rows in sequence are not a multiple of 4", top_k=4)
    refused(text_file(tmp_path, "m.csv", llamacpp()[:-4]), "seems truncated|not a multiple", top_k=2)
    refused(text_file(tmp_path, "m.csv", "1,2\n1,2\n"), "expert 2 appears twice", top_k=2)
    refused(text_file(tmp_path, "m.csv", "1,2\n1\n"), "line 2: 1 cells", top_k=1, format="llamacpp")
    refused(
        text_file(tmp_path, "m.csv", "1,2\n1,-2\n"), "column 'expert': -2 is not possible", top_k=2, format="llamacpp"
    )
    more = "1,0\n1,1\n2,0\n2,1\n2,2\n2,3\n"
    refused(text_file(tmp_path, "m.csv", more), "line 3: 2 tokens at layer 2, but the layer before it has 1", top_k=2)


def test_llamacpp_with_names_one_layer_and_top_1(tmp_path):
    named = text_file(tmp_path, "m.csv", "layer,expert\n" + llamacpp())
    assert rows_of(import_trace(named, top_k=2)) == rows_of(
        import_trace(text_file(tmp_path, "n.csv", llamacpp()), top_k=2)
    )
    one = import_trace(text_file(tmp_path, "m.csv", "4,1\n4,2\n4,2\n"), top_k=1)
    assert rows_of(one) == rows(np.array([[[1]], [[2]], [[2]]]))
    assert "one layer only" in one.notes
    top_1 = import_trace(text_file(tmp_path, "n.csv", llamacpp(k=1)), top_k=1)
    assert top_1.tokens == 8


def test_colibri_calls_may_count_layers(tmp_path):
    """Whether a call is a forward pass or one layer of it, the same passes are found."""
    lines, call, before = [], -1, None
    for line in colibri().splitlines():
        number, row, layer, rest = line.split(" ", 3)
        call += (number, layer) != before
        before = number, layer
        lines.append(f"{call} {row} {layer} {rest}")
    path = text_file(tmp_path, "c.txt", "\n".join(lines))
    assert rows_of(import_trace(path)) == rows(FIRST, SECOND, prompts=[3, 2])


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("1 0 1 ", "2 0 1 ", "line 7: call 2 after 0"),
        ("0 1 1 ", "0 2 1 ", "line 2: row 2 where 1 is expected"),
        ("0 0 1 5:0.7", "0 0 1 5:", "line 1: '0 0 1 5:"),
        ("0 1 1 2:0.7 7:0.25", "0 1 1 2:0.7", "1 slots where 2"),
        ("0 1 1 2:0.7", "0 1 1 7:0.7", "line 2, column 'expert': expert 7 appears twice"),
    ],
)
def test_malformed_colibri(tmp_path, old, new, part):
    assert old in colibri()
    refused(text_file(tmp_path, "c.txt", colibri().replace(old, new, 1)), part, format="colibri")


def test_imp_tokens_are_found_by_layers(tmp_path):
    """A layer that is skipped for a token is a null decision."""
    trace = import_trace(json_file(tmp_path, "i.json", [one for number, one in enumerate(imp()) if number != 3]))
    assert rows_of(trace)[1].decisions == [FIRST[1, 0].tolist(), None]
    assert "decode tokens only" in trace.notes


def test_malformed_imp(tmp_path):
    refused(json_file(tmp_path, "i.json", flat_imp()), "pass --top-k N")
    refused(json_file(tmp_path, "i.json", flat_imp()[:-1]), "29 numbers are not records of 1 layer and 2", top_k=2)
    refused(json_file(tmp_path, "i.json", [[0, 1, 2], [0, 1]]), "equal lengths")
    refused(json_file(tmp_path, "i.json", [[0, 1, 2], [1, -1, 2]]), "record 1: expert -1 is not possible")
    refused(json_file(tmp_path, "i.json", [[0, 1, 1]]), "expert 1 appears twice")
    refused(json_file(tmp_path, "i.json", [[-1, 1, 2]]), "layer number", format="imp")
    refused(json_file(tmp_path, "i.json", {"trace": [], "top_k": 2}), "not a list of records", format="imp")
    refused(json_file(tmp_path, "i.json", {"rows": []}), "'trace'", "missing", format="imp")
    refused(text_file(tmp_path, "i.json", json.dumps(imp())[:-9]), "line 1: not valid JSON", "truncated")


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("prefill,3,1,1,", "prefill,3,1,7,", "line 2: token 7 of a micro-batch of 3"),
        ("prefill,3,1,1,", "warmup,3,1,1,", "line 2: 'warmup,3,1,1,2,7' is not"),
        ("decode,1,1,0,1,5", "decode,1,1,0,1", "1 slots where 2"),
        ("decode,1,1,0,1,5", "decode,1,1,0,1,1", "expert 1 appears twice"),
        (
            "prefill,1,2,0,",
            "prefill,9,2,0,0,1\nprefill,9,2,1,1,3\nprefill,9,2,2,1,3\nprefill,9,2,3,",
            "4 tokens at layer 2",
        ),
    ],
)
def test_malformed_kimi(tmp_path, old, new, part):
    assert old in kimi_linear()
    refused(text_file(tmp_path, "k.csv", kimi_linear().replace(old, new, 1)), part)


def test_kimi_with_names_of_columns(tmp_path):
    named = text_file(tmp_path, "k.csv", "phase,n_tokens,layer,token,e0,e1\n" + kimi_linear())
    plain = text_file(tmp_path, "n.csv", kimi_linear())
    assert rows_of(import_trace(named)) == rows_of(import_trace(plain))


def test_json_that_is_of_no_format_is_refused_with_a_guess(tmp_path):
    near = {"layer_idx": 0, "token_idx": 0, "which": [1]}
    refused(lines_file(tmp_path, "x.jsonl", [near]), "the nearest layouts are lattice .without selected_ids")
    refused(json_file(tmp_path, "x.json", {"experts": b64(FIRST)}), "none of the known formats")
