"""Tables as people have them: many names, no requests or phases, other separators, lists in cells, one expert a row."""

import io
import json
import sys

import pytest
from click.testing import CliRunner

from remoe_sim import TraceError, import_trace
from remoe_sim.commands.import_ import command
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.support.imported import assert_round_trip, refused, rows_of

TWO = [Row(0, 0, 0, DECODE, [[3, 7]]), Row(0, 1, 1, DECODE, [[7, 2]])]
RANKED = [
    Row(0, 0, 0, PREFILL, [[3, 7]]), Row(0, 1, 0, PREFILL, [[3, 2]]),
    Row(0, 2, 1, DECODE, [[7, 2]]), Row(0, 3, 2, DECODE, [[7, 1]]),
]  # fmt: skip

CSV = {
    "no request and no phase": ("position,layer,expert", "0,0,3 0,0,7 1,0,7 1,0,2"),
    "other names": ("token_idx,layer_id,expert_id", "0,0,3 0,0,7 1,0,7 1,0,2"),
    "semicolons": ("Token Idx;Layer ID;expert_0;expert_1", "0;0;3;7 1;0;7;2"),
    "tabs": ("tok\tblk\ttopk_0\ttopk_1", "0\t0\t3\t7 1\t0\t7\t2"),
    "one column for each, from 1": ("pos,layer,expert_1,expert_2", "0,0,3,7 1,0,7,2"),
    "lists": ("t,l,expert_ids", "0,0,3;7 1,0,7;2"),
    "brackets": ("t,l,expert_ids", '0,0,"[3,7]" 1,0,"[7,2]"'),
    "ranks from 1, backwards": ("token,layer,rank,expert", "0,0,2,7 0,0,1,3 1,0,1,7 1,0,2,2"),
    "times": ("token,layer,expert,t_ns", "0,0,3,100 0,0,7,100 1,0,7,300 1,0,2,300"),
    "lines above": ("# a log\n\nposition,layer,expert", "0,0,3 0,0,7 1,0,7 1,0,2"),
    "no positions, lists": ("layer_id,expert_ids", "0,3;7 0,7;2"),
    "no positions, ranks": ("layer,rank,expert", "0,0,3 0,1,7 0,0,7 0,1,2"),
}


@pytest.mark.parametrize("case", CSV)
def test_csv_of_many_names(tmp_path, case):
    header, rows = CSV[case]
    path = tmp_path / "t.csv"
    path.write_text(header + "\n" + "\n".join(rows.split(" ")) + "\n")
    trace = import_trace(path)
    assert [row.decisions for row in rows_of(trace)] == [row.decisions for row in TWO]
    assert trace.phase.tolist() == [1, 1]
    assert trace.notes
    assert_round_trip(trace, tmp_path)


def test_ranks_and_phases(tmp_path):
    path = tmp_path / "t.csv"
    lines = [
        f"{row.phase},{row.position},0,{rank},{expert}"
        for row in RANKED
        for rank, expert in enumerate(row.decisions[0])
    ]
    path.write_text("\n".join(["phase,token,layer,rank,expert", *reversed(lines)]) + "\n")
    trace = import_trace(path)
    assert rows_of(trace) == RANKED
    assert "all tokens are of one request" in trace.notes


