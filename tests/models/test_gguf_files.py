"""A GGUF file gives the sizes that the card of the same model gives, from its header alone."""

import sys

import numpy as np
import pytest

import remoe_sim
from remoe_sim.models.model import size_shape
from remoe_sim.models.quantisation import quantise
from remoe_sim.models.shape import shape_of_card
from remoe_sim.models.tensors import TYPES, Tensor

gguf = pytest.importorskip("gguf")
CARD = {
    "title": "tiny", "repository": "x", "status": "assumed", "source": "made up",
    "shape": {
        "layers": 4, "hidden_size": 256, "vocabulary": 320, "experts": 6, "top_k": 2, "expert_intermediate": 512,
        "first_moe_layer": 1, "dense_intermediate": 768, "shared_intermediate": 288, "expert_biases": True,
    },
    "attention": [{"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 64, "norm": "head"}],
}  # fmt: skip
ALONE = ("ffn_gate_exps.weight", "ffn_up_exps.weight")
SUFFIX = {"routed": "_exps", "shared": "_shexp", "dense": ""}
SAME = (
    "layers", "moe_layers", "experts", "top_k", "hidden_size", "expert_intermediate", "vocabulary", "tied_embeddings",
    "expert_tensor_bytes", "expert_bytes", "shared_expert_bytes", "dense_bytes", "resident_bytes", "head_bytes",
    "embedding_bytes", "kv_bytes_per_token", "expert_flops", "dense_flops", "head_flops", "parameters",
    "active_parameters", "total_bytes", "routed_bytes", "quant",
)  # fmt: skip


def names_of(tensors):
    """What llama.cpp calls them; vectors get any name of their layer."""
    biases = {}
    for number, one in enumerate(tensors):
        where = "" if one.layer is None else f"blk.{one.layer}."
        if one.part == "expert bias":
            kind = ("gate", "up", "down")[biases.setdefault(one.layer, 0)]
            biases[one.layer] += 1
            yield f"{where}ffn_{kind}_exps.bias"
        elif one.role == "vector":
            yield f"{where}norm_{number}.weight"
        else:
            role = {"router": "ffn_gate_inp"}.get(one.role, one.role)
            yield f"{where}{role}{SUFFIX[one.part] if role.startswith('ffn') and role != 'ffn_gate_inp' else ''}.weight"


def write(path, shape, quant="q4_k_m", extra=(), keep=lambda name: True, **values):
    """A file with the tensors of a shape, all zeros, and the numbers that llama.cpp needs."""
    tensors = shape.tensors()
    writer = gguf.GGUFWriter(path, "tinymoe")
    numbers = {"block_count": shape.layers, "expert_count": shape.experts, "expert_used_count": shape.top_k, **values}
    for name, number in numbers.items():
        if number is not None:
            writer.add_uint32(f"tinymoe.{name}", number)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    listed = [*zip(names_of(tensors), tensors, quantise(quant, shape, tensors).types, strict=True), *extra]
    for name, one, kind in listed:
        if keep(name):
            row = int(-(-one.columns // kind.block) * kind.block_bytes)
            sides = [side for side in (one.count, one.rows) if side > 1] or [1]
            zeros = np.zeros((*sides, row), np.uint8)
            writer.add_tensor(name, zeros, raw_dtype=gguf.GGMLQuantizationType[kind.name.upper()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def shape():
    return shape_of_card(CARD, "card")


def test_a_file_and_its_card_agree(tmp_path, shape):
    write(tmp_path / "tiny.gguf", shape)
    found, wanted = remoe_sim.model(tmp_path / "tiny.gguf"), size_shape("tiny", shape, "q4_k_m")
    for field in SAME:
        assert getattr(found, field) == getattr(wanted, field), field
    assert (found.name, found.unknown, found.status) == ("tiny", (), "verified")
    assert remoe_sim.model(str(tmp_path / "tiny.gguf"), top_k=3).top_k == 3
    assert len(set(found.expert_bytes)) > 1


def test_a_file_in_parts(tmp_path, shape):
    late = ("blk.2.", "blk.3.", "output")
    write(tmp_path / "tiny-00001-of-00002.gguf", shape, keep=lambda name: not name.startswith(late))
    write(tmp_path / "tiny-00002-of-00002.gguf", shape, keep=lambda name: name.startswith(late))
    whole = size_shape("tiny", shape, "q4_k_m")
    for part in (1, 2):
        found = remoe_sim.model(tmp_path / f"tiny-0000{part}-of-00002.gguf")
        assert (found.name, found.total_bytes, found.expert_bytes) == ("tiny", whole.total_bytes, whole.expert_bytes)
    (tmp_path / "tiny-00002-of-00002.gguf").unlink()
    with pytest.raises(ValueError, match=r"one of 2 parts and 'tiny-00002-of-00002.gguf' is missing"):
        remoe_sim.model(tmp_path / "tiny-00001-of-00002.gguf")


def test_gate_and_up_in_one_tensor(tmp_path, shape):
    both = [
        (f"blk.{layer}.ffn_gate_up_exps.weight", Tensor("ffn_gate_up", 2 * 512, 256, layer, "routed", 6), TYPES["q4_k"])
        for layer in shape.moe_layers
    ]
    write(tmp_path / "f.gguf", shape, extra=both, keep=lambda name: not name.endswith(ALONE))
    write(tmp_path / "g.gguf", shape)
    fused, apart = remoe_sim.model(tmp_path / "f.gguf"), remoe_sim.model(tmp_path / "g.gguf")
    for field in ("expert_tensor_bytes", "expert_intermediate", "parameters", "total_bytes"):
        assert getattr(fused, field) == getattr(apart, field), field


def test_the_layer_for_multi_token_prediction_is_left_out(tmp_path, shape):
    write(tmp_path / "mtp.gguf", shape, nextn_predict_layers=1)
    found = remoe_sim.model(tmp_path / "mtp.gguf")
    assert (found.layers, found.moe_layers) == (3, (1, 2))
    assert "left out" in found.notes[0]


def test_what_a_file_does_not_say(tmp_path, shape):
    write(tmp_path / "odd.gguf", shape, keep=lambda name: "blk.2.attn" not in name, **{"attention.sliding_window": 64})
    found = remoe_sim.model(tmp_path / "odd.gguf")
    assert found.kv_bytes_per_token == (512, 512, None, 512)
    assert [text.split(" cannot")[0] for text in found.unknown] == [
        "what layer 2 keeps per token",
        "which layers look at a window only",
    ]


def test_files_that_cannot_be_used(tmp_path, shape):
    path = tmp_path / "x.gguf"
    with pytest.raises(ValueError, match="cannot be read"):
        remoe_sim.model(path)
    path.write_bytes(b"no gguf at all, but long enough")
    with pytest.raises(ValueError, match="no whole GGUF file"):
        remoe_sim.model(path)
    write(path, shape)
    with pytest.raises(ValueError, match="quantised already; leave out the quantisation 'q8_0'"):
        remoe_sim.model(path, "q8_0")
    with pytest.raises(ValueError, match="top_k 7 is not possible"):
        remoe_sim.model(path, top_k=7)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="no whole GGUF file"):
        remoe_sim.model(path)
    write(path, shape, expert_count=5)
    with pytest.raises(ValueError, match=r"has 6 experts in blk.1.ffn_gate_exps.weight and says that it has 5"):
        remoe_sim.model(path)
    write(path, shape, expert_count=None)
    with pytest.raises(ValueError, match="holds no experts"):
        remoe_sim.model(path)
    write(path, shape, keep=lambda name: "exps" not in name)
    with pytest.raises(ValueError, match="has no experts in its table"):
        remoe_sim.model(path)


def test_without_the_package(tmp_path, shape, monkeypatch):
    write(tmp_path / "tiny.gguf", shape)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"install it with: pip install 'remoe-sim\[gguf\]'"):
        remoe_sim.model(tmp_path / "tiny.gguf")
