"""Small recordings in the layouts that were found in 2026, as `foreign_files` has them for others."""

import json
import struct
import zlib

import numpy as np

from tests.oracle.naive import Row
from tests.support.foreign_files import FIRST, SECOND, Foreign, json_file, lines_file, rows, text_file
from tests.support.torch_writing import tensor, torch_save


def cells(ids, layers=(0, 1)):
    """(token, layer number, experts) of ids[tokens, layers, k]."""
    return [(t, n, ids[t, at].tolist()) for t in range(len(ids)) for at, n in enumerate(layers)]


def warp(ids, first=0):
    return [{"tok": first + n, "layers": one} for n, one in enumerate(ids.tolist())]


def warp_native(prompt=2, looks=None):
    """The prompt layer by layer, then token by token; twice, as the file is appended to."""
    order = [(t, layer) for layer in range(2) for t in range(prompt)]
    order += [(t, layer) for t in range(prompt, len(FIRST)) for layer in range(2)]
    looks = np.full_like(FIRST, -1) if looks is None else looks
    lines = [
        " ".join(map(str, [t, layer, *FIRST[t, layer].tolist(), 0.6, 0.4, *looks[t, layer].tolist()]))
        for t, layer in order
    ]
    return "\n".join(lines * 2) + "\n"


def lab(ids, prompt):
    yield {
        "record_type": "metadata", "format": "moe-cache-lab.routing-jsonl", "format_version": 2, "model_id": "x",
        "num_experts": 16, "experts_per_token": 2,
    }  # fmt: skip
    for t, layer, chosen in sorted(cells(ids), key=lambda cell: cell[1]):
        yield {
            "record_type": "routing_selection", "phase": "prompt" if t < prompt else "generated", "token_position": t,
            "layer": layer, "selected_experts": chosen, "selected_probabilities": [0.6, 0.4], "token_id": t,
        }  # fmt: skip
    yield {"record_type": "summary"}


def routes_layers():
    """As vLLM's recordings: the last token is not there, and the smallest weight is first."""
    routes = [
        {"token_pos": t, "token_id": t, "token_str": "x", "phase": "prefill" if t < 2 else "decode",
         "layers": {str(n): {"experts": FIRST[t, n, ::-1].tolist(), "weights": [0.4, 0.6]} for n in range(2)}}
        for t in range(5)
    ]  # fmt: skip
    meta = {
        "model_id": "x", "num_layers": 2, "num_moe_layers": 2, "num_experts": 16, "top_k": 2, "prompt_len": 2,
        "generated_len": 4, "total_tokens": 6,
    }  # fmt: skip
    return {"meta": meta, "prompt_tokens": [0, 1], "generated_tokens": [2, 3, 4, 5], "routes": routes}


def onnx_genai():
    def one(ids, prompt):
        return {"prompt_len": prompt, "prefill": ids[:prompt].tolist(), "decode": ids[prompt:].tolist()}

    facts = {"model": "x", "num_layers": 2, "num_experts": 16, "top_k": 2}
    return facts | {"prompts": {"code": one(FIRST, 2), "prose": one(SECOND, 1)}}


def router_trace():
    return {
        "version": 2, "source": {"kind": "captured"}, "scenario": "chat", "seed": 0, "tokens": 5, "layers": 2,
        "expertsPerLayer": 16, "topK": 2, "selections": FIRST.tolist(),
    }  # fmt: skip


def layer_folder(folder, several=True):
    for number, ids in enumerate([FIRST, SECOND] if several else [FIRST]):
        place = folder / "layers" / f"p{number}_routing"
        place.mkdir(parents=True)
        for layer in range(2):
            value = {"selected_experts": ids[:, layer].tolist(), "n": len(ids)}
            (place / f"routing_L{layer + 3}.json").write_text(json.dumps(value))
    return folder / "layers"


def playbook():
    return [
        {"t": t, "layer": layer, "experts": chosen, "phase": "prefill" if t < 2 else "decode"}
        for t, layer, chosen in cells(FIRST)
    ]


def k3_text(text):
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw


def k3_route():
    payload = k3_text("k3.gguf") + struct.pack("<Q", 99) + b"".join(map(k3_text, ("sha", "m", "g", "l", "run")))
    payload += struct.pack("<III", 16, 2, 2)
    body = b"K3ROUTE\0" + struct.pack("<II", 1, len(payload)) + payload
    ordinal = 0
    passes = [(0, 1, range(2)), *((number, 2, [t]) for number, t in enumerate(range(2, 5), 1))]
    for ubatch, phase, tokens in passes:
        for layer in range(2):
            for row, t in enumerate(tokens):
                record = struct.pack("<QQQIiIiIi", ordinal, 7, ubatch, phase, layer + 1, row, t, 1, 0)
                record += struct.pack("<I2i2f", 2, *FIRST[t, layer].tolist(), 0.6, 0.4)
                body += struct.pack("<II", 0x44434552, len(record)) + record
                ordinal += 1
    return body + struct.pack("<8sQII", b"K3DONE\0\0", ordinal, zlib.crc32(body), 0)


def kimi_k3_c():
    order = [(t, layer) for layer in range(2) for t in range(2)] + [
        (t, layer) for t in range(2, 5) for layer in range(2)
    ]
    pairs = [(layer + 1, expert) for t, layer in order for expert in FIRST[t, layer].tolist()]
    return np.array(pairs, "<i4").tobytes()


