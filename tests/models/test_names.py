"""Names of files and of Ollama, with the quantisation in them; what is near in meaning."""

import pytest

import remoe_sim
from remoe_sim.models.names import named
from remoe_sim.util.errors import unknown


@pytest.mark.parametrize(
    ("text", "card", "quant"),
    [
        ("Qwen3-30B-A3B-UD-Q4_K_XL.gguf", "qwen3-30b-a3b", "q4_k_m"),
        ("unsloth/Qwen3-Coder-30B-A3B-Instruct-Q6_K.gguf", "qwen3-30b-a3b", "q6_k"),
        ("qwen3:30b-a3b-q4_K_M", "qwen3-30b-a3b", "q4_k_m"),
        ("gpt-oss:120b", "gpt-oss-120b", None),
        ("gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b", "mxfp4"),
        ("GLM-4.5-Air-IQ4_XS-00001-of-00002.gguf", "glm-4.5-air", "iq4_xs"),
        ("mlx-community/Qwen3-30B-A3B-4bit", "qwen3-30b-a3b", "mlx-4bit"),
        ("Qwen3-Next-80B-A3B-Instruct-AWQ", "qwen3-next-80b-a3b", "awq"),
    ],
)
def test_names_say_model_and_quantisation(text, card, quant):
    found = named(text)
    assert (found.card, found.quant) == (card, quant)
    sized = remoe_sim.model(text)
    assert sized.routed_bytes == remoe_sim.model(card, quant).routed_bytes
    assert sized.unverified[: len(found.remarks)] == found.remarks


def test_cards_are_their_own_names_and_other_sizes_are_not_taken():
    assert named("qwen3-30b-a3b").remarks == ()
    assert named("qwen3-8b") is None
    assert named("./Qwen3-30B-A3B-Q8_0.gguf") is None  # a file that is missing
    assert named("gpt-oss-120b-7b") is None
    with pytest.raises(ValueError, match=r"a config\.json, a GGUF file or a card works too"):
        remoe_sim.model("llama-3-8b")


def test_a_quantisation_that_is_given_is_taken():
    assert remoe_sim.model("qwen3:30b-a3b-q4_K_M", "q8_0").quant == "q8_0"
    assert {row.model.quant for row in remoe_sim.fit("qwen3:30b-a3b-q8_0", "rtx-3060").results} == {"q8_0"}


def test_near_names_are_near_in_meaning():
    said = str(unknown("device", "rtx-2050", ["rtx-5090", "rtx-2060-12gb", "rtx-2080"]))
    assert "did you mean 'rtx-20" in said
    assert "did you mean" not in str(unknown("device", "rtx-2050", ["rtx-5090"]))
