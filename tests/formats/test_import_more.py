"""Malformed variants and traps of the layouts that were found in 2026; `test_import_foreign` reads whole ones."""

import json
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from remoe_sim import import_trace
from tests.support import more_foreign as more
from tests.support.foreign_files import FIRST, SECOND, json_file, lines_file, text_file
from tests.support.imported import refused, rows_of
from tests.support.torch_writing import tensor, torch_save


def changed(value, path, new):
    """A copy of nested dictionaries and lists with something else in one place; None removes it."""
    value = json.loads(json.dumps(value))
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


WARP = more.warp(FIRST)
LINES = {
    "warp gap": ([WARP[0], WARP[2]], "line 2, column 'tok': 2 follows 0; tokens are missing"),
    "warp layers": ([WARP[0], {"tok": 1, "layers": [[1, 2]]}], "line 2, column 'layers': 1 layers of 2 experts"),
    "warp ids": ([{"tok": 0, "layers": [[1, "x"]]}], "column 'layers'"),
    "warp tok": ([{"tok": None, "layers": [[1, 2]]}], "column 'tok'"),
    "lab version": (changed(list(more.lab(FIRST, 2)), [0, "format_version"], 3), "3 is unknown, this release reads 1"),
    "lab k": (
        changed(list(more.lab(FIRST, 2)), [0, "experts_per_token"], 3),
        "says 3 experts per token.*has 2",
    ),
    "lab phase": (
        changed(list(more.lab(FIRST, 2)), [1, "phase"], "x"),
        "line 2, column 'phase': \"x\", expected",
    ),
    "lab object": (
        changed(list(more.lab(FIRST, 2)), [1, "phase"], {}),
        "line 2, column 'phase': \\{\\}, expected",
    ),
    "lab ids": (changed(list(more.lab(FIRST, 2)), [2, "selected_experts"], [1, 1]), "line 3.*expert 1 appears twice"),
    "lab lacks": (changed(list(more.lab(FIRST, 2)), [1, "layer"], None), "line 2, column 'layer': missing"),
    "lab none": (list(more.lab(FIRST, 2))[:1], "no record of type routing_selection"),
}
DOCUMENTS = {
    "routes count": (
        more.routes_layers(),
        ["routes"],
        more.routes_layers()["routes"][:3],
        "3 routes, but 2 .* 4 generated",
    ),
    "routes layers": (more.routes_layers(), ["meta", "num_moe_layers"], 3, "says 3 MoE layers, but its routing has 2"),
    "routes k": (more.routes_layers(), ["meta", "top_k"], 3, "says 3 experts per token"),
    "routes phase": (more.routes_layers(), ["routes", 1, "phase"], "x", "route 1: 'x', expected prefill or decode"),
    "routes key": (more.routes_layers(), ["routes", 1, "layers", "zero"], {}, "'zero' is not the number of a layer"),
    "routes none": (more.routes_layers(), ["routes"], {"layers": []}, "not a list of routes"),
    "onnx prompt": (
        more.onnx_genai(),
        ["prompts", "code", "prompt_len"],
        3,
        "2 tokens, but prompt_len is 3",
    ),
    "onnx layers": (more.onnx_genai(), ["num_layers"], 3, "2 layers of 2 experts.*num_layers is 3"),
    "onnx k": (more.onnx_genai(), ["top_k"], 3, "says 3 experts per token"),
    "onnx ragged": (more.onnx_genai(), ["prompts", "code", "decode", 0], [[1, 2]], "'decode'.*lists of equal lengths"),
    "onnx empty": (
        more.onnx_genai(),
        ["prompts", "code"],
        {"prefill": [], "decode": None},
        "neither prefill nor",
    ),
    "router version": (more.router_trace(), ["version"], 3, "3 is unknown, this release reads 1 and 2"),
    "router tokens": (more.router_trace(), ["tokens"], 6, "column 'tokens': it is 6, but selections have 5"),
    "router k": (more.router_trace(), ["topK"], 1, "column 'topK': it is 1"),
    "router ids": (more.router_trace(), ["selections", 0, 0], [16, 3], "expert 16 is not below the model's 16"),
    "nested prompt": ({"experts": FIRST.tolist(), "prompt_len": 9}, ["x"], 1, "9 tokens of the prompt, but 5 in all"),
    "nested ragged": ({"experts": FIRST.tolist()}, ["experts", 0, 0], [1], "column 'experts'.*equal lengths"),
}