def test_weights_between_semicolons(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("pos;layer;e0;e1;w0;w1\n0;0;3;7;0,25;0,75\n")
    trace = import_trace(path)
    assert rows_of(trace)[0].decisions == [[7, 3]]
    assert trace.source.weights(0).tolist() == [[0.75, 0.25]]
    path.write_text("pos;layer;expert;weight\n0;0;3;0,5\n0;0;x;0,5\n")
    refused(path, "line 3, column 'expert': 'x'")


def test_scores_that_are_no_weights_are_left_out(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("pos,layer,e0,e1,score_0,score_1\n0,0,3,7,-1.5,0.5\n")
    trace = import_trace(path)
    assert rows_of(trace)[0].decisions == [[3, 7]]
    assert "'score_0' is not imported" in trace.notes


def test_names_that_only_the_user_knows(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("when,where,what\n0,0,3\n0,0,7\n1,0,7\n1,0,2\n")
    assert rows_of(import_trace(path, columns="position=when,layer=where,experts=what")) == TWO
    refused(path, "no column 'whither'.*correct --columns", columns="layer=whither")
    path.write_text("0,0,3,7\n1,0,7,2\n")
    assert rows_of(import_trace(path, columns="position,layer,e0,e1")) == TWO
    refused(path, "names 3 columns, but the first row has 4", columns="position,layer,expert")
    refused(path, "--columns position,layer,e0,e1", format="csv")


def test_phase_of_all_tokens(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("position,layer,expert\n0,0,3\n0,0,7\n1,0,7\n1,0,2\n")
    trace = import_trace(path, phase="prefill")
    assert (trace.phase.tolist(), trace.step.tolist()) == ([0, 0], [0, 0])
    assert "as --phase says" in trace.notes
    with pytest.raises(ValueError, match="phase 'both' is not possible; give prefill or decode"):
        import_trace(path, phase="both")
    with pytest.raises(ValueError, match="axes 'a,b' are not possible"):
        import_trace(path, axes="a,b")


def test_positions_that_start_again_are_requests(tmp_path):
    """Two runs of a program that appends to its log, token by token or layer by layer."""
    token = [(position, layer) for _ in range(2) for position in range(2) for layer in range(2)]
    layers = [(position, layer) for _ in range(2) for layer in range(2) for position in range(2)]
    for order in (token, layers):
        path = tmp_path / "t.csv"
        path.write_text("pos,layer,e0\n" + "".join(f"{p},{layer},{p + layer}\n" for p, layer in order))
        trace = import_trace(path)
        assert trace.request.tolist() == [0, 0, 1, 1]
        assert [row.decisions for row in rows_of(trace)] == [[[0], [1]], [[1], [2]]] * 2
        assert "2 are told apart by positions that start again" in trace.notes


def test_positions_of_generated_tokens_that_start_again(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("phase,token,layer,e0\nprefill,0,0,1\nprefill,1,0,2\ndecode,0,0,3\ndecode,1,0,4\nprefill,0,0,5\n")
    trace = import_trace(path)
    assert trace.request.tolist() == [0, 0, 0, 0, 1]
    assert trace.position.tolist() == [0, 1, 2, 3, 0]
    assert "counted on from the prompt" in trace.notes


def test_prompts_that_follow_generated_tokens_are_requests(tmp_path):
    path = tmp_path / "t.csv"
    phases = ["prefill", "decode", "prefill", "decode"]
    path.write_text("t,layer,e0,phase\n" + "".join(f"{t},0,{t},{phase}\n" for t, phase in enumerate(phases)))
    trace = import_trace(path)
    assert (trace.request.tolist(), trace.position.tolist()) == ([0, 0, 1, 1], [0, 1, 0, 1])


def test_activations_between_semicolons(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("layer;expert\n0;3\n0;7\n0;7\n0;2\n")
    refused(path, "--columns position=NAME, or pass --top-k N")
    assert [row.decisions for row in rows_of(import_trace(path, top_k=2))] == [row.decisions for row in TWO]


def test_prompts_at_position_minus_one(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("pos,layer,e0,e1\n-1,0,3,7\n-1,0,4,8\n-1,1,5,6\n-1,1,6,7\n0,0,1,2\n0,1,2,3\n1,0,3,4\n1,1,4,5\n")
    trace = import_trace(path)
    assert (trace.position.tolist(), trace.phase.tolist()) == ([0, 1, 2, 3], [0, 0, 1, 1])
    assert [row.decisions for row in rows_of(trace)][:3] == [[[3, 7], [5, 6]], [[4, 8], [6, 7]], [[1, 2], [2, 3]]]
    assert "the prompt of 2 tokens" in trace.notes


def test_steps_that_start_again_with_each_request_are_no_batches(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [
        {"request_id": r, "phase": "decode", "step_id": s, "token_position": s, "layer_id": 0, "expert_ids": [s, 5]}
        for r in range(2) for s in range(2)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    trace = import_trace(path)
    assert trace.step.tolist() == [0, 1, 2, 3]
    assert "'step_id' is not imported" in trace.notes


JSON = {
    "lines": [{"token": 0, "layer": 0, "experts": [3, 7]}, {"token": 1, "layer": 0, "experts": [7, 2]}],
    "one expert": [
        {"layer": 0, "token_idx": t, "expert_idx": e, "gate_weight": 0.5} for t, e in ((0, 3), (0, 7), (1, 7), (1, 2))
    ],
    "ranks": [
        {"layer": 0, "token_idx": t, "rank": r, "expert": e} for t, r, e in ((0, 1, 7), (0, 0, 3), (1, 0, 7), (1, 1, 2))
    ],
    "fields for each": [
        {"t": 0, "l": 0, "e0": 3, "e1": 7, "s0": 0.6, "s1": 0.4}, {"t": 1, "l": 0, "e0": 7, "e1": 2, "s0": 1, "s1": 0},
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", JSON)
@pytest.mark.parametrize("form", ["lines", "list", "indented", "in an object", "below a header"])
def test_json_of_many_names(tmp_path, case, form):
    facts = {"model_id": "x", "num_experts": 16, "top_k": 2}
    text = {
        "lines": "\n".join(map(json.dumps, JSON[case])),
        "list": json.dumps(JSON[case]),
        "indented": json.dumps(JSON[case], indent=1),
        "in an object": json.dumps(facts | {"activations": JSON[case]}),
        "below a header": "\n".join(map(json.dumps, [facts | {"num_entries": len(JSON[case])}, *JSON[case]])),
    }[form]
    path = tmp_path / "t.json"
    path.write_text(text)
    trace = import_trace(path)
    assert rows_of(trace) == TWO
    if form in ("in an object", "below a header"):
        assert (trace.model.name, trace.model.experts) == ("x", (16,))
    assert_round_trip(trace, tmp_path)


def test_a_file_must_hold_what_it_says(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = "".join(json.dumps(one) + "\n" for one in JSON["lines"])
    path.write_text('{"num_experts": 16, "top_k": 4}\n' + rows)
    refused(path, "says 4 experts per token, but its routing has 2")
    path.write_text('{"num_experts": 16, "num_entries": 3}\n' + rows)
    refused(path, "says that it has 3 rows, but there are 2")
    path.write_text(json.dumps([*JSON["lines"], {"token": 2, "layer": 0}], indent=0))
    refused(path, "line 18, column 'experts': missing")


def test_standard_input(tmp_path, monkeypatch):
    class Piped:
        buffer = io.BytesIO(b"position,layer,expert\n0,0,3\n0,0,7\n1,0,7\n1,0,2\n")

    monkeypatch.setattr(sys, "stdin", Piped)
    assert rows_of(import_trace("-")) == TWO
    with pytest.raises(TraceError, match="standard input: the file is empty"):
        import_trace("-")


def test_a_format_of_the_users_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from remoe_sim.importing import TraceFormat, import_trace\n\n\nclass Mine(TraceFormat):\n    name = 'mine'\n"
        "    def recognises(self, source): return True\n"
        "    def read(self, source): return import_trace(str(source.path), format='csv')\n"
    )
    (tmp_path / "t.csv").write_text("position,layer,expert\n0,0,3\n0,0,7\n1,0,7\n1,0,2\n")
    trace = import_trace(tmp_path / "t.csv", format=str(path))
    assert (rows_of(trace), trace.origin["format"]) == (TWO, "mine")
    with pytest.raises(ValueError, match=r"trace format .*none.py.*there is no such file"):
        import_trace(tmp_path / "t.csv", format=str(tmp_path / "none.py"))


def test_the_command(tmp_path):
    (tmp_path / "t.csv").write_text("when,layer,expert\n0,0,3\n0,0,7\n1,0,7\n1,0,2\n")
    given = [str(tmp_path / "t.csv"), "-o", str(tmp_path / "t.parquet"), "--columns", "position=when"]
    result = CliRunner().invoke(command, [*given, "--phase", "decode", "--name", "qwen3-30b-a3b"])
    assert result.exit_code == 0, result.output
    assert "2 tokens (0 prefill, 2 decode), 1 request, 1 MoE layers" in result.output
