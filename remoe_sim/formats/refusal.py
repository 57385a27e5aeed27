"""The refusal of a file in no known format: what is in it, what comes close, and what would be read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from remoe_sim.formats.columns import SYNONYMS, find_columns, plain
from remoe_sim.formats.csv_files import csv_head, likely_columns
from remoe_sim.formats.facts import has_facts
from remoe_sim.formats.json_files import first_fields

if TYPE_CHECKING:
    from remoe_sim.formats.source import Source
    from remoe_sim.util.errors import TraceError

RECIPE = """\
What is always read is a NumPy file of six lines:
  import numpy as np
  ids = np.array([[[3, 7], [1, 9]], [[12, 3], [1, 4]]])  # [tokens, MoE layers, k], the largest gate weight first
  np.savez("recording.npz", experts=ids,
           offsets=[0, 2],         # where each request begins, and the end
           prompt_lengths=[1],     # how many tokens of each are its prompt
           n_experts=16)           # then: remoe-sim import recording.npz -o trace.parquet"""

_SUMS = {
    "logical_count", "physical_count", "global_physical_count", "expert_count", "expert_counts", "counts", "usage",
    "expert_load", "expert_usage", "activation_counts", "expert_hits",
}  # fmt: skip
_HINTS = {"layer": ("layer", "block", "blk"), "experts": ("expert", "topk", "top_k", "ids")}
_HINTS |= {"position": ("token", "pos", "index", "idx")}
_MOST_SHOWN = 12


def refuse(source: Source, formats: Sequence[Any]) -> TraceError:
    """A TraceError in one sentence; the lines of a file that can be read are among its notes. formats: all of them."""
    found, what = _found(source)
    sums = sorted(name for name in found if plain(name) in _SUMS)
    if sums:
        text = f"'{sums[0]}' holds sums of uses, which have no order, so they cannot be replayed; record which experts"
        return source.error(f"{text} each token chose, as SGLang's recorder does in the mode per_token")
    names = ", ".join(format.name for format in formats)
    parts = [f"in none of the known formats ({names})"]
    if found:
        shown = ", ".join(found[:_MOST_SHOWN]) + (", ..." if len(found) > _MOST_SHOWN else "")
        parts.append(f"its {what} are {shown}")
        parts += _choice(source, found, what)
    elif what:
        parts.append(what)
    parts += _nearest(source, found, formats)
    error = source.error("; ".join([*parts, "see 'remoe-sim import --help'"]))
    error.add_note(RECIPE)
    return error


def _found(source: Source) -> tuple[list[str], str]:
    """The names of columns, keys, arrays or files, and what they are; without any a clause on what is there."""
    if source.is_dir:
        return [name for name in source.members[:99] if not name.startswith(".")], "files"
    if source.members:
        return [name.removesuffix(".npy") for name in source.members], "arrays" if _is_npz(source) else "parts"
    if source.shape == "json":
        return [name for name in first_fields(source) if name], "keys"
    if source.shape == "binary":
        return [], f"it is binary and begins with the bytes {source.head[:8].hex(' ')}"
    head = csv_head(source)
    if head.names:
        return [name for name in head.names if name], "columns"
    count = len(head.first)
    if count > 1:
        choice = f"--columns {likely_columns(head.first)} might do, if that is what they are"
        return [], f"it has {count} columns without names; {choice}"
    return [], ""


def _is_npz(source: Source) -> bool:
    return any(name.endswith(".npy") for name in source.members)


def _choice(source: Source, found: list[str], what: str) -> list[str]:
    """The `--columns` that might do."""
    if what not in ("columns", "keys"):
        return []
    found = [name for name in found if not has_facts({name: 1}) and not has_facts({name: "x"})]
    columns = find_columns(found)
    left = [name for name in found if name not in columns.used]
    pairs = []
    for kind in ("position", "layer", "experts"):
        name = {"position": columns.position, "layer": columns.layer}.get(kind) or next(iter(columns.experts), None)
        if kind != "experts" and getattr(columns, kind) is None:
            name = None
        if name is None:
            name = _similar(kind, left)
            if name is None:
                if kind != "position":
                    return []
                continue
            left.remove(name)
        pairs.append(f"{kind}={name}")
    return [f"--columns {','.join(pairs)} might do"]


def _similar(kind: str, names: list[str]) -> str | None:
    """The name that is most likely of a kind."""
    holding = [name for name in names if any(hint in plain(name) for hint in _HINTS[kind])]
    if holding:
        return holding[0]
    near = {name: difflib.get_close_matches(plain(name), SYNONYMS[kind], 1, 0.75) for name in names}
    return next((name for name, close in near.items() if close), None)


def _nearest(source: Source, found: list[str], formats: Sequence[Any]) -> list[str]:
    """The known layouts that share most of the names."""
    there = set(map(plain, found)) | {plain(one) for one in re.findall(r'"(\w+)"\s*:', source.head_text[:4096])}
    shares = {}
    for format in formats:
        words = {plain(word.strip('"')) for word in format.words}
        shared = words & there
        if len(shared) > 1 and format.shape == source.shape and 2 * len(shared) >= len(words):
            lacking = sorted(words - shared)
            shares[format.name] = len(shared) / len(words), f" (without {', '.join(lacking)})" if lacking else ""
    best = sorted(shares, key=lambda name: -shares[name][0])[:3]
    if not best:
        return []
    return [f"the nearest layouts are {', '.join(name + shares[name][1] for name in best)}"]
