"""A small recording in every format that is not our own, in the exact layout of the schema, and what it must become."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.oracle.naive import DECODE, PREFILL, Row
from tests.support.torch_writing import tensor, torch_save

FIRST = np.array([[[5, 2], [1, 0]], [[2, 7], [1, 4]], [[7, 5], [3, 1]], [[1, 5], [3, 2]], [[6, 5], [0, 2]]])
SECOND = np.array([[[6, 5], [4, 3]], [[6, 0], [0, 3]], [[0, 7], [3, 6]]])


@dataclass
class Foreign:
    """One fixture: a function (folder) -> path, the rows and layers it must become, and what import must be told."""

    write: Callable
    rows: list
    layers: tuple = (0, 1)
    options: dict = field(default_factory=dict)
    format: str = ""


def rows(*requests, prompts=None, firsts=None):
    """Rows of ids[tokens, layers, k] per request: prompts in one step, other tokens in steps of their own."""
    found, step = [], -1
    for number, ids in enumerate(requests):
        prompt = prompts[number] if prompts else 0
        first = firsts[number] if firsts else 0
        for index, token in enumerate(np.asarray(ids).tolist()):
            phase = PREFILL if first + index < prompt else DECODE
            step += phase == DECODE or index == 0
            decisions = [None if max(one) < 0 else [None if e < 0 else e for e in one] for one in token]
            found.append(Row(number, first + index, step, phase, decisions))
    return found


def text_file(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def json_file(folder, name, value, **options):
    return text_file(folder, name, json.dumps(value, **options))


def lines_file(folder, name, values):
    return text_file(folder, name, "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in values))


def b64(array, dtype="<i4"):
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode()


def b64_npy(array):
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array, np.int16))
    return base64.b64encode(buffer.getvalue()).decode()


# vLLM


def vllm_npy(folder):
    path = folder / "routing.npy"
    np.save(path, FIRST.astype(np.uint8))
    return path


def vllm_npz(folder):
    path = folder / "routing.npz"
    np.savez(path, prompt_routed_experts=FIRST[:2].astype(np.int16), routed_experts=FIRST[2:].astype(np.int16))
    return path


def vllm_wrapped():
    def one(name, ids, prompt):
        return {
            "id": name, "dataset_name": "aime", "num_prompt_tokens": prompt, "num_output_tokens": len(ids) - prompt + 1,
            "total_tokens": len(ids) + 1, "num_layers": 2, "topk": 2, "experts_shape": list(ids.shape),
            "experts_b64": b64(ids),
        }  # fmt: skip

    return [one("a", FIRST, 2), one("b", SECOND, 1)]


def vllm_outputs():
    def one(name, ids, prompt):
        completion = {"index": 0, "text": "yes", "token_ids": list(range(90, 91 + len(ids) - prompt))}
        completion["routed_experts"] = ids.tolist()
        return {
            "request_id": name,
            "prompt": "Is it?",
            "prompt_token_ids": list(range(prompt)),
            "outputs": [completion],
        }

    return [one("0", FIRST, 2), one("1", SECOND, 1)]


def vllm_response(encode=b64_npy):
    choices = [{"index": n, "text": "x", "routed_experts": encode(FIRST[2:4] if n else FIRST[2:])} for n in range(2)]
    return {
        "id": "cmpl-1", "object": "text_completion", "model": "m", "choices": choices,
        "usage": {"prompt_tokens": 2, "completion_tokens": 7}, "prompt_routed_experts": encode(FIRST[:2]),
    }  # fmt: skip


# SGLang


def sglang_generate(start=0):
    def one(ids, prompt):
        meta = {"id": "x", "prompt_tokens": prompt, "completion_tokens": len(ids) - prompt + 1, "cached_tokens": 0}
        meta |= {"finish_reason": {"type": "length", "length": 4}, "routed_experts": b64(ids[start:])}
        return {"text": "yes", "output_ids": [1, 2], "meta_info": meta}

    both = [one(FIRST, 2), one(SECOND, 1)]
    if start:
        for response in both:
            response["routed_experts_start_len"] = start
    return both


def sglang_openai():
    return {
        "id": "y", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"},
                     "sgl_ext": {"routed_experts": b64(FIRST)}}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6},
    }  # fmt: skip


# research code


def exp_ids():
    return [
        {
            "input_ids": list(range(len(ids))),
            "predicted_token_ids": [0] * len(ids),
            "exp_ids": ids.transpose(0, 2, 1).tolist(),
        }
        for ids in (FIRST, SECOND)
    ]


def core12345():
    """Layers 1 and 3 of four; the others are dense."""
    prompt = {"0": None, "1": FIRST[:2, 0].tolist(), "2": None, "3": FIRST[:2, 1].tolist()}
    rest = [{"0": None, "1": [one[0].tolist()], "2": None, "3": [one[1].tolist()]} for one in FIRST[2:]]
    return [prompt, *rest]


def gpt_oss():
    def token(position, layers):
        chosen = {
            f"layer_{number}": {"selected_experts": ids.tolist(), "selected_probs": [0.75, 0.25]}
            for number, ids in enumerate(layers)
        }
        return {f"token_{position}": chosen}

    return {
        "row_index": 27999, "dataset": "gpqa_diamond", "category": "Organic Chemistry", "finished_successfully": True,
        "has_repetition": False, "original_prompt": "Which?", "full_text": ["<|start|>"] * 23,
        "generated_only": ["<|channel|>"] * 6,
        "router_data": [token(17 + index, layers) for index, layers in enumerate(FIRST)],
    }  # fmt: skip


def moelens():
    def token(index, layer):
        probs = np.full(8, 0.01)
        probs[FIRST[index, layer]] = 0.54, 0.4
        top = {"top_experts": FIRST[index, layer].tolist(), "top_weights": [0.54, 0.4]}
        return {"token_index": index} | top | {"all_probs": probs.tolist()}

    layers = [
        {"layer": 1 + layer, "is_dense": False, "tokens": [token(index, layer) for index in range(5)]}
        for layer in range(2)
    ]
    return {
        "prompt": "The organ", "model_id": "some/moe", "num_layers": 3, "num_experts": 8, "top_k_experts": 2,
        "hidden_size": 64, "dense_layer_indices": [0],
        "tokens": [{"index": index, "text": f" t{index}"} for index in range(5)],
        "layers": [{"layer": 0, "is_dense": True, "tokens": None}, *layers],
    }  # fmt: skip


def moe_beyond(more="", cell=""):
    words = ["<｜begin▁of▁sentence｜>", 'a "quoted", word', "You", ",", "line\nbreak"]
    lines = ["Layer ID,Batch Number,Token,Activated Expert IDs" + more]
    for layer in range(2):
        for word, ids in zip(words, FIRST[:, layer].tolist(), strict=True):
            quoted = word.replace('"', '""')
            lines.append(f'{layer + 1},0,"{quoted}","{ids}"{cell}')
    return "\n".join(lines) + "\n"


# one line or object per decision


def vllm_routes(dummies=(5, 3), layers=(12,)):
    """Warm-up, a prompt of two requests in one pass, two decode passes of two tokens, and one of one."""
    meta = {"type": "meta", "model_id": "some/moe", "vllm_version": "0.11.2", "layers_logged": list(layers), "top_k": 2}
    lines = [meta]

    def log(ids):
        for number, layer in enumerate(layers):
            lines.extend(
                {"type": "route", "req_id": "r1", "token_idx": index, "layer": layer,
                 "topk_ids": token[number].tolist(), "topk_weights": [0.75, 0.25]}
                for index, token in enumerate(ids)
            )  # fmt: skip

    for size in dummies:
        log(np.array([[[7, 3], [7, 3]]] * size))
    for ids in (FIRST, SECOND[:2], SECOND[1:], FIRST[3:4]):
        log(ids)
    return lines


def vllm_routes_rows(layers=1):
    passes = [
        (FIRST, [0] * 5, range(5)),
        (SECOND[:2], [1, 2], [0, 0]),
        (SECOND[1:], [1, 2], [1, 1]),
        (FIRST[3:4], [3], [0]),
    ]
    return [
        Row(request, position, step, DECODE if step else PREFILL, token[:layers].tolist())
        for step, (ids, requests, positions) in enumerate(passes)
        for token, request, position in zip(ids, requests, positions, strict=True)
    ]


def speculative(drop=()):
    """Problem 0 with layers 0 and 1; `drop` are rows (layer, token) that the profiler left out."""
    lines = []
    for layer in range(2):
        left = [index for index in range(5) if (layer, index) not in drop]
        lines += [
            {"dataset": "humaneval", "problem_id": 0, "layer": layer, "experts": FIRST[index, layer].tolist(),
             "gating_probs": [0.7, 0.3], "token_idx": number}
            for number, index in enumerate(left)
        ]  # fmt: skip
    return lines


def speculative_raw():
    def line(problem, layer, ids, at):
        fields = {"dataset": "humaneval", "problem_id": problem, "layer": layer, "token_pos": at}
        return fields | {"experts": ids.tolist(), "gating_probs": [0.7, 0.3]}

    return [
        line(problem, layer, ids[index, layer], index if index < prompt else 0)
        for problem, (ids, prompt) in enumerate([(FIRST, 2), (SECOND, 1)])
        for begin, end in [(0, prompt), *((one, one + 1) for one in range(prompt, len(ids)))]
        for layer in range(2)
        for index in range(begin, end)
    ]


def lattice():
    return [
        {
            "layer_idx": layer,
            "token_idx": index,
            "selected_ids": FIRST[index, layer].tolist(),
            "gate_weights": [0.7, 0.3],
        }
        for layer in range(2)
        for index in range(5)
    ]


def passes(ids, prompt, pruned=False):
    """(pass, layer, row, token) of a recording layer by layer; the prompt is one pass, whose last layer may be cut."""
    bounds = [(0, prompt), *((one, one + 1) for one in range(prompt, len(ids)))]
    return [
        (number, layer, row, index)
        for number, (begin, end) in enumerate(bounds)
        for layer in range(2)
        for row, index in enumerate(range(end - 1 if pruned and layer == 1 else begin, end))
    ]


def llamacpp(k=2):
    lines = [
        f"{layer + 1},{expert}"
        for ids, prompt in ((FIRST, 3), (SECOND, 2))
        for _, layer, _, index in passes(ids, prompt, pruned=True)
        for expert in ids[index, layer, :k]
    ]
    return "\n".join(lines) + "\n"


def pruned(ids, prompt):
    """The ids where the prompt but for its last token has none at the last layer."""
    ids = ids.copy()
    ids[: prompt - 1, 1] = -1
    return ids


PRUNED = rows(pruned(FIRST, 3), pruned(SECOND, 2), prompts=[3, 2])


def colibri():
    lines, calls = [], 0
    for ids, prompt in ((FIRST, 3), (SECOND, 2)):
        for number, layer, row, index in passes(ids, prompt):
            pairs = " ".join(f"{expert}:{gate}" for expert, gate in zip(ids[index, layer], (0.7, 0.25), strict=True))
            lines.append(f"{calls + number} {row} {layer + 1} {pairs}")
        calls += number + 1
    return "\n".join(lines) + "\n"


def imp():
    return [[layer, *ids.tolist()] for token in FIRST for layer, ids in enumerate(token)]


def flat_imp():
    return [number for record in imp() for number in record]


def kimi_linear():
    lines = []
    for ids, prompt in ((FIRST, 3), (SECOND, 2)):
        for number, layer, row, index in passes(ids, prompt, pruned=True):
            phase = "decode" if number else "prefill"
            size = 1 if number or layer else prompt
            lines.append(f"{phase},{size},{layer + 1},{row},{','.join(map(str, ids[index, layer]))}")
    return "\n".join(lines) + "\n"


def sglang_records(**changed):
    """Two prompts in a pass, a decode pass of both, two of the first alone; layer 0 is dense, k is padded to 8."""

    def record(number, tokens, positions, lengths=None):
        topk = np.full((3, len(tokens), 8), -1, np.int32)
        topk[1:, :, :2] = np.array(tokens).transpose(1, 0, 2)
        return {
            "forward_pass_id": number, "rank": 0, "gatherer_key": "primary", "input_ids": list(range(len(tokens))),
            "positions": positions, "extend_seq_lens": lengths, "forward_mode": 1 if lengths else 2,
            "topk_ids_of_layer": tensor(topk), "misc_objects": [],
        }  # fmt: skip

    records = [
        record(7, [*FIRST[:2], SECOND[0]], [0, 1, 0], [2, 1]),
        record(8, [FIRST[2], SECOND[1]], [2, 1]),
        record(9, [FIRST[3]], [3]),
        record(10, [FIRST[4]], [4]),
    ]
    return {"records": records, "last_physical_to_logical_map": tensor(np.tile(np.arange(8), (3, 1)))} | changed


SGLANG_ROWS = [
    Row(request, position, step, DECODE if step else PREFILL, ids[position].tolist())
    for step, request, position, ids in [
        (0, 0, 0, FIRST), (0, 0, 1, FIRST), (0, 1, 0, SECOND), (1, 0, 2, FIRST), (1, 1, 1, SECOND), (2, 0, 3, FIRST),
        (3, 0, 4, FIRST),
    ]
]  # fmt: skip


def cecar(full=False, **changed):
    """Two questions; the second answer ends after two tokens, but generation went on."""

    def routing(ids):
        if not full:
            val = np.broadcast_to(np.float16([0.75, 0.25]), ids.shape)[:, None]
            return {"type": "topk", "idx": tensor(ids[:, None]), "val": tensor(val)}
        logits = np.zeros((*ids.shape[:2], 8), np.float32)
        np.put_along_axis(logits, ids, np.float32([3, 2]), axis=2)
        return {"type": "full_logits", "logits": tensor(logits[:, None])}

    return {
        "model_alias": "m", "hf_model_id": "some/moe", "dataset_name": "gsm8k", "num_questions": 2,
        "fixed_decode_tokens": 5, "prompt_len": [97, 40], "gen_ids_decode": [[1] * 5] * 2,
        "eos_pos_in_decode": [-1, 2], "routing_decode": [routing(FIRST), routing(SECOND)],
    } | changed  # fmt: skip


def flame_moe(folder, samples=True, **changed):
    """Layers 2 and 3, as the data set's script writes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = folder / "flame" / "actives" / "iter_0010"
    place.mkdir(parents=True, exist_ok=True)
    for layer in range(2):
        columns = {
            "scores": pa.array([[0.75, 0.25]] * len(FIRST), pa.list_(pa.float16())),
            "indices": pa.array(FIRST[:, layer].tolist(), pa.list_(pa.int16())),
        }
        pq.write_table(pa.table(columns | changed.get(f"layer_{layer}", {})), place / f"layer_{layer + 2:02d}.parquet")
    if samples:
        (folder / "flame" / "samples").mkdir(exist_ok=True)
        for number, ids in enumerate(([7, 8, 9], [10, 11])):
            table = pa.table({"token_id": pa.array(ids, pa.int32())})
            pq.write_table(table, folder / "flame" / "samples" / f"{number:03d}.parquet")
    return folder / "flame"


