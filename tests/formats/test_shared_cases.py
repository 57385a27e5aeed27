"""Small inputs in the shapes of what people publish, kept outside the project: run where they are there.

The environment variable REMOE_SIM_CASES names their folder; without it, `shared/cases` next to the project.
"""

import os
from pathlib import Path

import pytest

from remoe_sim import TraceError, import_trace

FOLDER = Path(os.environ.get("REMOE_SIM_CASES") or Path(__file__).resolve().parents[3] / "shared" / "cases")
# options, tokens, prefill tokens, numbers of layers, first position
READ = {
    "below_k.csv": ({}, 4, 0, (0,), 0),
    "vllm_start.json": ({}, 5, 2, (0, 1, 2), 2),
    "vllm_generation_only.json": ({}, 5, 0, (0, 1, 2), 6),
    "two_runs.jsonl": ({}, 26, 10, (0,), 0),
    "layers_first.npz": ({"axes": "layers,tokens,k"}, 5, 0, (0, 1, 2), 0),
    "layers_first.npy": ({"axes": "layers,tokens,k"}, 5, 0, (0, 1, 2), 0),
    "sglang_uint8.jsonl": ({"top_k": 2}, 5, 3, (0, 1, 2), 0),
    "sglang_uint16.jsonl": ({"top_k": 2}, 5, 3, (0, 1, 2), 0),
    "phase_token_layer_rank_expert.csv": ({}, 4, 2, (0,), 0),
    "token_layer_experts.jsonl": ({}, 5, 0, (0, 1, 2), 0),
    "expert_ids_schema.jsonl": ({}, 2, 0, (0,), 0),
    "prompt_id_schema.jsonl": ({}, 2, 1, (0,), 0),
    "missing_request.csv": ({}, 2, 1, (0,), 0),
    "missing_phase.csv": ({}, 2, 0, (0,), 0),
    "nested_list.json": ({}, 5, 0, (0, 1, 2), 0),
    "warp.jsonl": ({}, 5, 0, (0, 1, 2), 0),
    "warp_native.txt": ({}, 5, 0, (0, 1, 2), 0),
    "moe_cache_lab.jsonl": ({}, 5, 3, (0, 1, 2), 0),
    "routes_layers.json": ({}, 5, 3, (0, 1, 2), 0),
    "prompts_prefill_decode.json": ({}, 5, 3, (0, 1, 2), 0),
    "routing_L0.json": ({}, 5, 0, (0,), 0),
    "router_logits.npz": ({"top_k": 2}, 5, 0, (0, 1, 2), 0),
    "hf_router_logits.pt": ({"top_k": 2}, 5, 0, (0, 1, 2), 0),
    "token_layer_rows.parquet": ({}, 6, 0, (1, 3), 0),
    "one_layer_of_many.csv": ({}, 3, 0, (12,), 0),
}
REFUSED = {
    "vllm_rows_missing.json": "6 rows, but 3 .* 9 generated .* are 11",
    "layers_first.npz": "--axes layers,tokens,k",
    "layers_first.npy": "--axes layers,tokens,k",
    "eplb_logical_count.json": "sums of uses, which have no order",
    "router_logits.npz": "pass --top-k N",
}
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the inputs are not here")


@pytest.mark.parametrize("name", READ)
def test_what_is_right(name):
    options, tokens, prefill, layers, first = READ[name]
    trace = import_trace(FOLDER / name, **options)
    assert (trace.tokens, int((trace.phase == 0).sum()), trace.layer_numbers) == (tokens, prefill, layers)
    assert int(trace.position.min()) == first
    assert trace.source.decisions(0).experts.shape[1] in (2, 4)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    with pytest.raises(TraceError, match=REFUSED[name]):
        import_trace(FOLDER / name)


def test_every_input_is_here():
    names = {path.name for path in FOLDER.iterdir() if path.name != "README.md"}
    assert names <= READ.keys() | REFUSED.keys()
