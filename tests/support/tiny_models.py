"""Tiny models of every family with routers, with random weights, and which experts their routers must choose.

The choice is worked out from the logits alone, slowly and token by token, by the rule in each family's report.
"""

import numpy as np
import torch
import transformers

torch.set_num_threads(1)  # several test processes share the cores, and these models need one
BASE = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
SMALL = {"moe_intermediate_size": 16}
LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "num_key_value_heads": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
}  # fmt: skip
EIGHT, OF_EIGHT, ROUTED = {"num_local_experts": 8}, {"num_experts": 8}, {"n_routed_experts": 8}
TWO, THREE = {"num_experts_per_tok": 2}, {"num_experts_per_tok": 3}
FAMILIES = {
    "mixtral": EIGHT | TWO,
    "qwen2_moe": OF_EIGHT | THREE | SMALL | {"shared_expert_intermediate_size": 16, "mlp_only_layers": [0]},
    "qwen3_moe": OF_EIGHT | THREE | SMALL | {"head_dim": 8},
    "qwen3_next": OF_EIGHT | THREE | SMALL | {
        "shared_expert_intermediate_size": 16, "head_dim": 8, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_hidden_layers": 4,
    },
    "deepseek_v2": ROUTED | THREE | SMALL | LATENT | {"topk_method": "group_limited_greedy"},
    "deepseek_v3": ROUTED | THREE | SMALL | LATENT,
    "olmoe": OF_EIGHT | THREE,
    "gpt_oss": EIGHT | THREE | {
        "head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "phimoe": EIGHT | TWO,
    "glm4_moe": ROUTED | THREE | SMALL | {"first_k_dense_replace": 1, "head_dim": 8, "n_group": 1, "topk_group": 1},
    "granitemoe": EIGHT | THREE,
    "llama4_text": EIGHT | {
        "num_experts_per_tok": 1, "intermediate_size_mlp": 48, "head_dim": 8, "interleave_moe_layer_step": 1,
        "attention_chunk_size": 64,
    },
    "ernie4_5_moe": SMALL | {
        "moe_num_experts": 8, "moe_k": 3, "moe_layer_start_index": 1, "moe_num_shared_experts": 1,
    },
    "jamba": OF_EIGHT | TWO | {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "mamba_d_state": 4, "mamba_dt_rank": 4, "num_hidden_layers": 4,
    },
}  # fmt: skip
INSTALLED = [family for family in FAMILIES if family in transformers.CONFIG_MAPPING]
SIGMOID = ("deepseek_v3", "glm4_moe", "llama4_text")
GROUPS = {"deepseek_v2": (2, 1), "deepseek_v3": (2, 1)}  # how many there are, and how many a token may use


def tiny(family, **changed):
    """A model of that family whose routers differ in what they prefer, and whose corrections of scores are not zero."""
    torch.manual_seed(7)
    config = transformers.AutoConfig.for_model(family, **{**BASE, **FAMILIES[family], **changed})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "correction_bias" in name or name.endswith("router.bias"):
                tensor.normal_(std=0.2)
            elif name.endswith(("gate.weight", "router.weight")):
                tensor.normal_(std=0.5)
    return model


def correction(model, layer):
    """What is added to the scores of a layer before the choice, or None."""
    found = [
        one for name, one in model.state_dict().items() if f"layers.{layer}." in name and "correction_bias" in name
    ]
    return found[0].flatten().tolist() if found else None


def chosen(family, logits, top_k, bias):
    """The experts that a token with these router logits (a list of numbers) gets."""
    values = torch.tensor(logits, dtype=torch.float32)
    scores = (values.sigmoid() if family in SIGMOID else values.softmax(0)).tolist()
    scores = [score + more for score, more in zip(scores, bias or [0.0] * len(scores), strict=True)]
    allowed = range(len(scores))
    if family in GROUPS:
        count, used = GROUPS[family]
        width = len(scores) // count
        groups = [range(group * width, (group + 1) * width) for group in range(count)]
        best = 2 if bias is not None else 1  # with a correction a group counts with its two best
        groups.sort(key=lambda group: -sum(sorted((scores[one] for one in group), reverse=True)[:best]))
        allowed = [one for group in groups[:used] for one in group]
    return set(sorted(allowed, key=lambda one: -scores[one])[:top_k])


def save_tiny(folder, family="mixtral", **changed):
    """A model with a tokenizer of 94 words and three signs in a folder, as from_pretrained reads it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{index}": index for index in range(3, 97)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="w3"
    ).save_pretrained(folder)
    tiny(family, **changed).save_pretrained(folder)
    return folder


def as_table(trace):
    """Request, position, phase, step, token and the experts of all layers: a row for each token."""
    columns = [trace.request, trace.position, trace.phase, trace.step, trace.token_id]
    return np.column_stack([*columns, *(decisions.experts for _, decisions in trace.layers())])
