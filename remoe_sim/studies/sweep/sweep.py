"""Hundreds of configurations in one call: traces × policies × scopes × limits × batches × devices."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoe_sim.studies.sweep.axes import axes_of
from remoe_sim.studies.sweep.cells import Cell, Pass, Subject, passes_of
from remoe_sim.studies.sweep.file import SweepFile, alone
from remoe_sim.studies.sweep.units import Cut, Unit, here, rows_of, units_of
from remoe_sim.trace.reader import as_trace
from remoe_sim.trace.trace import Trace, TraceLike
from remoe_sim.util.remote import is_url
from remoe_sim.util.units import several

if TYPE_CHECKING:
    import pandas as pd

Several = Any  # one value, text with commas, or a sequence
Traces = TraceLike | Sequence[TraceLike]
Progress = Callable[[int, int], None]
Execute = Callable[[list[Pass]], Iterable[tuple[Unit, Any]]]


def sweep(
    traces: Traces,
    policy: Several = ("lru", "lfu", "belady"),
    cache: Several = None,
    budget: Several = None,
    scope: Several = "layer",
    batch: Several = None,
    device: Several = None,
    quant: Several = None,
    overlap: Several = None,
    output: str | os.PathLike[str] | None = None,
    admission: str = "mandatory",
    reset: str = "never",
    phase: str = "all",
    warmup: int = 0,
    expert_bytes: int | str | Sequence[int] | None = None,
    train: TraceLike | None = None,
    model: Any = None,
    lanes: int | None = None,
    context: int | None = None,
    compute_ms: float | None = None,
    misses_from: str | None = None,
    host: Any = None,
    storage: Any = None,
    engine: Any = None,
    cpu_share: Any = None,
    cpu_moe_layers: Any = None,
    gpu_moe_layers: Any = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    client: Any = None,
) -> pd.DataFrame:
    """Every combination of what is given as lists: one row per cell, in the columns and units of docs/sweep.md.

    traces: trace files, or traces. policy, scope, batch, device, quant, overlap: one, text with commas, or a sequence;
    a batch is a number of requests at once, or "trace" for the steps as they were recorded. cache: experts per layer
    (in all under scope `global`), such as "4:64"; budget: sizes such as "4000MiB", or shares of the bytes of all
    experts, "10%" or "10%:90%:10%"; both may be given, and neither, or "auto", stands for every capacity of a layer (64
    at most) under scope `layer` and for 5 % to 100 % under `global`. The others are single values, as in `replay`.

    output: a Parquet file to which rows are added as they come. What it holds already is not computed again, as long
    as the content of the trace, the configuration and the version are the same, so an interrupted or extended sweep
    goes on where it was. dry_run: only the plan: for each cell `done`, and `replay`, the same number for cells that one
    replay serves.
    progress: called with the numbers of cells that are done and in all.
    client: a `distributed.Client`, or the address of a Dask scheduler, whose workers do the work (docs/distributed.md).

    `attrs["notes"]` has sentences about what nobody has checked of the devices and models.
    Raises ValueError for arguments that are not possible, TraceError for a trace that is not.
    """
    settings = {"admission": admission, "reset": reset, "phase": phase, "warmup": warmup}
    timing = {
        "device": device, "quant": quant, "overlap": overlap, "model": model, "lanes": lanes, "context": context,
        "compute_ms": compute_ms, "misses_from": misses_from, "host": host, "storage": storage, "engine": engine,
        "cpu_share": cpu_share, "cpu_moe_layers": cpu_moe_layers, "gpu_moe_layers": gpu_moe_layers,
    }  # fmt: skip
    axes = axes_of(
        policy=policy, scope=scope, cache=cache, budget=budget, batch=batch, timing=timing, settings=settings,
        trained=train is not None,
    )  # fmt: skip
    if output is not None and is_url(output):
        raise ValueError(f"'{output}': a sweep is written as it goes; name a file of this machine and copy it then")
    if output is not None and Path(output).suffix != ".parquet":
        raise ValueError(f"'{output}' has no known suffix; write a sweep to a .parquet file")
    learned = None if train is None else as_trace(train)
    given = [traces] if isinstance(traces, Trace | str | os.PathLike) else several(traces)
    if client is not None and any(isinstance(one, Trace) for one in given):
        raise ValueError("workers cannot see a trace in memory; write it with remoe_sim.write_trace and give its path")
    plan = _Plan.of(list(passes_of(axes, _subjects(given, expert_bytes), learned)))
    if dry_run:
        return plan.frame(SweepFile(output, plan.wanted))
    with alone(output), _executor(client) as execute:
        file = SweepFile(output, plan.wanted)
        file.begin()
        try:
            _run(plan, file, execute, progress)
        finally:
            file.write()
        frame = file.frame()
    frame.attrs["notes"] = plan.notes
    return frame


def _subjects(given: Sequence[Any], expert_bytes: Any) -> list[Subject]:
    if not given:
        raise ValueError("no trace is given; name trace files, or sample:NAME for a bundled one")
    subjects = [Subject.of(one, number, expert_bytes) for number, one in enumerate(given)]
    by_digest: dict[str, str] = {}
    for subject in subjects:
        if subject.digest in by_digest:
            raise ValueError(f"'{by_digest[subject.digest]}' and '{subject.name}' hold the same trace; name it once")
        by_digest[subject.digest] = subject.name
    return subjects


@dataclass(frozen=True)
class _Plan:
    """passes, without cells that two lists named; wanted: the names of all cells by their keys, with `trace_hash`."""

    passes: list[Pass]
    wanted: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, passes: list[Pass]) -> _Plan:
        wanted: dict[str, dict[str, Any]] = {}
        for one in passes:
            first: dict[str, Cell] = {}
            for cell in one.cells:
                if cell.key not in wanted:
                    first.setdefault(cell.key, cell)
            one.cells = list(first.values())
            wanted |= {cell.key: cell.names | {"trace_hash": one.subject.digest} for cell in one.cells}
        return cls([one for one in passes if one.cells], wanted)

    def left(self, file: SweepFile) -> list[Pass]:
        """The passes with the cells that the file does not hold."""
        passes = []
        for one in self.passes:
            missing = set(file.missing(cell.key for cell in one.cells))
            if missing:
                passes.append(replace(one, cells=[cell for cell in one.cells if cell.key in missing]))
        return passes

    @property
    def notes(self) -> list[str]:
        """What any output has to say about the devices, models and policies of the sweep."""
        found = dict.fromkeys(one.policy.note for one in self.passes if one.policy.note)
        for variant in {id(cell.variant): cell.variant for one in self.passes for cell in one.cells}.values():
            if variant.run is not None and variant.model is not None:
                said = (*variant.run.device.unverified, *variant.model.unverified, *variant.model.unknown)
                found |= dict.fromkeys(said)
        return list(found)

    def frame(self, file: SweepFile) -> pd.DataFrame:
        import pandas as pd

        rows = [
            {**cell.names, "done": cell.key in file.rows, "replay": number}
            for number, one in enumerate(self.passes)
            for cell in one.cells
        ]
        return pd.DataFrame(rows)


@contextmanager
def _executor(client: Any) -> Iterator[Execute]:
    """What takes passes and gives what their units find: this process, or a cluster."""
    if client is None:
        yield lambda passes: here(units_of(passes, Cut()))
        return
    from remoe_sim.studies.sweep.cluster import CUT, connected, on_cluster

    with connected(client) as cluster:
        yield lambda passes: on_cluster(cluster, units_of(passes, CUT))


def _run(plan: _Plan, file: SweepFile, execute: Execute, progress: Progress | None) -> None:
    """Computes what is missing."""
    total = len(plan.wanted)
    done = total - len(file.missing(plan.wanted))
    if progress is not None:
        progress(done, total)
    for row in rows_of(execute(plan.left(file))):
        file.add(row)
        done += 1
        if progress is not None:
            progress(done, total)
