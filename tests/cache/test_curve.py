"""Curves against the oracle at every capacity, against replay, and as files."""

import json
import sys

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given

import remoe_sim
from remoe_sim import cli
from remoe_sim.cache import curve as curve_module
from remoe_sim.trace.schema import content_hash
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.oracle.oracle import POLICIES, expected
from tests.support.curves import (
    assert_curve_of_layers,
    assert_curve_of_one_cache,
    counts,
    curve,
    curves,
    oracle_counts,
    side_by_side,
)
from tests.support.strategies import Shape, examples, trace_of

STACK = ("lru", "lfu", "belady")


@examples(70)
@given(curves("layer", layers=3, large=False, most=10), st.booleans())
def test_layers_equal_the_oracle_at_every_capacity(drawn, together):
    assert_curve_of_layers(*drawn, together)


@examples(70)
@given(curves("layer", preload=False, layers=20, most=30))
def test_layers_side_by_side_equal_one_after_the_other(drawn):
    case, arguments = drawn
    with side_by_side(True):
        together = curve(case, STACK, arguments)
    with side_by_side(False):
        pd.testing.assert_frame_equal(together, curve(case, STACK, arguments))


@examples(25)
@given(curves("layer", layers=2), st.lists(st.integers(0, 14) | st.just(600), min_size=1, max_size=3))
def test_chosen_capacities_equal_replay(drawn, capacities):
    case, arguments = drawn
    frame = curve(case, POLICIES, arguments, cache=capacities)
    assert frame["capacity"].unique().tolist() == sorted(set(capacities))
    for row in frame[frame["layer"] == "all"].itertuples():
        result = remoe_sim.replay(case.trace, row.capacity, policy=row.policy, preload=case.preload, **arguments)[
            row.policy
        ]
        assert counts(row) == [result.lookups, result.hits, result.decode.lookups, result.decode.hits]
        assert row.hit_rate == result.hit_rate or (pd.isna(row.hit_rate) and result.hit_rate is None)


def test_a_policy_that_divides_its_room_is_told_of_more_room_than_there_are_experts():
    """SLRU's segments hold a quarter each: five experts never fill a cache of five, but one of twenty."""
    ids = np.random.default_rng(1).integers(0, 5, 200)
    rows = [Row(0, at, at, DECODE, [[one]]) for at, one in enumerate(ids.tolist())]
    trace = trace_of(rows, Shape((5,), (1,), None))
    hits = [remoe_sim.replay(trace, cache, policy="slru")["slru"].hits for cache in (5, 8, 20)]
    assert hits[0] < hits[2] == 195
    frame = remoe_sim.curve(trace, "slru", cache=(5, 8, 20))
    assert frame[frame["layer"] == "all"]["hits"].tolist() == hits
    assert remoe_sim.sweep(trace, "slru", cache=(5, 8, 20))["hits"].tolist() == hits


@examples(40)
@given(curves("global", large=False))
def test_one_cache_equals_the_oracle_at_every_number_of_experts(drawn):
    assert_curve_of_one_cache(*drawn)


@examples(80)
@given(curves("global", large=False, sized=True))
def test_lru_is_exact_around_every_byte_budget_at_which_it_changes(drawn):
    case, arguments = drawn
    changes = curve(case, "lru", arguments, budget="all")
    assert changes["capacity"].iloc[0] == changes["hits"].iloc[0] == 0
    around = sorted({max(at + by, 0) for at in changes["capacity"] for by in (-1, 0, 1)})
    frame = curve(case, "lru", arguments, budget=around)
    assert frame.attrs["capacity_unit"] == "bytes"
    theirs = [oracle_counts(expected(case, "lru", arguments, budget=budget)) for budget in around]
    assert [counts(row) for row in frame.itertuples()] == theirs
    # nothing changes between two budgets of "all", nor above the last
    known = frame.set_index("capacity")["hits"]
    for below, above in zip(changes["capacity"], [*changes["capacity"][1:], around[-1] + 1], strict=True):
        assert known.get(above - 1, known[below]) == known[below]
    total = sum(size * experts for size, experts in zip(case.shape.sizes, case.shape.experts, strict=True))
    assert curve(case, "lru", arguments, budget=total)["hits"].tolist() == [changes["hits"].iloc[-1]]


