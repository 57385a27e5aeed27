"""Sweeps of several files, and units of a sweep."""

import remoe_sim
from remoe_sim.studies.sweep.axes import axes_of
from remoe_sim.studies.sweep.cells import Subject, passes_of
from remoe_sim.studies.sweep.units import OpenTrace
from tests.support.data import DEMO

SAMPLE = DEMO


def three_runs(folder, monkeypatch, client=None):
    """Three traces of one name, each in a folder of its own and swept from there into one file above."""
    for number in range(3):
        run = folder / f"run-{number}"
        run.mkdir()
        trace = remoe_sim.synth(tokens=120, layers=2, experts=8, top_k=2, request_tokens=40, seed=number)
        remoe_sim.write_trace(trace, run / "trace.parquet")
        monkeypatch.chdir(run)
        remoe_sim.sweep("trace.parquet", "lru,fifo", "2,4", output="../all.parquet", client=client)
    monkeypatch.chdir(folder)
    return folder / "all.parquet"


def passes(trace, policy, cache, scope="layer", batch=None, device=None, **settings):
    axes = axes_of(policy, scope, cache, None, batch, device, None, None, (None,) * 5, settings, False)
    return list(passes_of(axes, [Subject.of(trace, 0, None)], None))


def results(units):
    return [(unit, result) for unit in units for result in unit.results(OpenTrace(unit.subject, unit.batch))]


def by_key(rows):
    rows = list(rows)
    found = {row["key"]: row for row in rows}
    assert len(found) == len(rows)
    return found
