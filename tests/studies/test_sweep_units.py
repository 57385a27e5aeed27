"""Sweeps cut into units: however finely, and in whatever order the units come back, the rows are the same."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from remoe_sim.studies.sweep.units import CountUnit, Cut, OpenTrace, ReuseUnit, TimeUnit, rows_of, units_of
from remoe_sim.trace import reader
from remoe_sim.trace.reader import read_trace
from remoe_sim.trace.schema import content_hash
from tests.oracle.naive import DECODE, Row
from tests.support.data import DEMO
from tests.support.strategies import Shape, cases, choices, examples, trace_of
from tests.support.sweeps import by_key, passes, results
from tests.support.timed import with_dense


@given(
    cases(preload=False), choices("admission", "reset", "phase", "warmup"), st.sampled_from((1, 7, 50)), st.randoms()
)
@examples(12)
def test_units_in_any_order_make_the_rows_of_an_uncut_sweep(case, settings, slots, chance):
    try:
        given = passes(case.trace, "lru,fifo,belady", "0,1,3,9", "layer,global", ["trace", 2], **settings)
    except remoe_sim.TraceError:
        assert settings["reset"] == "request"
        return
    whole = by_key(rows_of(results(units_of(given, Cut()))))
    found = results(units_of(given, Cut(slots, 1)))
    chance.shuffle(found)
    assert by_key(rows_of(found)) == whole
    assert len(whole) == sum(len(one.cells) for one in given)


def test_units_with_times_are_whole_traces():
    shape = Shape((4, 4), (2, 1), (10, 20))
    trace = with_dense(trace_of([Row(0, i, i, DECODE, [[i, 3], [0]]) for i in range(3)], shape))
    given = passes(trace, "lru,fifo", "1,2,3", device="oneplus-15r,rtx-4090")
    units = list(units_of(given, Cut(1, 1)))
    assert [unit.limits for unit in units if isinstance(unit, TimeUnit)] == [
        ((1, 1), (2, 2), (3, 3)), ((1, 1),), ((2, 2),), ((3, 3),),
    ]  # fmt: skip
    found = results(units)
    random.Random(1).shuffle(found)
    assert by_key(rows_of(found)) == by_key(rows_of(results(units_of(given, Cut()))))


@pytest.mark.parametrize(
    ("slots", "layers"),
    [
        (None, [[0, 1, 2, 3]]),
        (1, [[0], [1], [2], [3]]),
        (20, [[0, 1], [2, 3]]),
        (25, [[0, 1], [2, 3]]),
        (31, [[0, 1, 2], [3]]),
    ],
)
def test_layers_of_a_unit_are_bounded_by_slots(slots, layers):
    shape = Shape((4,) * 4, (2,) * 4, None)
    trace = trace_of([Row(0, i, i, DECODE, [[0, 1]] * 4) for i in range(5)], shape)  # 10 slots a layer
    units = list(units_of(passes(trace, "lru,belady", 2), Cut(slots)))
    assert [list(unit.layers) for unit in units] == layers * 3
    assert [type(unit) for unit in units[:: len(layers)]] == [ReuseUnit, CountUnit, CountUnit]


def test_large_traces_are_hashed_and_planned_without_their_layers(tmp_path, monkeypatch):
    demo, path = read_trace(DEMO), tmp_path / "t.parquet"
    remoe_sim.write_trace(demo, path)
    monkeypatch.setattr(reader, "RESIDENT_BYTES", 0)
    read = []
    parts = reader._FileLayers.parts
    monkeypatch.setattr(reader._FileLayers, "parts", lambda self, at: read.append(at) or parts(self, at))
    assert content_hash(read_trace(path)) == content_hash(demo)
    given = passes(str(path), "lru", 8)
    assert read == []
    units = [unit for unit in units_of(given, Cut(1)) if isinstance(unit, CountUnit)]
    list(units[3].results(OpenTrace(units[3].subject, None)))
    assert set(read) == {3}
