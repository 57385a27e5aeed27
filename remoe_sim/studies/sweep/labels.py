"""Names of traces in what is shown of a sweep: one for each content, whatever paths its rows were given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

DIGITS = 8  # of a hash, which tell traces apart that have the same path


def told_apart(frame: pd.DataFrame, short: Callable[[str], str] = str) -> pd.DataFrame:
    """The rows with `trace` as a label that no two contents share and that is the same for all rows of one.

    short: makes a label of a path; the whole path, then also part of the hash, is taken where two would be alike.
    Rows without hashes are left as they are.
    """
    if "trace" not in frame or "trace_hash" not in frame:
        return frame
    labels = _labels(zip(frame["trace_hash"], frame["trace"], strict=True), short)
    return frame.assign(trace=frame["trace_hash"].map(labels))


def stem(path: str) -> str:
    """What figures call a trace: its file's name without the suffix."""
    return Path(path).stem if path.endswith(".parquet") else path


def _labels(named: Iterable[tuple[str, str]], short: Callable[[str], str]) -> dict[str, str]:
    """A label for each hash; the first path that comes with it is its name."""
    paths: dict[str, str] = {}
    for digest, path in named:
        paths.setdefault(digest, path)
    shorts = [short(path) for path in paths.values()]
    found = {}
    for digest, path in paths.items():
        if shorts.count(short(path)) == 1:
            found[digest] = short(path)
        elif list(paths.values()).count(path) == 1:
            found[digest] = path
        else:
            found[digest] = f"{short(path)} ({digest.partition(':')[2][:DIGITS]})"
    return found
