"""A small recording in every format that is not our own, in the exact layout of the schema, and what it must become."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from naive import DECODE, PREFILL, Row

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
}
for _name, _one in FOREIGN.items():
    _one.format = _one.format or _name.split()[0]
