"""Types of tensors by the name of a quantisation: block sizes, mixtures and fallbacks."""

import math

import pytest

import remoe_sim
from remoe_sim.models.quantisation import MIXTURES, mixture_types
from remoe_sim.models.tensors import DENSE, EMBEDDING, HEAD, ROUTED, TYPES, Tensor

BITS = {
    "q4_0": 4.5, "q4_k": 4.5, "nvfp4": 4.5, "iq4_nl": 4.5, "q5_0": 5.5, "q5_k": 5.5, "q6_k": 6.5625, "q8_0": 8.5,
    "mxfp4": 4.25, "iq4_xs": 4.25, "q3_k": 3.4375, "q2_k": 2.625, "q4_1": 5.0, "q5_1": 6.0, "iq3_xxs": 3.0625,
    "iq2_xxs": 2.0625, "fp8": 8, "bf16": 16, "f32": 32,
}  # fmt: skip


@pytest.mark.parametrize("name", BITS)
def test_bits_per_weight(name):
    assert TYPES[name].bits == BITS[name]


def test_block_sizes_are_those_of_ggml():
    sizes = pytest.importorskip("gguf").constants.GGML_QUANT_SIZES
    known = {kind.name.lower(): size for kind, size in sizes.items()}
    for name, kind in TYPES.items():
        if name not in ("fp8", "int8", "nvfp4"):
            assert (kind.block, kind.block_bytes) == known[name]
    assert TYPES["nvfp4"].bits == 8 * known["nvfp4"][1] / known["nvfp4"][0]


def chosen(scheme, tensor, layers=32, experts=64, queries=8):
    return mixture_types(scheme, [tensor, Tensor("output", 8, 256, part=HEAD)], layers, experts, queries, None)[0].name


@pytest.mark.parametrize(
    ("wanted", "columns", "found"),
    [
        ("q4_k_s", 1408, "q5_0"), ("q5_k_s", 1408, "q5_1"), ("q6_k", 1408, "q8_0"), ("q2_k", 1408, "q4_0"),
        ("iq4_xs", 1408, "iq4_nl"), ("q4_k_s", 2048, "q4_k"), ("q4_0", 1408, "q4_0"), ("q4_0", 48, "f16"),
        ("q6_k", 48, "f16"), ("iq3_s", 2880, "iq4_nl"),
    ],
)  # fmt: skip
def test_columns_that_do_not_fill_blocks(wanted, columns, found):
    assert chosen(wanted, Tensor("ffn_up", 8, columns, 20, ROUTED, 64)) == found


@pytest.mark.parametrize(
    ("scheme", "role", "layer", "experts", "queries", "found"),
    [
        ("q4_k_m", "ffn_down", 0, 64, 1, "q6_k"), ("q4_k_m", "ffn_down", 4, 64, 1, "q4_k"),
        ("q4_k_m", "ffn_down", 6, 64, 1, "q6_k"), ("q5_k_m", "ffn_down", 28, 64, 1, "q6_k"),
        ("q4_k_s", "ffn_down", 3, 64, 1, "q5_k"), ("q4_k_s", "ffn_down", 4, 64, 1, "q4_k"),
        ("q3_k_m", "ffn_down", 1, 64, 1, "q5_k"), ("q3_k_m", "ffn_down", 2, 64, 1, "q4_k"),
        ("q3_k_l", "ffn_down", 9, 64, 1, "q5_k"), ("q2_k", "ffn_down", 9, 64, 1, "q3_k"),
        ("q2_k", "attn_v", 9, 64, 8, "q4_k"), ("q2_k", "attn_v", 9, 64, 2, "q3_k"),
        ("q4_k_m", "attn_v", 9, 8, 4, "q8_0"), ("q4_k_m", "attn_k", 9, 8, 4, "q8_0"),
        ("q4_k_m", "attn_output", 9, 8, 4, "q5_k"), ("q5_k_m", "attn_output", 9, 8, 4, "q5_k"),
        ("q6_k", "attn_output", 9, 8, 4, "q6_k"), ("q4_k_m", "attn_q", 9, 64, 4, "q4_k"),
        ("iq3_xxs", "attn_q", 9, 64, 4, "iq2_s"), ("iq2_xxs", "attn_k", 9, 8, 4, "q4_k"),
        ("iq4_xs", "attn_v", 9, 64, 4, "q5_k"), ("mxfp4_moe", "attn_v", 9, 64, 4, "q8_0"),
        ("q4_k_m", "router", 0, 64, 4, "f32"), ("q4_k_m", "vector", 0, 64, 4, "f32"),
    ],
)  # fmt: skip
def test_rules_of_the_mixtures(scheme, role, layer, experts, queries, found):
    assert chosen(scheme, Tensor(role, 8, 256, layer, DENSE), 32, experts, queries) == found


def test_attention_values_are_counted_among_themselves():
    values = [Tensor("attn_v", 8, 256, layer) for layer in range(3, 32, 4)]
    found = mixture_types("q4_k_m", [*values, Tensor("output", 8, 256, part=HEAD)], 32, 64, 8, None)
    assert [kind.name for kind in found] == ["q6_k", "q4_k", "q4_k", "q6_k", "q4_k", "q4_k", "q6_k", "q6_k", "q6_k"]