@pytest.mark.parametrize("case", LINES)
def test_malformed_lines(tmp_path, case):
    lines, part = LINES[case]
    refused(lines_file(tmp_path, "t.jsonl", lines), part)


@pytest.mark.parametrize("case", DOCUMENTS)
def test_malformed_documents(tmp_path, case):
    value, path, new, part = DOCUMENTS[case]
    refused(json_file(tmp_path, "t.json", changed(value, path, new)), part)


def test_ids_of_warp_that_are_sorted(tmp_path):
    trace = import_trace(lines_file(tmp_path, "w.jsonl", more.warp(np.sort(FIRST, axis=2))))
    assert "their ranks are lost" in trace.notes
    assert "their ranks are lost" not in import_trace(lines_file(tmp_path, "v.jsonl", WARP)).notes
    dense = [{"tok": 0, "layers": [None, [1, 2]]}, {"tok": 1, "layers": [None, [3, 4]]}]
    assert import_trace(lines_file(tmp_path, "u.jsonl", dense)).layer_numbers == (1,)


def test_lines_of_warp_that_are_cut(tmp_path):
    whole = more.warp_native()
    refused(text_file(tmp_path, "w.txt", whole[:-8]), "line 20: .* is not 'position layer, k ids")
    refused(text_file(tmp_path, "v.txt", whole.replace("0.6", "0.1", 1)[:-1] + " 7\n"), "line 20")


@pytest.mark.parametrize("own", [True, False])
def test_look_ahead_ids_of_warp_are_of_the_layer_that_they_fit(own, tmp_path):
    looks = np.full_like(FIRST, -1)
    if own:
        looks[:, 1] = FIRST[:, 1, ::-1]
    else:
        looks[:, 0] = FIRST[:, 1, ::-1]
    trace = import_trace(text_file(tmp_path, "w.txt", more.warp_native(looks=looks)))
    assert ("of their own layer" if own else "of the next layer") in trace.notes
    assert trace.most_ahead == 1
    assert trace.ahead(0).experts[: len(FIRST)].tolist() == FIRST[:, 1, ::-1].tolist()
    assert import_trace(text_file(tmp_path, "v.txt", more.warp_native())).most_ahead == 0


def test_a_folder_must_be_whole(tmp_path):
    folder = more.layer_folder(tmp_path)
    one = folder / "p1_routing" / "routing_L3.json"
    whole = one.read_text()
    one.write_text(json.dumps({"selected_experts": SECOND[:2, 0].tolist()}))
    refused(folder, "routing_L4.json: 3 tokens with 2 experts each, but routing_L3.json has .2, 2.")
    one.unlink()
    refused(folder, "layers .4., but the first folder has .3, 4.")
    (folder / "p1_routing" / "routing_L03.json").write_text(whole)
    one.write_text(whole)
    refused(folder, "layer 3 of this folder is there twice")


K3 = more.k3_route()
Q4 = more.q4trte()


def crc(raw):
    """A K3 trace with the checksum of what it holds."""
    return raw[:-8] + struct.pack("<II", zlib.crc32(raw[:-24]), 0)