FOREIGN = {
    "vllm npy": Foreign(vllm_npy, rows(FIRST)),
    "vllm npz": Foreign(vllm_npz, rows(FIRST, prompts=[2])),
    "vllm base64": Foreign(lambda f: lines_file(f, "v.jsonl", vllm_wrapped()), rows(FIRST, SECOND, prompts=[2, 1])),
    "vllm outputs": Foreign(lambda f: json_file(f, "v.json", vllm_outputs()), rows(FIRST, SECOND, prompts=[2, 1])),
    "vllm output lines": Foreign(
        lambda f: lines_file(f, "v.jsonl", vllm_outputs()), rows(FIRST, SECOND, prompts=[2, 1])
    ),
    "vllm response": Foreign(
        lambda f: json_file(f, "v.json", vllm_response(), indent=1), rows(FIRST, FIRST[:4], prompts=[2, 2])
    ),
    "sglang generate": Foreign(
        lambda f: json_file(f, "s.json", sglang_generate()), rows(FIRST, SECOND, prompts=[2, 1]), options={"top_k": 2}
    ),
    "sglang openai": Foreign(
        lambda f: lines_file(f, "s.jsonl", [sglang_openai()]), rows(FIRST, prompts=[2]), options={"top_k": 2}
    ),
    "exp-ids": Foreign(lambda f: lines_file(f, "c4_results.jsonl", exp_ids()), rows(FIRST, SECOND)),
    "core12345": Foreign(lambda f: json_file(f, "0.json", core12345()), rows(FIRST, prompts=[2]), (1, 3)),
    "gpt-oss": Foreign(lambda f: json_file(f, "g.json", gpt_oss()), rows(FIRST, firsts=[17])),
    "moelens": Foreign(lambda f: json_file(f, "m.json", moelens()), rows(FIRST, prompts=[5]), (1, 2)),
    "moe-beyond": Foreign(lambda f: text_file(f, "b.csv", moe_beyond()), rows(FIRST), (1, 2)),
    "vllm-routes": Foreign(lambda f: lines_file(f, "r.jsonl", vllm_routes()), vllm_routes_rows(), (12,)),
    "vllm-routes two layers": Foreign(
        lambda f: lines_file(f, "r.jsonl", vllm_routes(layers=(11, 12))), vllm_routes_rows(2), (11, 12)
    ),
    "speculative-moe": Foreign(lambda f: lines_file(f, "p.jsonl", speculative()), rows(FIRST)),
    "speculative-moe raw": Foreign(
        lambda f: lines_file(f, "p.jsonl", speculative_raw()), rows(FIRST, SECOND, prompts=[2, 1])
    ),
    "lattice": Foreign(lambda f: lines_file(f, "l.jsonl", [*lattice()[:3], "", *lattice()[3:]]), rows(FIRST)),
    "llamacpp": Foreign(lambda f: text_file(f, "moe.csv", llamacpp()), PRUNED, (1, 2), {"top_k": 2}),
    "colibri": Foreign(lambda f: text_file(f, "route.txt", colibri()), rows(FIRST, SECOND, prompts=[3, 2]), (1, 2)),
    "imp": Foreign(lambda f: json_file(f, "i.json", {"trace": imp(), "top_k": 2}), rows(FIRST)),
    "imp flat": Foreign(lambda f: json_file(f, "i.json", {"top_k": 2, "data": flat_imp()}), rows(FIRST)),
    "imp bare": Foreign(lambda f: json_file(f, "i.json", flat_imp()), rows(FIRST), options={"top_k": 2}),
    "imp list": Foreign(lambda f: json_file(f, "i.json", imp(), indent=2), rows(FIRST)),
    "sglang-recorder": Foreign(lambda f: torch_save(sglang_records(), f / "r.pt"), SGLANG_ROWS, (1, 2)),
    "cecar": Foreign(lambda f: torch_save(cecar(), f / "c.pt"), rows(FIRST, SECOND[:2], firsts=[97, 40])),
    "cecar logits": Foreign(
        lambda f: torch_save(cecar(full=True), f / "c.pt"),
        rows(FIRST, SECOND[:2], firsts=[97, 40]),
        options={"top_k": 2},
    ),
    "flame-moe": Foreign(flame_moe, rows(FIRST), (2, 3)),
    "kimi-linear": Foreign(lambda f: text_file(f, "k.csv", kimi_linear()), PRUNED, (1, 2)),
}
for _name, _one in FOREIGN.items():
    _one.format = _one.format or _name.split()[0]
