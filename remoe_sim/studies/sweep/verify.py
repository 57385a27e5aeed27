"""Cells of a sweep computed again from its traces, and compared bit for bit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from remoe_sim.devices.machine import machine as card_of
from remoe_sim.studies.sweep.file import COLUMNS, read_rows
from remoe_sim.trace.reader import as_trace, read_trace
from remoe_sim.trace.schema import content_hash
from remoe_sim.trace.trace import Trace, TraceLike
from remoe_sim.util.display import Shown, stamp
from remoe_sim.util.errors import TraceError
from remoe_sim.util.remote import is_url
from remoe_sim.util.units import parse_count, plural, several
from remoe_sim.util.version import __version__

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "remoe-sim.verify.v1"
SAMPLE = 20  # cells, if nothing else is said
ABOUT = ("trace", "batch", "policy", "scope", "capacity_unit", "capacity", "device", "quant", "overlap")
Row = dict[str, Any]


@dataclass(frozen=True)
class Mismatch:
    """A cell of the file (its number from 0, and what it is about) and a column that is not what it should be."""

    row: int
    cell: dict[str, Any]
    column: str
    recorded: Any
    recomputed: Any

    def __str__(self) -> str:
        about = ", ".join(f"{name} {value}" for name, value in self.cell.items() if value is not None)
        hint = ""
        if self.column == "key":
            hint = (
                "; its names were changed, or its policy, card, sizes or training trace were others: say which with "
                "--policy, --device, --model, --expert-bytes or --train"
            )
        return (
            f"row {self.row} ({about}): {self.column} is {self.recorded!r}, and {self.recomputed!r} computed anew{hint}"
        )


@dataclass(frozen=True, repr=False)
class Verification(Shown):
    """path: the file; rows: how many it has; checked: the numbers of those that were computed again."""

    path: str
    rows: int
    seed: int
    checked: tuple[int, ...]
    differences: tuple[Mismatch, ...]

    @property
    def equal(self) -> bool:
        return not self.differences

    def _sentence(self) -> str:
        said = f"{self.path}: {plural(len(self.checked), 'cell')} of {self.rows:,} computed anew"
        return f"{said}, all equal bit for bit" if self.equal else f"{said}; first difference: {self.differences[0]}"

    def to_dict(self) -> dict[str, Any]:
        return {
            **stamp(SCHEMA), "path": self.path, "rows": self.rows, "seed": self.seed, "checked": list(self.checked),
            "equal": self.equal, "differences": [vars(one) for one in self.differences],
        }  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One row per difference."""
        import pandas as pd

        return pd.DataFrame([{**vars(one), "cell": str(one.cell)} for one in self.differences])


def verify(
    path: str | os.PathLike[str],
    traces: TraceLike | Sequence[TraceLike] = (),
    sample: int | str = SAMPLE,
    seed: int = 0,
    policy: Any = None,
    device: Any = None,
    model: Any = None,
    expert_bytes: Any = None,
    train: Any = None,
) -> Verification:
    """Compute some cells of a sweep's file again from its traces, and compare every column bit for bit.

    traces: where the traces are now, told by their content; without them they are looked for under their recorded
    paths, from here and from the folder of the file. sample: how many cells, drawn by `seed`, or "all". policy, device:
    files of policies and of device cards that the sweep used, told by their names; model, expert_bytes, train: as they
    were given to the sweep.

    Raises ValueError for a file that is no sweep of this version, and TraceError for a trace that is not there, or is
    another one than the rows were made of.
    """
    rows = list(read_rows(Path(path)))
    if not rows:
        raise ValueError(f"'{path}' holds no rows yet; run the sweep first")
    seed = parse_count(seed, "seed")
    count = (
        len(rows) if sample == "all" else min(parse_count(sample, "sample (a number of cells, or all)", 1), len(rows))
    )
    chosen = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False)).tolist()
    again = _Again(
        Path(path).parent, _traces(traces), _by_name(policy, _policy_name), _by_name(device, _device_name), model,
        {"expert_bytes": expert_bytes, "train": train},
    )  # fmt: skip
    differences = [one for number in chosen for one in again.differences(number, rows[number])]
    return Verification(str(path), len(rows), seed, tuple(chosen), tuple(differences))


def _traces(given: Any) -> dict[str, Trace]:
    """Traces by the hash of their content."""
    listed = [given] if isinstance(given, Trace | str | os.PathLike) else list(given)
    read = [as_trace(one) for one in listed]
    return {content_hash(trace): trace for trace in read}


