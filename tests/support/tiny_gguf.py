"""Tiny random MoE models as GGUF files, one for each way in which llama.cpp routes.

The vocabulary has printable letters, so a text of n of them is n tokens and one that begins it.
"""

import os

import gguf
import numpy as np

# Threads of llama.cpp that wait for one another in a loop take minutes where other processes want the processors too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

HIDDEN, HEADS, KEYS, HEAD, EXPERTS, TOP_K, INNER, LAYERS = 32, 4, 2, 8, 6, 2, 16, 3
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"  # what the vocabulary calls a space
WORDS = ["<unk>", "<s>", "</s>", BLANK, *map(chr, range(0x21, 0x7F))]
KINDS = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
FAMILIES = {
    "olmoe": {},  # a softmax of logits
    "qwen3moe": {},  # its weights divided by their sum
    "dots1": {"dense": 1, "shared": 1, "bias": True},  # sigmoids, corrected for the choice; scaled weights
    "gpt-oss": {"biases": True},  # a softmax of the chosen logits
}


def tensors(family, layers, experts, hidden, inner):
    """Names and shapes as numpy has them, with the standard deviation of the values; none for ones."""
    about = FAMILIES[family]
    wide = HEADS * HEAD if family != "olmoe" else hidden
    narrow = {"olmoe": hidden, "dots1": wide}.get(family, KEYS * HEAD)
    normed = {"olmoe": (hidden, hidden), "qwen3moe": (HEAD, HEAD), "dots1": (HEAD, HEAD)}.get(family)
    yield "token_embd.weight", (len(WORDS), hidden), 1.0
    yield "output_norm.weight", (hidden,), None
    yield "output.weight", (len(WORDS), hidden), 0.3
    for layer in range(layers):
        at = f"blk.{layer}."
        yield at + "attn_norm.weight", (hidden,), None
        yield at + ("post_attention_norm.weight" if family == "gpt-oss" else "ffn_norm.weight"), (hidden,), None
        sides = {"q": (wide, hidden), "k": (narrow, hidden), "v": (narrow, hidden), "output": (hidden, wide)}
        for name, (rows, columns) in sides.items():
            yield f"{at}attn_{name}.weight", (rows, columns), columns**-0.5
            if about.get("biases"):
                yield f"{at}attn_{name}.bias", (rows,), 0.1
        if normed:
            yield at + "attn_q_norm.weight", (normed[0],), None
            yield at + "attn_k_norm.weight", (normed[1],), None
        if about.get("biases"):
            yield at + "attn_sinks.weight", (HEADS,), 0.1
        networks = [("", (), about.get("dense", 0) > layer)]
        if layer >= about.get("dense", 0):
            networks = [("_exps", (experts,), True), ("_shexp", (), "shared" in about)]
            yield at + "ffn_gate_inp.weight", (experts, hidden), 2 * hidden**-0.5
            if about.get("biases"):
                yield at + "ffn_gate_inp.bias", (experts,), 0.1
            if about.get("bias"):
                yield at + "exp_probs_b.bias", (experts,), 0.3
        for ending, count, there in networks:
            for name, rows, columns in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
                if there:
                    yield f"{at}ffn_{name}{ending}.weight", (*count, rows, columns), columns**-0.5
                if there and about.get("biases"):
                    yield f"{at}ffn_{name}{ending}.bias", (*count, rows), 0.1


def save_tiny_gguf(
    path, family="olmoe", *, layers=LAYERS, experts=EXPERTS, top_k=TOP_K, hidden=HIDDEN, inner=INNER, kind="F32",
    template=None, end=2, keep=lambda name: True, seed=0,
):  # fmt: skip
    """Write a model and return its path; kind: the type of the matrices; template: for chats; end: the token that ends
    a text; keep: which of its tensors are written."""
    rng, writer = np.random.default_rng(seed), gguf.GGUFWriter(path, family)
    writer.add_name(f"Tiny {family}")
    writer.add_file_type(gguf.LlamaFileType[{"F32": "ALL_F32"}.get(kind, f"MOSTLY_{kind}")])
    writer.add_context_length(2048)
    writer.add_block_count(layers)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_expert_feed_forward_length(inner)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS if family in ("olmoe", "dots1") else KEYS)
    for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
        add(hidden // HEADS if family == "olmoe" else HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(top_k)
    if family == "dots1":
        writer.add_leading_dense_block_count(1)
        writer.add_expert_shared_count(1)
        writer.add_expert_weights_scale(2.5)
        writer.add_expert_weights_norm(True)
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if family == "gpt-oss":
        writer.add_sliding_window(128)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(WORDS)
    writer.add_token_scores([0.0] * len(WORDS))
    writer.add_token_types([*KINDS, *[gguf.TokenType.NORMAL] * (len(WORDS) - len(KINDS))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(end)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    if template is not None:
        writer.add_chat_template(template)
    for name, shape, deviation in tensors(family, layers, experts, hidden, inner):
        values = np.ones(shape) if deviation is None else rng.normal(0, deviation, shape)
        values = values.astype(np.float32)
        if not keep(name):
            continue
        if kind != "F32" and len(shape) > 1 and "gate_inp" not in name and not name.endswith("bias"):
            stored = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, gguf.quants.quantize(values, stored), raw_dtype=stored)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
