"""Several inputs as one trace, and how a file finds its format."""

import numpy as np
import pytest

from remoe_sim import import_trace
from tests.support.bigmoe import PREAMBLE, capture
from tests.support.imported import assert_round_trip, nested, rows_of
from tests.support.plain_files import LONG, ROWS, arrays, long_csv, objects, write_csv, write_jsonl, write_npz


def test_requests_and_steps_go_on_from_input_to_input(tmp_path):
    paths = [write_csv(tmp_path, LONG, long_csv()), write_jsonl(tmp_path, objects()), write_npz(tmp_path, **arrays())]
    trace = import_trace(paths)
    assert trace.request.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4, 4, 4, 5, 5]
    assert trace.step.tolist() == [0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10, 11, 12, 13, 14]
    assert [row.decisions for row in rows_of(trace)] == [row.decisions for row in ROWS] * 3
    assert trace.origin["format"] == ["csv", "jsonl", "npz"]
    assert trace.origin["path"] == ["t.csv", "t.jsonl", "t.npz"]
    assert [len(digest) for digest in trace.origin["sha256"]] == [64] * 3
    assert "several inputs joined" in trace.notes
    assert trace.notes.count("each decode token is a step of its own") == 1
    assert_round_trip(trace, tmp_path)


def test_steps_and_requests_of_inputs_may_start_anywhere(tmp_path):
    lines = [
        f"{line},{100 + int(line.split(',')[1])}" for line in ("7,0,decode,0,1", "7,1,decode,0,2", "3,2,decode,0,3")
    ]
    path = write_csv(tmp_path, LONG + ",step", lines)
    trace = import_trace([path, path])
    assert trace.request.tolist() == [0, 0, 1, 2, 2, 3]
    assert trace.step.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_layer_is_null_only_where_an_input_has_nulls(tmp_path):
    whole = write_csv(tmp_path, LONG, ["0,0,decode,0,1", "0,1,decode,0,2"], "whole.csv")
    holes = write_csv(tmp_path, LONG, ["0,0,decode,0,1", "0,1,decode,1,2"], "holes.csv")
    both = write_csv(tmp_path, LONG, [f"0,{p},decode,{layer},1" for p in (0, 1) for layer in (0, 1)], "both.csv")
    trace = import_trace([both, holes])
    assert nested(trace.decisions(0)) == [[1], [1], [1], None]
    assert import_trace([whole, whole]).decisions(0).valid is None


def test_weights_and_token_ids_only_where_all_inputs_have_them(tmp_path):
    plain, more = write_jsonl(tmp_path, objects()), [one | {"weights": [0.5, 0.25], "token_id": 1} for one in objects()]
    rich = write_jsonl(tmp_path, more, "rich.jsonl")
    trace = import_trace([rich, rich])
    assert trace.source.weights(0).shape == (12, 2)
    assert trace.token_id.tolist() == [1] * 12
    assert_round_trip(trace, tmp_path)
    mixed = import_trace([rich, plain])
    assert mixed.source.weights(0) is None
    assert mixed.token_id is None
    assert "token ids left out" in mixed.notes
    assert "weights left out" in mixed.notes


def test_the_number_of_experts_of_inputs_that_do_not_state_it(tmp_path):
    low = write_csv(tmp_path, LONG, ["0,0,decode,0,1"], "low.csv")
    high = write_csv(tmp_path, LONG, ["0,0,decode,0,30"], "high.csv")
    stated = tmp_path / "stated.npz"
    np.savez(stated, experts=[[[1]]], n_experts=64)
    small = tmp_path / "small.npz"
    np.savez(small, experts=[[[1]]], n_experts=8)
    trace = import_trace([low, high])
    assert trace.model.experts == (31,)
    assert "taken as 31" in trace.notes
    assert "taken as 2," not in trace.notes
    for paths in ([low, stated], [stated, high]):
        trace = import_trace(paths)
        assert trace.model.experts == (64,)
        assert "largest id" not in trace.notes
    with pytest.raises(ValueError, match=r"small.npz: it states 8 experts, .* ids up to 30, .*--experts"):
        import_trace([high, small])
    assert import_trace([high, small], experts=40).model.experts == (40,)


def test_inputs_of_different_models_are_not_joined(tmp_path):
    first = capture(tmp_path, name="first.csv")
    for change, part in (
        (("Tiny-MoE", "Other-MoE"), r"name \(Other-MoE-Q4_K_M.gguf\) differ .*Tiny-MoE.*--name"),
        (("Q4_K_M", "Q8_0"), "name"),
        (("n_expert=8", "n_expert=16"), "numbers of experts .*--experts"),
        (("expert_bytes=2000", "expert_bytes=3000"), r"expert_bytes \(2 of 1000 to 3000\) .*--expert-bytes"),
        (("dense_bytes=300", "dense_bytes=400"), "dense_bytes .*--dense-bytes"),
        (("n_layer=3", "n_layer=4"), "layers .*import them apart"),
    ):
        other = capture(tmp_path, preamble=PREAMBLE.replace(*change), name="other.csv")
        with pytest.raises(ValueError, match=f"other.csv: its {part}"):
            import_trace([first, other])
    other = capture(tmp_path, preamble=PREAMBLE.replace("Tiny", "Other"), name="other.csv")
    assert import_trace([first, other], name="both").model.name == "both"


def test_layers_and_k_must_agree(tmp_path):
    first = write_csv(tmp_path, LONG, ["0,0,decode,0,1"], "first.csv")
    for lines, part in (
        (["0,0,decode,1,1"], r"MoE layers \(1 of 1 to 1\)|MoE layers \(1\)"),
        (["0,0,decode,0,1", "0,0,decode,0,2"], r"experts per token \(2\) .*\(1\)"),
    ):
        with pytest.raises(ValueError, match=f"other.csv: its (?:{part})"):
            import_trace([first, write_csv(tmp_path, LONG, lines, "other.csv")])


def test_sizes_that_only_some_inputs_state(tmp_path):
    first = capture(tmp_path, name="first.csv")
    other = capture(tmp_path, preamble=PREAMBLE.replace("expert_bytes=1000", "expert_bytes=0"), name="other.csv")
    for paths in ([first, other], [other, first]):
        trace = import_trace(paths)
        assert trace.model.expert_bytes == (1000, 2000)
        assert "expert_bytes of all inputs taken from those that state it" in trace.notes


def test_no_inputs():
    with pytest.raises(ValueError, match="nothing to import"):
        import_trace([])


def test_more_steps_than_fit(tmp_path):
    path = write_csv(tmp_path, LONG + ",step", ["0,0,decode,0,1,0", f"0,1,decode,0,1,{2**31 - 2}"])
    assert import_trace(path).step.tolist() == [0, 2**31 - 2]
    with pytest.raises(ValueError, match="more steps than fit"):
        import_trace([path, path])
