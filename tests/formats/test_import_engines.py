"""vLLM's and SGLang's arrays: the traps of each layout and every malformed variant."""

import base64

import numpy as np
import pytest

from remoe_sim import import_trace
from tests.support.foreign_files import (
    FIRST,
    b64,
    b64_npy,
    json_file,
    lines_file,
    rows,
    sglang_generate,
    sglang_openai,
    vllm_outputs,
    vllm_response,
    vllm_wrapped,
)
from tests.support.imported import refused, rows_of


def as_object(array):
    return {"data": b64(array, "<i2"), "dtype": "int16", "shape": list(array.shape)}


@pytest.mark.parametrize("encode", [b64_npy, as_object, np.ndarray.tolist])
def test_vllm_responses_in_every_encoding(tmp_path, encode):
    trace = import_trace(json_file(tmp_path, "v.json", vllm_response(encode)))
    assert rows_of(trace) == rows(FIRST, FIRST[:4], prompts=[2, 2])


def test_vllm_token_ids_are_those_that_were_fed_in(tmp_path):
    trace = import_trace(json_file(tmp_path, "v.json", vllm_outputs()))
    assert trace.token_id.tolist() == [0, 1, 90, 91, 92, 0, 90, 91]


def test_a_vllm_response_without_prompt_routing(tmp_path):
    response = vllm_response()
    response["prompt_routed_experts"] = None
    response["choices"][0]["routed_experts"] = b64_npy(FIRST)
    response["choices"][1]["routed_experts"] = b64_npy(FIRST[:4])
    trace = import_trace(json_file(tmp_path, "v.json", response))
    assert rows_of(trace) == rows(FIRST, FIRST[:4], prompts=[2, 2])


def test_one_vllm_array_says_nothing_of_a_prompt(tmp_path):
    np.save(tmp_path / "r.npy", FIRST)
    assert "length of a prompt is not recorded" in import_trace(tmp_path / "r.npy").notes
    np.savez(tmp_path / "r.npz", routed_experts=FIRST, num_prompt_tokens=3)
    assert rows_of(import_trace(tmp_path / "r.npz")) == rows(FIRST, prompts=[3])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64"])
def test_dense_layers_that_an_engine_left_at_zero(tmp_path, dtype):
    """The buffers of engines have a row for every layer, also for those without a router."""
    dense = np.zeros((5, 1, 2), int)
    np.save(tmp_path / "r.npy", np.concatenate([dense, FIRST], axis=1).astype(dtype))
    trace = import_trace(tmp_path / "r.npy")
    assert trace.layer_numbers == (1, 2)
    assert rows_of(trace) == rows(FIRST)
    assert "taken as dense: 0" in trace.notes


MALFORMED_WRAPPED = {
    "cut": ({"experts_b64": b64(FIRST)[:-5]}, ["'experts_b64'", "not valid base64|not numbers"]),
    "odd": ({"experts_b64": base64.b64encode(b"12345").decode()}, ["5 bytes are not numbers of 4 bytes"]),
    "shape": ({"experts_shape": [4, 2, 2]}, ["20 numbers do not fit", r"\[4, 2, 2\]"]),
    "no shape": ({"experts_shape": None}, ["do not fit the shape null"]),
    "number": ({"experts_b64": 7}, ["7 is not base64"]),
    "prompt": ({"num_prompt_tokens": -1}, ["'num_prompt_tokens'", "-1 is not a whole number"]),
    "large": ({"experts_b64": b64(FIRST + 70000)}, ["token 0, layer 0: expert 70005 is not possible"]),
    "twice": ({"experts_b64": b64(FIRST * 0 + 3)}, ["layer 0: expert 3 appears twice"]),
}


@pytest.mark.parametrize("case", MALFORMED_WRAPPED)
def test_malformed_vllm_lines(tmp_path, case):
    wrong, parts = MALFORMED_WRAPPED[case]
    first, second = vllm_wrapped()
    refused(lines_file(tmp_path, "v.jsonl", [second, first | wrong]), "line 2", *parts)


def test_vllm_requests_of_different_models(tmp_path):
    first, second = vllm_wrapped()
    second |= {"experts_shape": [3, 4, 1]}
    refused(lines_file(tmp_path, "v.jsonl", [first, second]), "line 2, column 'num_layers': 2, but experts_shape has 4")


