"""Text that every machine has: the sources of Python's standard library, divided by file, with bytes as tokens."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path
from typing import Any

PARTS = ("train", "validation", "test")
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings"}  # foreign, or mostly tables
PAD, END = "<pad>", "<end>"
WORDS = 256 + 2


def sources() -> dict[str, list[str]]:
    """The texts of every part: of ten files one is for validation and one for tests, by a digest of its text,
    so that copies of a file are in one part."""
    root = Path(sysconfig.get_path("stdlib"))
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for path in sorted(root.rglob("*.py")):
        if LEFT_OUT & set(path.relative_to(root).parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        draw = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10
        parts[PARTS[draw + 1] if draw < 2 else "train"].append(text)
    return parts


def excerpts(texts: list[str], length: int, count: int) -> list[str]:
    """So many excerpts of `length` characters, spread evenly over the texts; fewer where there are not enough."""
    every = [text[at : at + length] for text in texts for at in range(0, len(text) - length + 1, length)]
    step = max(1, len(every) // count)
    return every[::step][:count]


def tokenizer() -> Any:
    """Bytes as tokens, in the form that Transformers reads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: at for at, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([PAD, END])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=PAD, eos_token=END)
