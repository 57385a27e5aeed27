"""Small Mixture-of-Experts models of real classes, trained from scratch."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.paper.stdlib_texts import WORDS, tokenizer
from remoe_sim.finetune import terms
from remoe_sim.finetune.checkpoint import keep, kept
from remoe_sim.finetune.gates import Gates
from remoe_sim.finetune.texts import digest, padded, picked

LEARNING_RATE, WARM_UP, LEAST = 2e-3, 50, 0.01  # the rate falls to this share of itself
BALANCE, FADES = 0.01, (0.5, 0.75)  # weight of the load-balance loss, and when in the training it falls to zero
EVERY = 25  # steps between kept states
BASE = {
    "vocab_size": WORDS, "hidden_size": 128, "intermediate_size": 384, "moe_intermediate_size": 96,
    "num_attention_heads": 4, "num_key_value_heads": 4, "num_experts_per_tok": 4, "max_position_embeddings": 1024,
    "pad_token_id": WORDS - 2, "eos_token_id": WORDS - 1, "bos_token_id": None,
}  # fmt: skip
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek": ("deepseek_v2", {
        "num_hidden_layers": 5, "first_k_dense_replace": 1, "n_routed_experts": 32, "n_shared_experts": 1,
        "kv_lora_rank": 32, "q_lora_rank": None, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 32,
        "topk_method": "greedy", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0,
    }),
    "qwen": ("qwen2_moe", {
        "num_hidden_layers": 4, "num_experts": 32, "shared_expert_intermediate_size": 192, "norm_topk_prob": False,
    }),
}  # fmt: skip


def train(
    architecture: str, pieces: Sequence[list[int]], steps: int, batch: int, device: str, seed: int, output: Path
) -> None:
    """Train a model on pieces of token ids and write it; a run that was cut goes on from its last kept state.

    AdamW at 2e-3, falling to a hundredth along a cosine; the language-model loss and 0.01 of the load-balance loss,
    which fades out in the third quarter, so that routing has settled on what the language-model loss alone asks for.
    """
    family, shape = ARCHITECTURES[architecture]
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(family, **BASE, **shape)
    gates = Gates(transformers.AutoModelForCausalLM.from_config(config).to(device))
    model = gates.model.requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.1, betas=(0.9, 0.95))
    part = output.with_name(f".{output.name}.part")
    about = {"training": repr((family, shape, BASE, steps, batch, seed)), "set of texts": digest(pieces)}
    state, began = kept(part, about), time.monotonic()
    if state is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    for step in range(state["step"] if state else 0, steps):
        loss = _step(gates, optimiser, [pieces[at] for at in picked(len(pieces), batch, step, (seed,))], step, steps)
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            say(f"{architecture}: step {step + 1} of {steps}, loss {loss:.4f}, {time.monotonic() - began:.0f} s")
            now = {"about": about, "step": step + 1, "model": model.state_dict(), "optimiser": optimiser.state_dict()}
            keep(now, part)
    made = part / "made"
    shutil.rmtree(made, ignore_errors=True)
    model.save_pretrained(made)
    tokenizer().save_pretrained(made)
    os.replace(made, output)
    shutil.rmtree(part)


def _step(gates: Gates, optimiser: Any, rows: list[list[int]], step: int, steps: int) -> float:
    ids, real = padded(rows, gates.model.device)
    logits, routings = gates.run(ids, real, reference=False)
    loss = terms.language_model(logits, ids, real)
    balance = sum(terms.load_balance(one.logp, one.experts, real) for one in routings) / len(routings)
    optimiser.zero_grad()
    (loss + balance_weight(step / steps) * balance).backward()
    torch.nn.utils.clip_grad_norm_(gates.model.parameters(), 1.0)
    cosine = LEAST + (1 - LEAST) * (1 + math.cos(math.pi * step / steps)) / 2
    optimiser.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * cosine
    optimiser.step()
    return float(loss.detach())


def balance_weight(done: float) -> float:
    """The weight of the load-balance loss when this share of the training is done."""
    begin, end = FADES
    return BALANCE * min(1.0, max(0.0, (end - done) / (end - begin)))


def say(sentence: str) -> None:
    """Progress."""
    print(sentence, file=sys.stderr, flush=True)