def q4trte(end=True):
    def frame(content):
        return struct.pack("<II", len(content), zlib.crc32(content)) + content

    raw, number = b"Q4TRTE01" + frame(struct.pack("<5I", 1, 2, 16, 2, 8) + bytes(96)), 0
    for request, (ids, prompt) in enumerate([(FIRST, 2), (SECOND, 1)]):
        raw += frame(struct.pack("<IQQQ", 1, number, request, prompt) + bytes(32))
        begins = [0, *range(prompt, len(ids))]
        for at, to in zip(begins, [*begins[1:], len(ids)], strict=True):
            raw += frame(struct.pack("<IQQIQI", 2, number, number, 1 if to <= prompt else 2, at, to - at))
            for layer in range(2):
                raw += frame(struct.pack("<IQI", 3, number, layer) + ids[at:to, layer].astype("<u2").tobytes())
            number += 1
        raw += frame(struct.pack("<IQI", 5, number, 0)) if end else b""
    return raw


def logits():
    """Logits [tokens, 8] of each layer of which the largest are FIRST."""
    tables = np.full((2, 5, 8), -2, np.float32)
    for t, layer, chosen in cells(FIRST):
        tables[layer, t, chosen] = [3, 2]
    return tables


def saved(folder, name, raw):
    (folder / name).write_bytes(raw)
    return folder / name


def npz(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def safetensors(folder):
    header, data = {}, b""
    for layer, table in enumerate(logits()):
        raw = table.astype("<f2").tobytes()
        about = {"dtype": "F16", "shape": list(table.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        header[f"layers.{layer + 4}.router_logits"], data = about, data + raw
    text = json.dumps(header).encode()
    return saved(folder, "l.safetensors", len(text).to_bytes(8, "little") + text + data)


def logits_folder(folder):
    (folder / "logits").mkdir()
    for layer, table in enumerate(logits()):
        np.save(folder / "logits" / f"ffn_moe_logits-{layer + 4}.npy", table)
    return folder / "logits"


def steps():
    """What `generate` returns with output_router_logits: a tuple of layers for each step."""
    tables = logits()
    return [tuple(tensor(one[at:to]) for one in tables) for at, to in ((0, 2), (2, 3), (3, 4), (4, 5))]


K = {"top_k": 2}
PREFILLED = rows(FIRST, prompts=[2])
K3 = [Row(7, row.position, row.step, row.phase, row.decisions) for row in PREFILLED]
TWICE = rows(FIRST, FIRST, prompts=[2, 2])
MORE = {
    "warp": Foreign(lambda f: lines_file(f, "w.jsonl", warp(FIRST, 1)), rows(FIRST, firsts=[1])),
    "warp runs": Foreign(lambda f: lines_file(f, "w.jsonl", [*warp(FIRST), *warp(SECOND)]), rows(FIRST, SECOND)),
    "warp-native": Foreign(lambda f: text_file(f, "w.txt", warp_native()), TWICE),
    "moe-cache-lab": Foreign(
        lambda f: lines_file(f, "m.jsonl", [*lab(FIRST, 2), *lab(SECOND, 1)]), rows(FIRST, SECOND, prompts=[2, 1])
    ),
    "routes-layers": Foreign(lambda f: json_file(f, "r.json", routes_layers()), PREFILLED),
    "onnx-genai": Foreign(lambda f: json_file(f, "o.json", onnx_genai()), rows(FIRST, SECOND, prompts=[2, 1])),
    "router-trace": Foreign(lambda f: json_file(f, "t.json", router_trace(), indent=1), rows(FIRST)),
    "layer-json": Foreign(layer_folder, rows(FIRST, SECOND), (3, 4)),
    "nested-json": Foreign(lambda f: json_file(f, "n.json", FIRST.tolist()), rows(FIRST)),
    "nested-json field": Foreign(
        lambda f: json_file(f, "n.json", {"experts": FIRST.tolist(), "prompt_len": 2}), PREFILLED
    ),
    "jsonl playbook": Foreign(lambda f: lines_file(f, "p.jsonl", playbook()), PREFILLED),
    "k3-route": Foreign(lambda f: saved(f, "k.bin", k3_route()), K3, (1, 2)),
    "kimi-k3-c": Foreign(lambda f: saved(f, "t.bin", kimi_k3_c()), PREFILLED, (1, 2)),
    "q4trte": Foreign(lambda f: saved(f, "q.bin", q4trte()), rows(FIRST, SECOND, prompts=[2, 1])),
    "tensors npz": Foreign(lambda f: npz(f, router_logits=logits()), rows(FIRST), options=K),
    "tensors npz of layers": Foreign(
        lambda f: npz(f, router_logits_1=logits()[0], router_logits_3=logits()[1], top_k=2), rows(FIRST), (1, 3)
    ),
    "tensors ids of layers": Foreign(
        lambda f: npz(f, topk_indices_1=FIRST[:, 0], topk_indices_3=FIRST[:, 1]), rows(FIRST), (1, 3)
    ),
    "tensors other name": Foreign(lambda f: npz(f, expert_ids=FIRST), rows(FIRST)),
    "tensors columns": Foreign(
        lambda f: npz(
            f, token=np.repeat(np.arange(5), 2), layer_id=np.tile([0, 1], 5), expert_ids=FIRST.reshape(-1, 2),
            phase=np.repeat([0, 0, 1, 1, 1], 2),
        ), PREFILLED,
    ),
    "tensors pt": Foreign(
        lambda f: torch_save({"router_logits": tuple(map(tensor, logits()))}, f / "l.pt"), rows(FIRST), options=K
    ),
    "tensors pt steps": Foreign(lambda f: torch_save(steps(), f / "l.pt"), PREFILLED, options=K),
    "tensors pt ids": Foreign(lambda f: torch_save(tensor(FIRST), f / "l.pt"), rows(FIRST)),
    "tensors safetensors": Foreign(safetensors, rows(FIRST), (4, 5), options=K),
    "tensors folder": Foreign(logits_folder, rows(FIRST), (4, 5), options=K),
}  # fmt: skip
for _name, _one in MORE.items():
    _one.format = _name.split()[0]
