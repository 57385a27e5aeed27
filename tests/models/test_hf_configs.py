"""A `config.json` gives the same weights as the card of the same model."""

import json

import pytest

import remoe_sim
from remoe_sim.models.huggingface import shape_of_values
from remoe_sim.models.shape import shape_of_card
from remoe_sim.util.cards import read_card
from tests.support.configs import CONFIGS, QWEN3


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