BINARY = {
    "k3 cut": (K3[:-30], "the trailer K3DONE is missing"),
    "k3 bit": (K3[:60] + b"\1" + K3[61:], "its checksum is not that of its content"),
    "k3 version": (crc(K3[:8] + b"\2" + K3[9:]), "version 2 is unknown"),
    "k3 header": (crc(K3[:16] + b"\xff" + K3[17:]), "its header cannot be understood"),
    "k3 count": (K3[:-16] + struct.pack("<Q", 3) + K3[-8:], "bytes follow its 3 records"),
    "k3 more": (K3[:-16] + struct.pack("<Q", 99) + K3[-8:], "record 10"),
    "k3 ordinal": (crc(K3.replace(struct.pack("<QQQ", 3, 7, 0), struct.pack("<QQQ", 4, 7, 0))), "record 3: not a"),
    "q4 cut": (Q4[:-3], "ends beyond the file, which is cut off"),
    "q4 bit": (Q4[:20] + b"\7" + Q4[21:], "frame 0 does not match its checksum"),
    "q4 empty": (Q4[:8], "there is no header"),
    "pairs": (more.kimi_k3_c()[:-3], "bytes are not pairs of 4 bytes each"),
}  # fmt: skip


@pytest.mark.parametrize("case", BINARY)
def test_malformed_binary_files(tmp_path, case):
    raw, part = BINARY[case]
    refused(more.saved(tmp_path, "t.bin", raw), part, **({"format": "kimi-k3-c"} if case == "pairs" else {}))


def test_a_recording_of_q4trte_that_did_not_end(tmp_path):
    trace = import_trace(more.saved(tmp_path, "t.bin", more.q4trte(end=False)))
    assert "does not say that it ended" in trace.notes


def test_k_of_pairs(tmp_path):
    path = more.saved(tmp_path, "t.bin", more.kimi_k3_c())
    assert "2 experts per token, which divides" in import_trace(path).notes
    refused(path, "pair 0: 4 rows in sequence are not a multiple of 3", top_k=3)


# tensors


def test_probabilities_are_kept(tmp_path):
    trace = import_trace(more.npz(tmp_path, router_logits=more.logits()), top_k=2)
    logits = more.logits().astype(float)
    probs = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    for layer in range(2):
        assert np.allclose(trace.source.probs(layer), probs[layer], atol=1e-3)
        chosen = np.take_along_axis(probs[layer], FIRST[:, layer], axis=1)
        assert np.allclose(trace.source.weights(layer), chosen)
    again = import_trace(more.npz(tmp_path, router_probs=probs), top_k=2)
    assert rows_of(again) == rows_of(trace)
    assert "they are probabilities" in again.notes
    assert (trace.model.experts, trace.model.top_k) == ((8, 8), (2, 2))


def test_axes_of_logits(tmp_path):
    turned = more.logits().transpose(1, 0, 2)
    refused(more.npz(tmp_path, logits=turned), "layers, tokens, E. or .tokens, layers, E.", "--axes", top_k=2)
    for given in ({"axes": "tokens,layers,k"}, {"moe_layers": 2}):
        trace = import_trace(more.npz(tmp_path, logits=turned), top_k=2, **given)
        assert [row.decisions for row in rows_of(trace)] == FIRST.tolist()


