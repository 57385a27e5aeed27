"""Sizes of models: against published counts and the bytes that engines measured, and by hand."""

import csv
import dataclasses
from pathlib import Path

import pytest

import remoe_sim
from remoe_sim.util.cards import card_names
from tests.support.data import SHARED, needs_traces

ROWS = (Path(__file__).parent / "published_models.csv").read_text().splitlines()
PUBLISHED = {row["name"]: row for row in csv.DictReader(ROWS)}
GPT_OSS = ("gpt-oss-20b", "gpt-oss-120b")


@pytest.mark.parametrize("name", card_names("model"))
def test_parameters_add_up_to_the_published_count(name):
    model = remoe_sim.model(name)
    assert model.parameters == pytest.approx(model.published_parameters, rel=0.012)
    assert model.published_active_parameters / 1.25 < model.active_parameters < 1.25 * model.published_active_parameters
    assert model.parameters * 2 == model.total_bytes
    if name in PUBLISHED:
        assert model.published_parameters == pytest.approx(1e9 * float(PUBLISHED[name]["published_total_b"]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_bytes_of_an_expert(name):
    row = {
        column: int(value) for column, value in PUBLISHED[name].items() if column not in ("name", "published_total_b")
    }
    columns = {
        "bf16": "bf16", "fp8": "fp8_int8", "int8": "fp8_int8", "q8_0": "q8_0", "q4_0": "q4_0", "mxfp4": "mxfp4",
        "mxfp4_moe": "mxfp4",
    }  # fmt: skip
    for quant, column in columns.items():
        stays = name in GPT_OSS and quant in ("q8_0", "q4_0")  # MXFP4, whatever the rest of the file becomes
        expected = row["expert_bytes_mxfp4" if stays else f"expert_bytes_{column}"]
        assert set(remoe_sim.model(name, quant).expert_bytes) == {expected}, quant
    mixed = remoe_sim.model(name, "q4_k_m")
    low, high = row["expert_bytes_q4_k_m_low"], row["expert_bytes_q4_k_m_high"]
    assert len(mixed.expert_bytes) == row["n_moe_layers"]
    assert set(mixed.expert_bytes) == {low, high}
    if low < high:
        assert mixed.expert_bytes.count(high) == row["n_moe_layers_high"]
    assert mixed.expert_flops == 2 * row["params_per_expert"]


def test_every_published_row_has_a_card():
    assert set(PUBLISHED) <= set(card_names("model"))


@needs_traces
@pytest.mark.parametrize(("trace", "name"), [("qwen", "qwen3-30b-a3b"), ("gptoss", "gpt-oss-120b")])
def test_sizes_are_those_that_an_engine_recorded(trace, name):
    recorded = remoe_sim.import_trace(SHARED / "bigmoe" / f"{trace}.route.csv").model
    model = remoe_sim.model(name, "q4_k_m")
    assert recorded.expert_bytes == model.expert_bytes
    assert recorded.dense_bytes == model.resident_bytes
    assert (recorded.layers, recorded.experts[0]) == (model.layers, model.experts)


def test_the_layers_with_larger_types():
    model = remoe_sim.model("qwen3-30b-a3b", "q4_k_m")
    assert set(model.expert_bytes) == {2_654_208, 3_059_712}
    large = [layer for layer, nbytes in zip(model.moe_layers, model.expert_bytes, strict=True) if nbytes == 3_059_712]
    assert large == [*range(6), *range(8, 42, 3), *range(42, 48)]
    assert set(model.expert_tensor_bytes) == {(884_736, 884_736, 884_736), (884_736, 884_736, 1_290_240)}
    assert set(remoe_sim.model("gpt-oss-120b", "q4_k_m").expert_tensor_bytes) == {(4_406_400,) * 3}


def test_what_a_phone_read_without_a_cache():
    """BigMoeOnEdge, LFM2.5-8B-A1B Q5_K_M with no cache: 653.84 MiB of experts per token."""
    model = remoe_sim.model("lfm2.5-8b-a1b", "q5_k_m")
    assert round(model.top_k * sum(model.expert_bytes) / 2**20, 2) == 653.84


def test_grouped_queries_by_hand():
    model = remoe_sim.model("qwen3-30b-a3b")
    assert model.kv_bytes_per_token == (2 * 4 * 128 * 2,) * 48
    assert model.state_bytes == (0,) * 48
    attention = 2048 * 4096 + 2 * 2048 * 512 + 4096 * 2048 + 2 * 128
    assert model.dense_bytes == (2 * (attention + 128 * 2048 + 2 * 2048),) * 48
    assert model.dense_flops == (2 * (attention - 2 * 128 + 128 * 2048),) * 48
    assert (model.head_bytes, model.head_flops) == (2 * (151936 + 1) * 2048, 2 * 151936 * 2048)
    assert model.embedding_bytes == 2 * 151936 * 2048
    assert model.active_parameters == model.parameters - 151936 * 2048 - 48 * 120 * 4_718_592


def test_latent_attention_by_hand():
    model = remoe_sim.model("deepseek-v2-lite")
    assert model.kv_bytes_per_token == ((512 + 64) * 2,) * 27
    attention = 2048 * 16 * 192 + 2048 * 576 + 512 * 16 * (128 + 128) + 16 * 128 * 2048 + 512
    assert model.dense_bytes[0] == 2 * (attention + 3 * 2048 * 10944 + 2 * 2048)
    assert model.shared_expert_bytes == (2 * 3 * 2048 * 2816,) * 26
    assert model.dense_bytes[1] == 2 * (attention + 64 * 2048 + 2 * 2048) + model.shared_expert_bytes[0]
    assert (model.moe_layers, len(model.dense_bytes)) == (tuple(range(1, 27)), 27)


def test_windows_and_states():
    oss, coder = remoe_sim.model("gpt-oss-20b"), remoe_sim.model("qwen3-next-80b-a3b")
    assert oss.kv_window_tokens == (128, None) * 12
    assert coder.kv_bytes_per_token == (0, 0, 0, 2 * 2 * 256 * 2) * 12
    assert coder.state_bytes[:4] == (4 * (32 * 128 * 128 + 8192 * 3),) * 3 + (0,)
    summaries = remoe_sim.model("deepseek-v4-flash").kv_bytes_per_token
    assert summaries[:4] == (0, 0, (512 + 128) * 2 / 4, 512 * 2 / 128)


def test_only_the_biases_of_the_chosen_experts_are_read():
    model = remoe_sim.model("gpt-oss-120b", "q4_k_m")
    unread = {whole - read for whole, read in zip(model.resident_bytes, model.dense_bytes, strict=True)}
    assert unread == {(128 - 4) * 3 * 2880 * 4}


def test_an_embedding_that_is_the_head_counts_once():
    model = remoe_sim.model("lfm2.5-8b-a1b", "q4_k_m")
    table = 128000 * 2048 * 210 // 256  # Q6_K, as an output head gets it
    assert (model.tied_embeddings, model.embedding_bytes, model.head_bytes) == (True, table, table + 2048 * 4)
    assert model.total_bytes == sum(model.resident_bytes) + model.routed_bytes + model.head_bytes
    assert model.head_flops == 2 * 128000 * 2048
    assert model.active_parameters == model.parameters - 22 * (32 - 4) * 3 * 2048 * 1792


def test_another_top_k():
    usual, fewer = remoe_sim.model("qwen3-30b-a3b"), remoe_sim.model("qwen3-30b-a3b", top_k=6)
    assert (usual.top_k, fewer.top_k) == (8, 6)
    assert usual.active_parameters - fewer.active_parameters == 48 * 2 * 4_718_592
    for impossible in (0, 129):
        with pytest.raises(ValueError, match="give a whole number from 1 to 128"):
            remoe_sim.model("qwen3-30b-a3b", top_k=impossible)


def test_it_prints():
    model = remoe_sim.model("deepseek-moe-16b", "q4_k_m")
    assert "from memory" in model.unverified[0]
    values = model.to_dict()
    assert set(values) == {field.name for field in dataclasses.fields(model)}
    assert values["expert_tensor_bytes"][0] == list(model.expert_tensor_bytes[0])
    assert "from memory" in model._repr_html_()
