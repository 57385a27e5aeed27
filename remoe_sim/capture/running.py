"""What `remoe-sim capture` does: load a model, let it generate from prompts or read texts, and record the routing."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoe_sim.capture.inputs import DEVICES, Prompt, read_prompts
from remoe_sim.capture.recorder import Recorder, record

if TYPE_CHECKING:
    from remoe_sim.trace.trace import Trace

NEEDED = (
    "packages 'torch' and 'transformers', which run models, are not both installed; install them with: "
    "pip install 'remoe-sim[capture]'"
)
NO_GGUF_AHEAD = (
    "llama.cpp tells what each router chose, and runs no router on the input of an earlier layer, so there are no "
    "look-ahead choices of a GGUF file; leave out --ahead, or capture the same model with Transformers"
)


def run(
    model: Any,
    prompts: str | os.PathLike[str] | Sequence[str],
    *,
    tokenizer: Any = None,
    max_new_tokens: int = 128,
    batch: int = 1,
    probs: bool = False,
    device: str = "auto",
    teacher_force: bool = False,
    ahead: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
    route: str | None = None,
    cache: int | str | None = None,
    policy: str = "lru",
    bias: float | str | None = None,
    max_rank: int | str | None = None,
    threshold: float | str | None = None,
    keep: int | str = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Record the routing of a Transformers model, or of one in a GGUF file, over prompts that it goes on from.

    model: a name on the Hugging Face Hub, a folder, or a loaded model (then tokenizer is needed); or the path of a
    `.gguf` file (any part of a split one), which llama.cpp runs; prompts: a `.txt` file with one per line, a `.jsonl`
    file with "prompt", "text" or "messages" and possibly "completion", or texts; batch: how many run at once;
    probs: keep full router distributions; device: auto, cpu, cuda, cuda:N or mps;
    teacher_force: read the texts instead of generating, each token as a decode step, a prompt that a completion follows
    as prefill, and what the model loses on them is in `origin["loss"]` of the trace; ahead: record also what the
    routers of so many next MoE layers choose on the input of each (Transformers only); temperature: 0 generates
    greedily, more samples with `seed`; route, cache, policy, bias, max_rank, threshold, keep: let a cache run along
    that the routers follow, as in `record`; progress: called with how many prompts are done, and of how many.
    Raises ValueError where packages are missing, the model has no routers, or an argument is wrong.
    """
    for name, value, least in (("max_new_tokens", max_new_tokens, 1), ("batch", batch, 1), ("ahead", ahead, 0)):
        if value < least:
            raise ValueError(f"{name} {value} is not possible; give {least} or more")
    if not 0 <= temperature < float("inf"):
        raise ValueError(
            f"temperature {temperature} is not possible; give 0 for greedy generation, or a number above 0"
        )
    settings: dict[str, Any] = {"bias": bias, "max_rank": max_rank, "threshold": threshold}
    if route is not None:
        from remoe_sim.capture.closed_loop import check_route

        check_route(route, cache, settings, keep)
    requests = read_prompts(prompts)
    if not teacher_force and any(one.completion is not None for one in requests):
        where = next(one.where for one in requests if one.completion is not None)
        raise ValueError(f"{where}: a completion is read under teacher forcing only; pass teacher_force, or remove it")
    if isinstance(model, str | os.PathLike) and os.fspath(model).lower().endswith(".gguf"):
        from remoe_sim.capture.llama_run import run_gguf

        if tokenizer is not None:
            raise ValueError("a GGUF file has its own tokenizer; leave out tokenizer=")
        if ahead:
            raise ValueError(NO_GGUF_AHEAD)
        if route is not None or temperature:
            what = "route" if route is not None else "temperature"
            raise ValueError(f"llama.cpp runs GGUF files without {what}; give a model of Transformers, or leave it out")
        return run_gguf(
            Path(model),
            requests,
            max_new_tokens=max_new_tokens,
            batch=batch,
            probs=probs,
            device=device,
            teacher_force=teacher_force,
            progress=progress,
        )
    if isinstance(model, str | os.PathLike):
        model, tokenizer = load(os.fspath(model), device)
    elif tokenizer is None:
        raise ValueError("a loaded model needs its tokenizer; pass tokenizer=")
    tokens = [_tokens(tokenizer, one) for one in requests]
    with record(
        model,
        probs=probs,
        teacher_force=teacher_force,
        ahead=ahead,
        route=route,
        cache=cache,
        policy=policy,
        keep=keep,
        **settings,
    ) as recorder:
        for start in range(0, len(tokens), batch):
            if progress is not None:
                progress(start, len(tokens))
            some = tokens[start : start + batch]
            if teacher_force:
                _read(model, recorder, some)
            else:
                _generate(model, [prompt for prompt, _ in some], max_new_tokens, temperature, seed + start)
        return recorder.trace()


