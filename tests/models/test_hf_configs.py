"""A `config.json` gives the same weights as the card of the same model."""

import json

import pytest

import remoe_sim
from remoe_sim.models.huggingface import shape_of_values
from remoe_sim.models.shape import shape_of_card
from remoe_sim.util.cards import read_card

QWEN3 = {
    "model_type": "qwen3_moe", "num_hidden_layers": 48, "hidden_size": 2048, "vocab_size": 151936, "head_dim": 128,
    "num_attention_heads": 32, "num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8,
    "moe_intermediate_size": 768, "intermediate_size": 6144, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "attention_bias": False, "tie_word_embeddings": False, "sliding_window": None,
}  # fmt: skip
QWEN35 = {
    "model_type": "qwen3_5_moe_text", "num_hidden_layers": 40, "hidden_size": 2048, "vocab_size": 248320,
    "head_dim": 256, "num_attention_heads": 16, "num_key_value_heads": 2, "num_experts": 256, "num_experts_per_tok": 8,
    "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "mtp_num_hidden_layers": 1,
}  # fmt: skip
CONFIGS = {
    "qwen3-30b-a3b": QWEN3,
    "qwen3.5-35b-a3b": {
        "model_type": "qwen3_5_moe", "text_config": QWEN35, "tie_word_embeddings": False,
        "vision_config": {"depth": 27},
    },
    "deepseek-v3": {
        "model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168, "vocab_size": 129280,
        "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256,
        "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "intermediate_size": 18432,
        "first_k_dense_replace": 3, "moe_layer_freq": 1, "num_nextn_predict_layers": 1, "tie_word_embeddings": False,
    },
    "deepseek-v2-lite": {
        "model_type": "deepseek_v2", "num_hidden_layers": 27, "hidden_size": 2048, "vocab_size": 102400,
        "num_attention_heads": 16, "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2,
        "num_experts_per_tok": 6, "moe_intermediate_size": 1408, "intermediate_size": 10944,
        "first_k_dense_replace": 1, "tie_word_embeddings": False,
    },
    "deepseek-v4-flash": {
        "model_type": "deepseek_v4", "num_hidden_layers": 43, "hidden_size": 4096, "vocab_size": 129280,
        "compress_ratios": [0, 0, *[4, 128] * 20, 4], "num_attention_heads": 64, "head_dim": 512, "q_lora_rank": 1024,
        "o_groups": 8, "o_lora_rank": 1024, "sliding_window": 128, "index_n_heads": 64, "index_head_dim": 128,
        "kv_lora_rank": None, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 6,
        "moe_intermediate_size": 2048, "first_k_dense_replace": None, "hc_mult": 4, "tie_word_embeddings": False,
    },
    "gpt-oss-20b": {
        "model_type": "gpt_oss", "num_hidden_layers": 24, "hidden_size": 2880, "vocab_size": 201088, "head_dim": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8, "num_local_experts": 32, "num_experts_per_tok": 4,
        "intermediate_size": 2880, "attention_bias": True, "sliding_window": 128, "tie_word_embeddings": False,
        "layer_types": ["sliding_attention", "full_attention"] * 12,
    },
    "mixtral-8x7b": {
        "model_type": "mixtral", "num_hidden_layers": 32, "hidden_size": 4096, "vocab_size": 32000,
        "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2,
        "intermediate_size": 14336, "sliding_window": None, "tie_word_embeddings": False,
    },
    "llama-4-maverick": {
        "model_type": "llama4", "text_config": {
            "model_type": "llama4_text", "num_hidden_layers": 48, "hidden_size": 5120, "vocab_size": 202048,
            "head_dim": 128, "num_attention_heads": 40, "num_key_value_heads": 8, "num_local_experts": 128,
            "num_experts_per_tok": 1, "intermediate_size": 8192, "intermediate_size_mlp": 16384, "use_qk_norm": False,
            "interleave_moe_layer_step": 2, "attention_chunk_size": 8192, "tie_word_embeddings": False,
        },
    },
    "qwen1.5-moe-a2.7b": {
        "model_type": "qwen2_moe", "num_hidden_layers": 24, "hidden_size": 2048, "vocab_size": 151936,
        "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "intermediate_size": 5632,
        "decoder_sparse_step": 1, "sliding_window": 32768, "use_sliding_window": False, "tie_word_embeddings": False,
    },
    "lfm2.5-8b-a1b": {
        "model_type": "lfm2_moe", "num_hidden_layers": 24, "hidden_size": 2048, "vocab_size": 128000,
        "num_attention_heads": 32, "num_key_value_heads": 8, "num_experts": 32, "num_experts_per_tok": 4,
        "intermediate_size": 7168, "moe_intermediate_size": 1792, "num_dense_layers": 2, "conv_L_cache": 3,
        "layer_types": ["full_attention" if i in (2, 6, 10, 14, 18, 21) else "conv" for i in range(24)],
        "tie_word_embeddings": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_and_its_card_agree(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    found, card = remoe_sim.model(folder / "config.json", "q4_k_m"), remoe_sim.model(name, "q4_k_m")
    for field in (
        "name", "moe_layers", "expert_tensor_bytes", "dense_bytes", "resident_bytes", "shared_expert_bytes",
        "head_bytes", "embedding_bytes", "kv_bytes_per_token", "kv_window_tokens", "state_bytes", "parameters",
        "active_parameters",
        "top_k", "experts", "total_bytes", "dense_flops",
    ):  # fmt: skip
        assert getattr(found, field) == getattr(card, field), field
    assert (found.status, found.published_parameters) == ("derived", None)
    inner = CONFIGS[name].get("text_config", {})
    assert (
        shape_of_values({**CONFIGS[name], **inner}, "x", "").tensors()
        == shape_of_card(read_card("model", name)[1], "").tensors()
    )


def test_a_family_that_is_not_known_is_said():
    shape = shape_of_values({**QWEN3, "model_type": "brand_new"}, "config 'x'", "")
    assert "family 'brand_new' is not known" in shape.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": None}, "num_local_experts or n_routed_experts or num_experts .* is missing"),
        ({"hidden_size": "2048"}, "hidden_size is '2048'"),
        ({"num_experts_per_tok": 129}, "top_k is 129 but there are 128 experts"),
        ({"num_hidden_layers": 10**6}, "1000000 layers are too many"),
        ({"mlp_only_layers": list(range(48))}, "no layer has experts"),
        ({"layer_types": ["mamba"] * 48}, "layers of kind 'mamba' are not known"),
    ],
)
def test_what_a_configuration_cannot_say(change, message):
    with pytest.raises(ValueError, match=message):
        shape_of_values({**QWEN3, **change}, "config 'x'", "")


@pytest.mark.parametrize(("text", "message"), [("{", "is no JSON"), ("[]", "no JSON object"), (None, "cannot be read")])
def test_a_file_that_is_no_configuration(text, message, tmp_path):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        remoe_sim.model(path)