TENSORS = {
    "no k": ({"router_logits": more.logits()}, {}, "pass --top-k N"),
    "k": ({"router_logits": more.logits()}, {"top_k": 9}, "rows of 8 numbers are not the logits of a router with 9"),
    "empty": ({"router_logits": np.zeros((0, 5, 8))}, {"top_k": 2}, "neither logits nor expert ids"),
    "nan": ({"router_logits": more.logits() * np.nan}, {"top_k": 2}, "layer 0 of its logits .* not finite"),
    "lengths": ({"logits_0": more.logits()[0], "logits_1": more.logits()[1, 1:]}, {"top_k": 2}, "layer 1 has shape .4"),
    "names": ({"logits_a": more.logits()[0], "logits_b": more.logits()[1]}, {"top_k": 2}, "does not say which layer"),
    "experts": ({"router_logits": more.logits(), "n_experts": 9}, {"top_k": 2}, "rows have 8 numbers.* not 9"),
    "nothing": ({"text": np.array("x"), "experts_": np.array(["y"])}, {"format": "tensors"}, "neither logits nor"),
    "columns": ({"layer": np.zeros(3, int), "expert_ids": np.zeros((2, 2), int)}, {}, "columns of one length"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_malformed_tensors(tmp_path, case):
    arrays, options, part = TENSORS[case]
    path = more.npz(tmp_path, **arrays)
    refused(path, part, **options)


def test_malformed_containers(tmp_path):
    ragged = [(tensor(more.logits()[0]),), (tensor(more.logits()[0]), tensor(more.logits()[1]))]
    refused(torch_save(ragged, tmp_path / "a.pt"), "not tuples of one tensor for each layer", top_k=2)
    raw = more.safetensors(tmp_path).read_bytes()
    refused(more.saved(tmp_path, "b.safetensors", raw[:-9]), "cannot be read as safetensors", top_k=2)
    np.save(tmp_path / "c.npy", more.logits())
    refused(tmp_path / "c.npy", "pass --top-k N")
    (tmp_path / "d.npy").write_bytes((tmp_path / "c.npy").read_bytes()[:-50])
    refused(tmp_path / "d.npy", "cannot be read as a NumPy array")


def test_nested_lists_of_several_requests(tmp_path):
    """In a list, in a field of another object, by their names, and as JSON Lines."""
    each = [{"id": name, "prompt_len": 1, "routing": ids.tolist()} for name, ids in (("a", FIRST), ("b", SECOND))]
    wanted = np.concatenate([FIRST, SECOND])
    forms = {
        "list.json": json.dumps(each),
        "field.json": json.dumps({"model": "m", "num_experts": 16, "requests": each}),
        "names.json": json.dumps({"prompts": {one["id"]: one for one in each}}),
        "lines.jsonl": "".join(json.dumps(one) + "\n" for one in each),
    }
    for name, text in forms.items():
        trace = import_trace(text_file(tmp_path, name, text), axes="tokens,layers,k")
        assert np.stack([one.experts for _, one in trace.layers()], axis=1).tolist() == wanted.tolist(), name
        assert (trace.requests, int((trace.phase == 0).sum())) == (2, 2), name
    each[1]["routing"] = [[[1, 1]]]
    refused(text_file(tmp_path, "bad.jsonl", "".join(json.dumps(one) + "\n" for one in each)), "bad.jsonl: .*line 2")


def test_lists_in_a_table_that_are_filled_up(tmp_path):
    """With -1 they are as short as the rest; a null is a slot that was dropped."""
    rows = [(t, layer, ids) for t, layers in enumerate(FIRST.tolist()) for layer, ids in enumerate(layers)]
    for name, fill, top_k in (("padded", -1, 2), ("dropped", None, 3)):
        columns = {"token_pos": [t for t, _, _ in rows], "layer": [layer for _, layer, _ in rows]}
        table = pa.table(columns | {"topk_ids": [[*ids, fill] for _, _, ids in rows]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        trace = import_trace(tmp_path / f"{name}.parquet")
        assert trace.model.top_k == (top_k, top_k)


def test_doubts_about_what_was_recorded(tmp_path):
    """Sorted ids have no ranks, and an expert that is always there may be a shared one."""
    ids = np.stack([np.random.default_rng(at).permutation(12)[:3] for at in range(60)]).reshape(20, 3, 3)
    files = {"plain": ids, "sorted": np.sort(ids, axis=2), "shared": np.concatenate([ids, np.full((20, 3, 1), 12)], 2)}
    notes = {}
    for name, table in files.items():
        np.save(tmp_path / f"{name}.npy", table)
        notes[name] = import_trace(tmp_path / f"{name}.npy", axes="tokens,layers,k").notes
    found = {name: ("ranks are lost" in text, "expert 12 is in every" in text) for name, text in notes.items()}
    assert found == {"plain": (False, False), "sorted": (True, False), "shared": (False, True)}
