"""What servers return is checked against what they say of it: rows, offsets, types of ids, runs in one log."""

import json

import numpy as np
import pytest

from remoe_sim import import_trace
from tests.support.foreign_files import FIRST, b64, json_file, lines_file
from tests.support.imported import assert_round_trip, refused, rows_of


def output(ids, prompt, generated, **more):
    completion = {"token_ids": list(range(90, 90 + generated)), "routed_experts": ids}
    return {"prompt_token_ids": list(range(prompt)), "outputs": [completion]} | more


def test_rows_that_begin_within_the_prompt(tmp_path):
    array = {"data": b64(FIRST, "u1"), "shape": [5, 2, 2], "dtype": "uint8", "start": 2}
    trace = import_trace(json_file(tmp_path, "v.json", output(array, 4, 4)))
    assert trace.position.tolist() == [2, 3, 4, 5, 6]
    assert trace.phase.tolist() == [0, 0, 1, 1, 1]
    assert trace.token_id.tolist() == [2, 3, 90, 91, 92]
    assert_round_trip(trace, tmp_path)
    refused(json_file(tmp_path, "w.json", output(array, 4, 5)), "5 rows, but 4 .* 5 generated .* first 2, are 6")
    trimmed = output(FIRST.tolist(), 4, 4, routed_experts_prompt_start=2)
    assert import_trace(json_file(tmp_path, "x.json", trimmed)).position.tolist() == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("generated", [5, 6])
def test_rows_of_what_was_generated_alone(tmp_path, generated):
    """With or without the last token, which is not fed back."""
    trace = import_trace(
        json_file(tmp_path, "v.json", output(FIRST.tolist(), 7, generated, prompt_routed_experts=None))
    )
    assert (trace.position.tolist(), trace.phase.tolist()) == ([7, 8, 9, 10, 11], [1] * 5)
    assert "nothing of the prompt" in trace.notes


@pytest.mark.parametrize(("prompt", "generated"), [(3, 9), (2, 3), (9, 1)])
def test_rows_that_are_not_there(tmp_path, prompt, generated):
    path = json_file(tmp_path, "v.json", output(FIRST.tolist(), prompt, generated))
    refused(
        path, "5 rows", f"{prompt} tokens of the prompt and {generated} generated", f"are {prompt + generated - 1};"
    )


def test_a_prompt_with_rows_of_its_own(tmp_path):
    both = output(FIRST[2:].tolist(), 2, 4, prompt_routed_experts=FIRST[:2].tolist())
    assert import_trace(json_file(tmp_path, "v.json", both)).phase.tolist() == [0, 0, 1, 1, 1]
    short = output(FIRST[2:].tolist(), 3, 4, prompt_routed_experts=FIRST[:2].tolist())
    refused(json_file(tmp_path, "w.json", short), "2 rows, but the prompt has 3 tokens")
    longer = output(FIRST[2:].tolist(), 2, 9, prompt_routed_experts=FIRST[:2].tolist())
    refused(json_file(tmp_path, "x.json", longer), "3 rows, but 9 generated tokens without the last are 8")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
@pytest.mark.parametrize("named", [True, False])
def test_types_of_ids_that_sglang_sends(tmp_path, dtype, named):
    meta = {"prompt_tokens": 2, "completion_tokens": 4}
    meta |= {"routed_experts_dtype": dtype} if named else {}
    ids = FIRST * 30 if named else FIRST * 9
    meta["routed_experts"] = b64(ids, np.dtype(dtype).str)
    trace = import_trace(json_file(tmp_path, "s.json", {"text": "", "meta_info": meta}), top_k=2)
    assert [row.decisions for row in rows_of(trace)] == ids.tolist()
    wrong = {"text": "", "meta_info": meta | {"routed_experts_dtype": "float8"}}
    refused(json_file(tmp_path, "t.json", wrong), '"float8" is not one of int32', top_k=2)


def routes(sizes, seed, dummies=()):
    """Lines of passes of these sizes; those in `dummies` are all on the same experts."""
    rng = np.random.default_rng(seed)
    for index, size in enumerate(sizes):
        for token in range(size):
            ids = [3, 5] if index in dummies else rng.permutation(16)[:2].tolist()
            yield {"type": "route", "req_id": "r", "token_idx": token, "layer": 0, "topk_ids": ids}


def test_runs_in_one_log(tmp_path):
    """Each warms up, with fewer and fewer dummy tokens, and has requests of its own."""
    meta = {"type": "meta", "model_id": "m", "layers_logged": [0], "top_k": 2}
    run = [meta, *routes([16, 8, 2, 1, 5, 2, 2], 1, dummies=(0, 1, 2, 3))]
    lines = [*run, meta, *routes([16, 5, 2, 2], 2, dummies=(0,))]
    trace = import_trace(lines_file(tmp_path, "r.jsonl", lines))
    assert (trace.tokens, int((trace.phase == 0).sum())) == (18, 10)
    assert "43 dummy tokens" in trace.notes
    assert "2 runs are appended" in trace.notes
    assert trace.requests == 6
    assert_round_trip(trace, tmp_path)


def test_warm_up_in_the_middle(tmp_path):
    lines = list(routes([6, 2, 2, 12, 4, 5, 2, 2], 3, dummies=(3, 4)))
    trace = import_trace(lines_file(tmp_path, "r.jsonl", lines))
    assert (trace.tokens, "16 dummy tokens" in trace.notes) == (19, True)
    two = [json.loads(json.dumps(one)) for one in routes([6, 2, 2], 3)]
    for one in two[6:8]:
        one["topk_ids"] = [1, 2]  # two real tokens may be on the same experts
    assert import_trace(lines_file(tmp_path, "s.jsonl", two)).tokens == 10


def test_rows_without_those_of_the_prefix_cache(tmp_path):
    usage = {"prompt_tokens": 4, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}
    answer = {"choices": [{"index": 0, "routed_experts": FIRST.tolist()}], "usage": usage}
    trace = import_trace(json_file(tmp_path, "v.json", answer))
    assert (trace.position.tolist(), trace.phase.tolist()) == ([2, 3, 4, 5, 6], [0, 0, 1, 1, 1])
    assert "taken from the prefix cache" in trace.notes
    usage["prompt_tokens_details"] = {"cached_tokens": 1}
    refused(json_file(tmp_path, "w.json", answer), "5 rows, but 4 tokens of the prompt and 4 generated")
