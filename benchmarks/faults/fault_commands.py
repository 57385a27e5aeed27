"""The commands that `benchmarks/faults/faults.py` lets fail, and what they read."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import remoe_sim


@dataclass(frozen=True)
class Command:
    """arguments: of remoe-sim, run in a folder that holds in/ and out/; output: what it writes, below out/."""

    arguments: tuple[str, ...]
    output: str
    of_model: bool = False  # whether in/model is wanted, which takes torch and transformers
    refuses: bool = False  # to write over what is there

    def source(self) -> str | None:
        """The input that faults are done to."""
        files = [part for part in self.arguments if part.startswith("in/") and part != "in/model"]
        return files[0] if files else None


COMMANDS = {
    "import": Command(("import", "in/capture.npz", "-o", "out/t.parquet", "--experts", "32"), "t.parquet"),
    "synth": Command(("synth", "-o", "out/t.parquet", "--tokens", "3000", "--layers", "2"), "t.parquet"),
    "export": Command(("export", "in/t.parquet", "-o", "out/t.csv"), "t.csv"),
    "curve": Command(("curve", "in/t.parquet", "--policy", "lru", "-o", "out/c.parquet"), "c.parquet"),
    "replay": Command(
        (
            "replay",
            "in/t.parquet",
            "--cache",
            "8",
            "--policy",
            "lru",
            "--device",
            "rtx-4090",
            "--timeline",
            "out/t.json",
        ),
        "t.json",
    ),
    "sweep": Command(
        ("sweep", "in/t.parquet", "--policy", "lru", "--cache", "4:8", "-o", "out/s.parquet"), "s.parquet"
    ),
    "plot": Command(("plot", "in/s.parquet", "-o", "out/figures"), "figures"),
    "report": Command(("report", "in/s.parquet", "-o", "out/r.html"), "r.html"),
    "calibrate": Command(
        ("calibrate", "in/runs.csv", "--device", "rtx-4090", "--fit", "expert_s", "-o", "out/card.toml"), "card.toml"
    ),
    "measure": Command(
        ("measure", "--quick", "--scratch", "in", "--scratch-bytes", "32MiB", "-o", "out/card.toml"), "card.toml"
    ),
    "capture": Command(
        ("capture", "in/model", "--prompts", "in/prompts.txt", "--max-new-tokens", "8", "-o", "out/t.parquet"),
        "t.parquet",
        of_model=True,
    ),
    "finetune": Command(
        ("finetune", "in/model", "--data", "in/prompts.txt", "--recipe", "in/quick.toml", "-o", "out/tuned"),
        "tuned",
        of_model=True,
        refuses=True,
    ),
}
NO_INPUT = ("synth", "measure")
RECIPE = """length = 32
batch = 2
accumulate = 1
evaluate_every = 2
band = 1.0
[[stages]]
name = "reuse"
steps = 4
learning_rate = 1e-3
warm_up = 1
terms = { language_model = 1.0, reuse = { weight = 0.1, ramp = 2 } }
"""
MODEL = """import sys
import torch, transformers
from tokenizers import Tokenizer, models, pre_tokenizers
words = "<pad> </s> the a cat dog sat ran on to its mat home and then".split()
tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="the"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
fast.save_pretrained(sys.argv[1])
torch.manual_seed(0)
config = transformers.MixtralConfig(
    vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2, eos_token_id=None,
)
transformers.MixtralForCausalLM(config).save_pretrained(sys.argv[1])
"""
PROMPTS = """the cat sat on its mat and then the dog ran to its home
a dog ran home and then sat on a mat
the dog sat on the cat and the cat ran to its home
a cat ran to the mat and then to the dog
the mat and the dog and the cat and a home
then the cat sat and then the dog sat
"""


def model(folder: Path) -> None:
    """A tiny model with random weights and a tokenizer; made in a process of its own, for this one is going to fork."""
    environment = os.environ | {"TRANSFORMERS_VERBOSITY": "error"}
    subprocess.run([sys.executable, "-c", MODEL, folder], check=True, capture_output=True, env=environment)


def inputs(folder: Path, command: Command) -> None:
    """What a command reads, and what others do."""
    folder.mkdir()
    (folder / "prompts.txt").write_text(PROMPTS)
    (folder / "quick.toml").write_text(RECIPE)
    if command.of_model:
        model(folder / "model")
        return
    trace = remoe_sim.synth(tokens=1500, layers=6, experts=32, top_k=4, expert_bytes="1MiB")
    trace = replace(trace, model=replace(trace.model, layers=6, dense_bytes=(2**20,) * 6))  # so that it needs no card
    ids = np.stack([decisions.experts for _, decisions in trace.layers()], axis=1)
    np.savez(folder / "capture.npz", experts=ids, offsets=[0, len(ids)])
    remoe_sim.write_trace(trace, folder / "t.parquet")
    with contextlib.chdir(folder):  # rows name their traces
        remoe_sim.sweep("t.parquet", "lru,belady", cache="4:16:4", output="s.parquet")
    rows = [
        "model,quant,tpot_ms,MiB_read_per_token",
        *(f"qwen3-30b-a3b,q4_k_m,{10 + n},{100 * n}" for n in range(1, 6)),
    ]
    (folder / "runs.csv").write_text("\n".join(rows) + "\n")