def test_malformed_vllm_outputs(tmp_path):
    def output(**wrong):
        value = vllm_outputs()
        value[1]["outputs"][0] |= wrong
        return json_file(tmp_path, "v.json", value)

    refused(output(routed_experts=None), "entry 1: in 'outputs'", "start vLLM with --enable-return-routed-experts")
    refused(output(routed_experts=[[[1, 2]], [[3]]]), "entry 1", "levels of lists of equal lengths")
    refused(output(routed_experts=[[[1.5, 2]]]), "entry 1", "whole numbers")
    refused(output(routed_experts="AAAA"), "entry 1", "without the header of a NumPy array")
    refused(output(routed_experts=b64_npy(FIRST)[:80]), "entry 1", "NumPy array .*truncated|base64")
    refused(output(token_ids=[1]), "3 rows, but 1 tokens of the prompt and 1 generated ones, without the last, are 1")
    refused(output(token_ids=["a"]), "not a list of whole numbers")
    refused(json_file(tmp_path, "v.json", [{"outputs": [], "routed_experts": None}]), "not a list of completions")
    split = vllm_response()
    split["prompt_routed_experts"] = b64_npy(FIRST[:2, :1])
    refused(json_file(tmp_path, "v.json", split), "but prompt_routed_experts has")
    unknown = vllm_response(lambda array: as_object(array) | {"dtype": "float8"})
    refused(json_file(tmp_path, "v.json", unknown), "float8")


def test_malformed_vllm_arrays(tmp_path):
    np.save(tmp_path / "r.npy", FIRST[0])
    refused(tmp_path / "r.npy", r"int64 of shape \(2, 2\), expected whole numbers \[tokens, layers, k\]")
    np.save(tmp_path / "r.npy", FIRST.astype(object), allow_pickle=True)
    refused(tmp_path / "r.npy", "cannot be read as a NumPy array")
    np.save(tmp_path / "r.npy", FIRST)
    (tmp_path / "r.npy").write_bytes((tmp_path / "r.npy").read_bytes()[:-8])
    refused(tmp_path / "r.npy", "truncated")
    np.savez(tmp_path / "r.npz", routed_experts=FIRST, prompt_routed_experts=FIRST[:, :1])
    refused(tmp_path / "r.npz", "'routed_experts'", "prompt_routed_experts has")
    np.savez(tmp_path / "r.npz", routed_experts=FIRST[0])
    refused(tmp_path / "r.npz", r"shape \(2, 2\)")


@pytest.mark.parametrize("start", [1, 2, 3])
def test_sglang_arrays_that_start_later(tmp_path, start):
    """routed_experts_start_len leaves out the first tokens; positions go on from there."""
    path = json_file(tmp_path, "s.json", sglang_generate(start)[0])
    assert rows_of(import_trace(path, top_k=2)) == rows(FIRST[start:], prompts=[2], firsts=[start])


def test_sglang_without_top_k_says_what_looks_right(tmp_path):
    rng = np.random.default_rng(3)
    long = np.argsort(rng.random((40, 6, 16)), axis=2)[:, :, :4]
    response = sglang_generate()[0]
    response["meta_info"] |= {"prompt_tokens": 11, "completion_tokens": 30, "routed_experts": b64(long)}
    path = json_file(tmp_path, "s.json", response)
    refused(path, r"pass --top-k N \(4 looks right")
    assert import_trace(path, top_k=4).moe_layers == 6
    refused(json_file(tmp_path, "s.json", sglang_generate()), "pass --top-k N$")
    refused(tmp_path / "s.json", "4 ids per token are not a multiple of 7", top_k=7)


def test_malformed_sglang_responses(tmp_path):
    def response(**wrong):
        value = sglang_generate()
        value[1]["meta_info"] |= wrong
        return json_file(tmp_path, "s.json", value)

    refused(response(routed_experts=None), "entry 1", "--enable-return-routed-experts", top_k=2)
    refused(response(prompt_tokens=9), "12 ids are not a whole number for each of 11 tokens", top_k=2)
    refused(response(completion_tokens=0, prompt_tokens=1), "each of 0 tokens", top_k=2)
    refused(response(completion_tokens="3"), '"3" is not a whole number', top_k=2)
    many = sglang_openai()
    many["choices"] *= 2
    refused(json_file(tmp_path, "s.json", many), "2 completions", top_k=2)
    many["choices"] = [7]
    refused(json_file(tmp_path, "s.json", many | {"sgl_ext": {}}), "7 is not an object", top_k=2)


def test_sgl_ext_may_be_at_the_response(tmp_path):
    response = sglang_openai()
    response["sgl_ext"] = response["choices"][0].pop("sgl_ext")
    assert rows_of(import_trace(json_file(tmp_path, "s.json", response), top_k=2)) == rows(FIRST, prompts=[2])


def test_a_top_k_that_is_not_the_recorded_one(tmp_path):
    path = json_file(tmp_path, "v.json", vllm_outputs())
    refused(path, "decisions have 2 experts each, not 4; leave --top-k out", top_k=4)
    with pytest.raises(ValueError, match="top_k 0 is not possible"):
        import_trace(path, top_k=0)