@examples(80)
@given(curves("global", large=False, sized=True), st.lists(st.integers(0, 60), min_size=1, max_size=6))
def test_byte_budgets_equal_the_oracle(drawn, budgets):
    case, arguments = drawn
    frame = curve(case, POLICIES, arguments, budget=budgets)
    for row in frame.itertuples():
        assert counts(row) == oracle_counts(expected(case, row.policy, arguments, budget=row.capacity))
    if len(set(case.shape.sizes)) == 1:  # then one pass serves for all
        changes = curve(case, STACK, arguments, budget="all")
        for row in changes.itertuples():
            assert counts(row) == oracle_counts(expected(case, row.policy, arguments, budget=row.capacity))


def small_trace(sizes=(10, 20)):
    rows = [Row(0, 0, 0, PREFILL, [[0, 1], [0]])]
    rows += [Row(0, i, i, DECODE, [[i % 3, 3], [i % 2]]) for i in range(1, 9)]
    return trace_of(rows, Shape((4, 6), (2, 1), sizes))


def test_columns_and_types():
    trace = small_trace()
    for scope, unit, rows in (("layer", "experts_per_layer", 4 + 6 + 6), ("global", "bytes", 100)):
        frame = remoe_sim.curve(trace, scope=scope)
        assert frame.attrs == {"capacity_unit": unit, "optimal": ["belady"] if scope == "layer" else []}
        kinds = {
            "capacity": "int64", "lookups": "int64", "hits": "int64", "hit_rate": "float64",
            "decode_lookups": "int64", "decode_hits": "int64", "decode_hit_rate": "float64",
        }  # fmt: skip
        assert frame.columns.tolist() == ["policy", "layer", *kinds]
        assert frame.dtypes.astype(str).to_dict().items() >= kinds.items()
        assert frame["policy"].value_counts().to_dict() == dict.fromkeys(STACK, rows)
        assert set(frame["layer"]) == ({1, 3, "all"} if scope == "layer" else {"all"})
        assert (frame["hit_rate"] == frame["hits"] / frame["lookups"]).all()
        assert (frame["decode_hit_rate"] == frame["decode_hits"] / frame["decode_lookups"]).all()
    assert remoe_sim.curve(small_trace(None), scope="global").attrs == {
        "capacity_unit": "experts",
        "optimal": ["belady"],
    }
    assert remoe_sim.curve(trace, "lru", scope="global")["capacity"].tolist() == [160 * i // 100 for i in range(1, 101)]
    few = remoe_sim.curve(small_trace(None), "lru", scope="global")
    assert few["capacity"].tolist() == list(range(1, 11))


def test_over_nothing_rates_are_missing():
    frame = remoe_sim.curve(small_trace(), phase="prefill")
    assert frame["hit_rate"].tolist() == [0.0] * len(frame)
    assert frame["decode_hit_rate"].isna().all()


def test_ways_to_say_which_limits():
    trace = small_trace()
    for cache in ([2, 4, 2], "4,2", "2:4:2", ["2", 4], np.array([4, 2])):
        assert remoe_sim.curve(trace, "lru", cache=cache)["capacity"].tolist() == [2, 4] * 3
    assert remoe_sim.curve(trace, "lru", cache=3)["capacity"].tolist() == [3] * 3
    for budget in ([1024, "2KiB"], "1KiB,2KiB", ("2KiB", 1024, 2048)):
        assert remoe_sim.curve(trace, "lru", budget=budget, scope="global")["capacity"].tolist() == [1024, 2048]
    assert remoe_sim.curve(trace, "lru", budget=30, scope="global")["capacity"].tolist() == [30]
    for limits in ({"cache": []}, {"budget": [], "scope": "global"}):
        with pytest.raises(ValueError, match="names no limit; give at least one"):
            remoe_sim.curve(trace, "lru", **limits)
    largest = remoe_sim.curve(trace, STACK, budget=2**62, scope="global")  # what never hits does not hit there
    assert largest["hits"].tolist() == [remoe_sim.replay(trace, 99, policy="lru")["lru"].hits] * 3


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """`remoe-sim curve` of a file in a folder of its own: stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    remoe_sim.write_trace(small_trace(), "trace.parquet")

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["remoe-sim", "curve", "trace.parquet", *options])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        assert not stop.value.code
        return capfd.readouterr()

    return run


def test_files(run, tmp_path):
    want = remoe_sim.curve(small_trace(), "lru,fifo").astype({"layer": str})
    for kind, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        out, err = run("--policy", "lru,fifo", "-o", f"curve.{kind}")
        assert out == ""
        assert err.endswith(f"wrote 32 rows to curve.{kind} (capacity in experts_per_layer)\n")
        pd.testing.assert_frame_equal(read(f"curve.{kind}").astype(want.dtypes), want)
    run("--policy", "lru,fifo", "-o", "curve.json")
    assert json.loads((tmp_path / "curve.json").read_text()) == json.loads(run("--policy", "lru,fifo", "--json").out)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"curve.{kind}" for kind in ("csv", "json", "parquet")),
        "trace.parquet",
    ]


def test_json(run):
    answer = json.loads(run("--scope", "global", "--budget", "0,40B", "--phase", "prefill", "--json").out)
    rows = answer.pop("rows")
    assert answer == {
        "schema": "remoe-sim.curve.v1", "version": remoe_sim.__version__,
        "trace": {
            "path": "trace.parquet", "model": "random", "moe_layers": 2, "experts": [4, 6], "top_k": [2, 1],
            "tokens": 9, "requests": 1, "trace_hash": content_hash(small_trace()), "schedule": None, "reroute": None,
        },
        "scope": "global", "admission": "mandatory", "order": "set", "reset": "never", "phase": "prefill",
        "warmup": 0, "preload": None, "train": None, "capacity_unit": "bytes", "optimal": [],
    }  # fmt: skip
    assert [(row["policy"], row["capacity"]) for row in rows] == [(policy, at) for policy in STACK for at in (0, 40)]
    assert rows[0] == {
        "policy": "lru", "layer": "all", "capacity": 0, "lookups": 3, "hits": 0, "hit_rate": 0.0,
        "decode_lookups": 0, "decode_hits": 0, "decode_hit_rate": None,
    }  # fmt: skip


def test_tables(run):
    table = run("--policy", "lru,belady").out.splitlines()
    assert table[0].split() == ["experts", "per", "layer", "lru", "belady"]
    assert [line.split()[0] for line in table[1:-1]] == list("123456")
    assert table[-1] == "hits / lookups, of 27 lookups"
    out, err = run("--scope", "global", "--policy", "lru")
    assert len(out.splitlines()) == 18
    assert "16 of 100 capacities shown; -o curve.csv writes all" in err
    # a policy's column goes on where another's hits change
    table = run("--scope", "global", "--expert-bytes", "10B", "--policy", "lru,lfu", "--budget", "all").out.splitlines()
    assert all(len(line.split("%")) == 3 for line in table[1:-1])


@pytest.mark.parametrize(
    ("layers", "most", "processors", "sizes"),
    [
        (26, 2, 2, [2] * 12 + [1, 1]),
        (26, 16, 2, [13, 13]),
        (3, 2, 1, [2, 1]),
        (1, 16, 4, [1]),
        (5, 1, 2, [1] * 5),
        (9, 4, 4, [3, 2, 2, 2]),
    ],
)
def test_layers_that_go_together_are_in_order_and_the_fewer_come_last(layers, most, processors, sizes, monkeypatch):
    monkeypatch.setattr(curve_module, "most_threads", lambda: processors)
    found = curve_module.batches(layers, most)
    assert [len(batch) for batch in found] == sizes
    assert [layer for batch in found for layer in batch] == list(range(layers))