def _by_name(given: Any, name: Any) -> dict[str, Any]:
    return {name(one): one for one in several(given)}


def _policy_name(text: Any) -> str:
    from remoe_sim.policy.find import find_policy

    return str(find_policy(str(text)).name)


def _device_name(given: Any) -> str:
    return str(card_of(given).name)


class _Again:
    """Computes rows anew; a trace is read once."""

    def __init__(
        self,
        folder: Path,
        traces: dict[str, Trace],
        policies: dict[str, Any],
        devices: dict[str, Any],
        model: Any,
        rest: dict[str, Any],
    ) -> None:
        self.traces, self.policies, self.devices, self.model, self.rest = traces, policies, devices, model, rest
        self.folder, self.given = folder, bool(traces)

    def differences(self, number: int, row: Row) -> Iterator[Mismatch]:
        """The columns in which a row is not what it should be."""
        if row["version"] != __version__:
            raise ValueError(
                f"row {number} was made by remoe-sim {row['version']}, and this is {__version__}; install "
                "that version to verify it"
            )
        new = self.row(row)
        for column in COLUMNS.names:
            if column in row and column != "trace" and not _same(row[column], new[column]):
                yield Mismatch(number, {name: row[name] for name in ABOUT}, column, row[column], new[column])

    def row(self, row: Row) -> Row:
        """A row computed anew, by those of the possible readings of its names that give its key, if one does."""
        from remoe_sim.studies.sweep.sweep import sweep

        trace, name = self.trace(row), row["policy"].split(":")
        policy = ":".join([str(self.policies.get(name[0], name[0])), *name[1:]])
        found, why = None, None
        for device in self.devices_of(row):
            limit = {"budget" if row["capacity_unit"] == "bytes" else "cache": row["capacity"]}
            try:
                frame = sweep(
                    trace, [policy], scope=row["scope"], batch="trace" if row["batch"] is None else row["batch"],
                    admission=row["admission"], reset=row["reset"], phase=row["phase"], warmup=row["warmup"], **limit,
                    **device, **self.rest,
                )  # fmt: skip
            except ValueError as error:
                why = why or error
                continue
            one: Row = frame.astype(object).where(frame.notna(), None).iloc[0].to_dict()
            if one["key"] == row["key"]:
                return one
            found = found or one
        if found is None:
            assert why is not None
            raise why
        return found

    def devices_of(self, row: Row) -> list[dict[str, Any]]:
        """The arguments that times are made with: the file has what came of them, not what was given."""
        if row["device"] is None:
            return [{}]
        names = ("overlap", "misses_from", "lanes", "context", "compute_ms")
        same = {name: row[name] for name in names} | {"device": [self.devices.get(row["device"], row["device"])]}
        models = [self.model] if self.model is not None else [None, row["device_model"]]
        return [same | {"model": model, "quant": quant} for model in models for quant in (None, row["quant"])]

    def trace(self, row: Row) -> Trace:
        wanted = row["trace_hash"]
        if wanted not in self.traces:
            if self.given:
                raise ValueError(
                    f"none of the traces that are given is that of '{row['trace']}' ({wanted}); name it too"
                )
            self.traces[wanted] = self.found(row)
        return self.traces[wanted]

    def found(self, row: Row) -> Trace:
        """The trace of a row under its recorded path, seen from here or from the folder of the sweep's file."""
        wanted, path = row["trace_hash"], row["trace"]
        errors: list[TraceError] = []
        for place in [path] if _is_fixed(path) else [path, str(self.folder / path)]:
            try:
                trace = read_trace(place)
            except TraceError as error:
                errors.append(error)
                continue
            if content_hash(trace) == wanted:
                return trace
            why = f"it is another trace than the rows were made of ({wanted}); give the path of that one"
            errors.insert(0, trace.error(why))
        raise errors[0]


def _is_fixed(path: str) -> bool:
    """Whether a path means the same from every folder."""
    return path.startswith("sample:") or is_url(path) or Path(path).is_absolute()


def _same(recorded: Any, recomputed: Any) -> bool:
    """Whether two values are the same to the last bit."""
    if recorded is None or recomputed is None:
        return recorded is recomputed
    return bool(recorded == recomputed) or (recorded != recorded and recomputed != recomputed)
