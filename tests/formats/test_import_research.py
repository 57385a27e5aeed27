"""Formats of published captures: the traps of each layout and every malformed variant."""

import json

import numpy as np
import pytest

from remoe_sim import import_trace, read_trace, write_trace
from tests.support.data import SHARED, needs_traces
from tests.support.foreign_files import (
    FIRST,
    cecar,
    core12345,
    exp_ids,
    gpt_oss,
    json_file,
    lines_file,
    moe_beyond,
    moelens,
    rows,
    text_file,
)
from tests.support.imported import assert_round_trip, refused, rows_of
from tests.support.torch_writing import tensor, torch_save


def test_exp_ids_are_token_slot_layer(tmp_path):
    """The other order of axes has the right number of levels, but is found out by what it says."""
    wrong = [one | {"exp_ids": [[[5, 2], [5, 0]]] * 5} for one in exp_ids()[:1]]
    refused(lines_file(tmp_path, "e.jsonl", wrong), "line 1: token 0, layer 0: expert 5 appears twice")
    trace = import_trace(lines_file(tmp_path, "e.jsonl", exp_ids()))
    assert trace.token_id.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    short = [one | {"input_ids": [1, 2]} for one in exp_ids()]
    refused(lines_file(tmp_path, "e.jsonl", short), "line 1", "input_ids has 2", r"\[token, k, layer\]")
    refused(lines_file(tmp_path, "e.jsonl", [exp_ids()[0], {"input_ids": [1]}]), "line 2, column 'exp_ids'", "missing")
    refused(lines_file(tmp_path, "e.jsonl", [exp_ids()[0] | {"exp_ids": [[1, 2]]}]), "3 levels of lists")
    refused(
        lines_file(
            tmp_path,
            "e.jsonl",
            [exp_ids()[0], '{"input_ids": [1'],
        ),
        "line 2",
        "not valid JSON",
    )
    refused(lines_file(tmp_path, "e.jsonl", [exp_ids()[0] | {"input_ids": [-1] * 5}]), "'input_ids'", "below 0")


def test_core12345_with_null_decisions_and_an_early_end(tmp_path):
    steps = core12345()
    steps[2]["1"] = None
    trace = import_trace(json_file(tmp_path, "c.json", steps[:3]))
    assert rows_of(trace)[-1].decisions == [None, FIRST[3, 1].tolist()]
    one_token = [{name: tokens and tokens[:1] for name, tokens in steps[0].items()}, *steps[1:]]
    assert import_trace(json_file(tmp_path, "c.json", one_token)).phase.tolist() == [0, 1, 1, 1]
    only = import_trace(json_file(tmp_path, "c.json", steps[:1]))
    assert (only.tokens, only.phase.tolist()) == (2, [0, 0])


@pytest.mark.parametrize(
    ("index", "wrong", "part"),
    [
        (0, {"1": [[5, 2]]}, "forward pass 0, layer (1|3): . tokens, but other layers have"),
        (1, {"1": [[5, 2], [1, 2]], "3": [[5, 2], [1, 2]]}, "forward pass 1: 2 tokens"),
        (1, {"1": [[5, 2], [1]]}, "forward pass 1, layer 1: .* equal lengths"),
        (1, {"1": [5]}, "forward pass 1, layer 1"),
        (1, {"1": None, "3": None}, "forward pass 1: all layers are null"),
        (1, {"one": [[1, 2]]}, "not an object of layer numbers"),
        (2, {"1": [[4, 4]]}, "expert 4 appears twice"),
        (2, {"1": [[4, "a"]]}, "forward pass 2, layer 1"),
    ],
)
def test_malformed_core12345(tmp_path, index, wrong, part):
    steps = core12345()
    steps[index] |= wrong
    refused(json_file(tmp_path, "c.json", steps), part)


def test_core12345_without_any_expert(tmp_path):
    refused(json_file(tmp_path, "c.json", [{"0": None}]), "all layers are null")
    refused(json_file(tmp_path, "c.json", {"0": None}), "not a list of objects", format="core12345")
    path = json_file(tmp_path, "c.json", core12345(), indent=1)
    path.write_text(path.read_text()[:-20])
    refused(path, "line \\d+: not valid JSON", "truncated")