@pytest.mark.parametrize(
    ("scheme", "columns", "head", "embedding", "tied"),
    [
        ("q4_k_m", 2048, "q6_k", "q4_k", "q6_k"), ("q8_0", 2048, "q8_0", "q8_0", "q8_0"),
        ("q4_k_m", 2880, "q8_0", "q5_0", "q8_0"), ("iq3_xxs", 2048, "q5_k", "iq3_s", "q5_k"),
        ("q4_0", 2048, "q6_k", "q4_0", "q6_k"), ("mxfp4_moe", 2880, "q8_0", "q8_0", "q8_0"),
    ],
)  # fmt: skip
def test_head_and_embedding(scheme, columns, head, embedding, tied):
    tensors = [Tensor("token_embd", 9, columns, part=EMBEDDING), Tensor("output", 9, columns, part=HEAD)]
    assert [kind.name for kind in mixture_types(scheme, tensors, 4, 64, 1, None)] == [embedding, head]
    assert mixture_types(scheme, tensors[:1], 4, 64, 1, None)[0].name == tied


@pytest.mark.parametrize(
    ("quant", "routed", "dense"),
    [
        ("bf16", 16, 16), ("FP16", 16, 16), ("fp32", 32, 32), ("fp8", 8, 8), ("int8", 8, 8), ("nvfp4", 4.5, 4.5),
        ("mxfp4", 4.25, 16), ("int4", 4.125, 4.125), ("int4-g128", 4.125, 4.125), ("int4-g64", 4.25, 4.25),
        ("bpw:2.6", 2.6, 16), ("bpw:2.6/4", 2.6, 4), ("q4_k", 4.5, None), ("mxfp4_moe", 4.25, 8.5),
    ],
)  # fmt: skip
def test_quantisations_by_name(quant, routed, dense):
    model = remoe_sim.model("mixtral-8x7b", quant)
    per_expert = 3 * 4096 * 14336
    assert model.expert_tensor_bytes[4][0] == math.ceil(4096 * 14336 * routed / 8)
    if dense is None:
        return
    assert model.expert_bytes[4] == 3 * math.ceil(4096 * 14336 * routed / 8)
    assert model.expert_flops == 2 * per_expert
    exact = 4 if quant in ("fp32", "mxfp4_moe") else 2  # of routers and norms
    attention = [math.ceil(size * dense / 8) for size in (4096 * 4096, 4096 * 1024, 4096 * 1024, 4096 * 4096)]
    assert model.dense_bytes[0] == sum(attention) + exact * (8 * 4096 + 2 * 4096)
    assert bool(model.assumptions) == (quant.lower() not in ("bf16", "fp16", "fp32"))


@pytest.mark.parametrize(
    "quant", ["q4_k_n", "int4-g1", "int4-g0", "bpw:0", "bpw:", "bpw:65", "bpw:2/0", "", "ud-q4_k_xl"]
)
def test_a_name_that_is_none(quant):
    with pytest.raises(
        ValueError, match=r"unknown quantisation .* valid are .*bpw:2.6/4, .*int4-g128, .*q4_k_m"
    ) as caught:
        remoe_sim.model("mixtral-8x7b", quant)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quant", [*MIXTURES, "mxfp4_moe"])
def test_every_scheme_takes_every_model(quant):
    sizes = {name: remoe_sim.model(name, quant) for name in ("qwen3.5-35b-a3b", "deepseek-v2-lite", "gpt-oss-20b")}
    for model in sizes.values():
        assert 2 < 8 * model.total_bytes / model.parameters < 9
        assert "llama.cpp" in model.assumptions[0]
    assert set(sizes["gpt-oss-20b"].expert_bytes) == {13_219_200}
    assert "stay MXFP4" in sizes["gpt-oss-20b"].assumptions[-1]


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("mlx-4bit", 4 + 32 / 64), ("mlx-6bit-g32", 6 + 32 / 32), ("mlx-8bit-g128", 8 + 32 / 128),
        ("hqq-3bit-g64", 3 + 32 / 64), ("awq", 4 + 20 / 128), ("awq-g64", 4 + 20 / 64), ("gptq", 4 + 20 / 128),
        ("gptq-8bit-g32", 8 + 24 / 32),
    ],
)  # fmt: skip
def test_formats_with_groups_count_what_each_group_has_besides_weights(name, bits):
    whole, sized = remoe_sim.model("qwen3-30b-a3b", "bf16"), remoe_sim.model("qwen3-30b-a3b", name)
    assert 16 * sized.routed_bytes / whole.routed_bytes == pytest.approx(bits, rel=1e-6)
    if name.startswith("mlx"):  # whose embedding and head have groups as well
        assert sized.total_bytes / whole.total_bytes < 1.02 * bits / 16


def test_every_quantisation_that_is_listed_can_be_taken():
    from remoe_sim.models.quantisation import quant_names

    for name in quant_names():
        assert remoe_sim.model("deepseek-v2-lite", name).total_bytes > 0, name