def load(name: str, device: str) -> tuple[Any, Any]:
    """A model and its tokenizer on a device; ValueError for one that cannot be loaded."""
    if name.startswith((".", "/", "~")) and not os.path.isdir(name):
        raise ValueError(f"model '{name}' is no folder; give one with config.json and weights, or a name on the Hub")
    if any(importlib.util.find_spec(package) is None for package in ("torch", "transformers")):
        raise ValueError(NEEDED)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    options: dict[str, Any] = {}
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        if device == "cuda" and importlib.util.find_spec("accelerate") is not None:
            options["device_map"] = "auto"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device '{device}' is not here or unknown; give {DEVICES}") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", **options)
    except (OSError, ValueError, ImportError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"model '{name}' cannot be loaded: {why}") from None
    return (model if options else model.to(device)).eval(), tokenizer


def _tokens(tokenizer: Any, prompt: Prompt) -> tuple[list[int], int]:
    """The token ids of a request, and how many of them are a prompt that something follows."""
    if prompt.messages is None:
        ids = list(tokenizer(prompt.text)["input_ids"])
    else:
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(f"{prompt.where}: the model has no chat template; give a prompt instead of messages")
        text = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, tokenize=False)
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    known = 0
    if prompt.completion is not None:
        known = len(ids)
        ids += tokenizer(prompt.completion, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ValueError(f"{prompt.where}: not one token is in it; give a longer text, or remove it")
    return ids, known


def _padded(model: Any, rows: Sequence[list[int]], *, left: bool) -> tuple[Any, Any]:
    """Token ids and attention mask of rows that are filled up with padding."""
    import torch

    widest = max(map(len, rows))
    ids, mask = torch.zeros((2, len(rows), widest), dtype=torch.long)
    for at, row in enumerate(rows):
        here = slice(widest - len(row), None) if left else slice(len(row))
        ids[at, here] = torch.tensor(row)
        mask[at, here] = 1
    return ids.to(model.device), mask.to(model.device)


def _generate(model: Any, rows: Sequence[list[int]], max_new_tokens: int, temperature: float, seed: int) -> None:
    import torch

    ids, mask = _padded(model, rows, left=True)
    ends = model.generation_config.eos_token_id
    pad = model.generation_config.pad_token_id
    if pad is None:
        pad = ends[0] if isinstance(ends, list) else 0 if ends is None else ends
    greedy: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    if temperature:
        torch.manual_seed(seed)
        greedy |= {"do_sample": True, "temperature": float(temperature), "top_p": 1.0, "top_k": 0}
    with torch.inference_mode():
        model.generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, pad_token_id=pad, **greedy)


def _read(model: Any, recorder: Recorder, rows: Sequence[tuple[list[int], int]]) -> None:
    import torch

    ids, mask = _padded(model, [row for row, _ in rows], left=False)
    recorder.next_prompts([known for _, known in rows])
    with torch.inference_mode():
        model(input_ids=ids, attention_mask=mask, use_cache=False)