def test_gpt_oss_loops_are_noted_and_probabilities_kept(tmp_path):
    trace = import_trace(lines_file(tmp_path, "g.jsonl", [gpt_oss(), gpt_oss() | {"has_repetition": True}]))
    assert "1 of 2 requests are marked as repetition loops (has_repetition)" in trace.notes
    assert trace.source.weights(1).tolist() == [[0.75, 0.25]] * 10
    assert trace.position.tolist() == [17, 18, 19, 20, 21] * 2


def test_malformed_gpt_oss(tmp_path):
    def changed(change):
        value = gpt_oss()
        change(value["router_data"])
        return json_file(tmp_path, "g.json", value)

    def layer(data, **wrong):
        data[1]["token_18"]["layer_1"].update(wrong)

    refused(changed(lambda data: data.pop(1)), "token_19 where token_18 is expected")
    refused(changed(lambda data: data[1]["token_18"].pop("layer_1")), "token_18 has other layers")
    refused(changed(lambda data: layer(data, selected_experts=[1])), "equal lengths")
    refused(changed(lambda data: layer(data, selected_experts=[1, 1])), "token 1, layer 1: expert 1 appears twice")
    refused(changed(lambda data: layer(data, selected_probs=None)), "selected_probs")
    refused(changed(lambda data: data.insert(0, {"prompt": {}})), "is not one token")
    refused(changed(lambda data: data[0]["token_17"].update(router={})), "'router' is not a layer")
    refused(changed(lambda data: data.clear()), "not a list of tokens")
    other = gpt_oss()
    for one in other["router_data"]:
        next(iter(one.values())).pop("layer_0")
    refused(lines_file(tmp_path, "g.jsonl", [gpt_oss(), other]), "line 2", "layers differ")


def test_moelens_keeps_all_probabilities(tmp_path):
    trace = import_trace(json_file(tmp_path, "m.json", moelens()))
    assert (trace.model.name, trace.model.layers, trace.model.experts) == ("some/moe", 3, (8, 8))
    write_trace(trace, tmp_path / "t.parquet")
    probs = read_trace(tmp_path / "t.parquet").source.probs(1)
    assert (probs.shape, probs.dtype) == ((5, 8), np.float16)
    assert probs[0, FIRST[0, 1, 0]] == np.float16(0.54)
    value = moelens()
    del value["layers"][1]["tokens"][2]["all_probs"]
    trace = import_trace(json_file(tmp_path, "m.json", value))
    assert [trace.source.probs(index) is None for index in range(2)] == [True, False]
    assert "probabilities left out" in trace.notes


def test_malformed_moelens(tmp_path):
    def changed(change):
        value = moelens()
        change(value)
        return json_file(tmp_path, "m.json", value)

    def token(value, **wrong):
        value["layers"][1]["tokens"][3].update(wrong)

    refused(changed(lambda value: token(value, top_experts=[1])), "layer 1, token 3: 1 numbers, expected 2")
    refused(changed(lambda value: token(value, top_experts=[1, 9])), "expert 9 is not below the model's 8")
    refused(changed(lambda value: token(value, token_index=7)), "7 where 3 is expected")
    refused(changed(lambda value: token(value, all_probs=[0.1] * 7)), "7 numbers, expected 8")
    refused(changed(lambda value: token(value, all_probs=[9] * 8)), "probability outside 0 to 1")
    refused(changed(lambda value: value["layers"][1]["tokens"].pop()), "4 tokens, but the prompt has 5")
    refused(changed(lambda value: value.update(layers=value["layers"][:1])), "no layer has tokens")
    refused(changed(lambda value: value.pop("num_experts")), "'num_experts'", "missing")
    refused(lines_file(tmp_path, "m.jsonl", [moelens(), moelens()]), "2 objects")


