"""Files of prompts: a text file with one per line, or JSON Lines with texts, conversations and completions."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoe_sim.util.input_files import ROWS_BYTES, read_text

DEVICES = "auto, cpu, cuda, cuda:N or mps"

EXPECTED = 'expected an object with "prompt", "text" or "messages", and "completion" if there is one'


@dataclass(frozen=True)
class Prompt:
    """One request: a text, or messages for the model's chat template; what follows it, if that is known; and what
    messages call it."""

    text: str | None
    where: str
    messages: list[dict[str, Any]] | None = None
    completion: str | None = None


def read_prompts(given: str | os.PathLike[str] | Sequence[str]) -> list[Prompt]:
    """The prompts of a file (`.txt`, or `.jsonl` with an object per line), or a sequence of texts.

    Empty lines are left out. Raises ValueError, with the line, for a file that cannot be used.
    """
    if not isinstance(given, str | os.PathLike):
        prompts = [Prompt(text, f"prompt {number}") for number, text in enumerate(given)]
        return _some(prompts, "the sequence of prompts")
    path = Path(given)
    try:
        lines = read_text(path, "prompts", ROWS_BYTES).splitlines()
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"prompts '{path}' cannot be read ({why}); give a .txt or .jsonl file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts '{path}' are no UTF-8 text ({error.reason}); give a .txt or .jsonl file") from None
    places = [(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    as_json = path.suffix.lower() in (".jsonl", ".ndjson", ".json")
    return _some([_of_json(line, where) if as_json else Prompt(line, where) for where, line in places], str(path))


def _of_json(line: str, where: str) -> Prompt:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = getattr(error, "msg", error)
        raise ValueError(f"{where}: no JSON ({why}); {EXPECTED}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: no JSON object; {EXPECTED}")
    text, messages, completion = value.get("prompt", value.get("text")), value.get("messages"), value.get("completion")
    if messages is not None and text is None and isinstance(messages, list):
        ready = all(isinstance(one, dict) for one in messages) and bool(messages)
    else:
        ready = messages is None and isinstance(text, str)
    if not ready or not isinstance(completion, str | None):
        raise ValueError(f"{where}: found {', '.join(map(str, value)) or 'nothing'}; {EXPECTED}")
    return Prompt(text, where, messages, completion)


def _some(prompts: list[Prompt], where: str) -> list[Prompt]:
    if not prompts:
        raise ValueError(f"{where} holds no prompt; give at least one")
    return prompts
