"""Files config.json of published models."""

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