@needs_traces
def test_the_real_moelens_file(tmp_path):
    path = SHARED / "moelens" / "deepseek-moe-16b-prompt-4.json"
    trace = import_trace(path)
    recorded = json.loads(path.read_text())
    assert (trace.tokens, trace.layer_numbers, set(trace.model.top_k)) == (12, tuple(range(1, 28)), {6})
    for index, number in enumerate(trace.layer_numbers):
        tokens = recorded["layers"][number]["tokens"]
        assert trace.decisions(index).experts.tolist() == [one["top_experts"] for one in tokens]
        assert np.array_equal(trace.source.probs(index), np.float16([one["all_probs"] for one in tokens]))
    assert_round_trip(trace, tmp_path)


def test_moe_beyond_with_embeddings_and_batches(tmp_path):
    text = moe_beyond(",Token Embedding Vector", ',"[0.5, 1.5]"')
    assert rows_of(import_trace(text_file(tmp_path, "b.csv", text))) == rows(FIRST)
    both = moe_beyond() + "".join(moe_beyond().split("\n", 1)[1]).replace("1,0,", "1,7,").replace("2,0,", "2,7,")
    trace = import_trace(text_file(tmp_path, "b.csv", both))
    assert trace.request.tolist() == [0] * 5 + [7] * 5


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('1,0,"You"', '1,0,"I"', ["line 10, column 'Token'", "is 'You' here, but 'I' at another layer"]),
        ("[5, 2]", "[5, 5]", ["'Activated Expert IDs'", "expert 5 appears twice"]),
        ("[5, 2]", "[5]", ["1 slots where 2"]),
        ("[5, 2]", "5 2", ["line 2", "'5 2' is not a list of expert ids"]),
        ("[5, 2]", "[5, -2]", ["not a list of expert ids"]),
        ('1,0,"You"', 'one,0,"You"', ["line 4, column 'Layer ID'", "'one' is not a whole number"]),
        ('1,0,"You"', '1,"You"', ["line 4", "3 cells where the column names are 4"]),
        ("Batch Number", "Batch", ["column 'Batch Number' is missing"]),
    ],
)
def test_malformed_moe_beyond(tmp_path, old, new, parts):
    refused(text_file(tmp_path, "b.csv", moe_beyond().replace(old, new, 1)), *parts)


def test_moe_beyond_cut_short(tmp_path):
    lines = moe_beyond().splitlines()
    refused(text_file(tmp_path, "b.csv", "\n".join(lines[:-2])), "layer . has . tokens in batch 0, another layer")
    refused(text_file(tmp_path, "b.csv", lines[0] + "\n"), "no rows below the column names")


def test_cecar_is_cut_at_the_end_of_an_answer(tmp_path):
    trace = import_trace(torch_save(cecar(), tmp_path / "c.pt"))
    assert "1 tokens after the end of their answer left out" in trace.notes
    assert trace.model.name == "some/moe"
    assert trace.source.weights(0).tolist() == [[0.75, 0.25]] * 7
    assert trace.source.probs(0) is None


def test_cecar_logits_become_probabilities(tmp_path):
    path = torch_save(cecar(full=True), tmp_path / "c.pt")
    refused(path, "pass --top-k N")
    trace = import_trace(path, top_k=2)
    assert trace.model.experts == (8, 8)
    probs = trace.source.probs(1)
    assert (probs.shape, probs.argmax(axis=1).tolist()) == ((7, 8), [*FIRST[:, 1, 0], 4, 0])
    assert np.allclose(trace.source.weights(1)[0], [0.6, 0.2207], atol=1e-3)
    assert_round_trip(trace, tmp_path)


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"routing_decode": []}, "there is no routing_decode"),
        ({"routing_decode": [{"type": "sum"}] * 2}, "question 0: its type is 'sum'"),
        (
            {"routing_decode": [{"type": "topk", "idx": tensor(FIRST), "val": tensor(FIRST)}] * 2},
            "question 0: 'idx' is",
        ),
        ({"eos_pos_in_decode": [1]}, "eos_pos_in_decode is not a list of 2"),
        ({"prompt_len": [1, -1]}, "prompt_len holds -1"),
        ({"eos_pos_in_decode": [0, 0]}, "every answer ends at its first token"),
    ],
)
def test_malformed_cecar(tmp_path, changed, part):
    refused(torch_save(cecar(**changed), tmp_path / "c.pt"), part)
