"""Sweeps: every row is what a replay of its own says, whatever passes they share; arguments, and the command."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from remoe_sim import cli
from remoe_sim.studies.sweep.file import COLUMNS
from tests.oracle.naive import DECODE, Row
from tests.support.data import DEMO
from tests.support.strategies import Shape, cases, choices, examples, trace_of
from tests.support.timed import with_dense

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = DEMO
SHAPE = Shape((5, 4), (2, 1), (10, 20))
SMALL = trace_of([Row(0, i, i, DECODE, [[i, 3], [0]]) for i in range(3)], SHAPE)
COUNTS = ("lookups", "hits", "misses", "cold_misses", "capacity_misses", "optimal", "bytes_read")


def replayed(trace, row, **settings):
    """The replay that a row is about."""
    if not pd.isna(row.batch):
        trace = remoe_sim.batch(trace, int(row.batch))
    limit = {"budget" if row.capacity_unit == "bytes" else "cache": row.capacity}
    device = {"device": row.device, "overlap": row.overlap} if isinstance(row.device, str) else {}
    return remoe_sim.replay(trace, policy=row.policy, scope=row.scope, **limit, **device, **settings).results[0]


def assert_rows_are_replays(frame, trace, **settings):
    for row in frame.itertuples():
        one = replayed(trace, row, **settings)
        for name in COUNTS:
            mine, theirs = getattr(row, name), getattr(one, name)
            assert pd.isna(mine) if theirs is None else mine == theirs, (name, row)
        for phase in ("decode", "prefill"):
            assert getattr(row, f"{phase}_hits") == getattr(one, phase).hits
            assert getattr(row, f"{phase}_lookups") == getattr(one, phase).lookups
        for name in ("hit_rate", "bytes_read_per_token", "reuse_rate", "tokens_per_second"):
            mine, theirs = getattr(row, name), getattr(one, name)
            assert pd.isna(mine) if theirs is None else mine == pytest.approx(theirs), name
        for name, value in (one.tpot_ms or {}).items():
            assert getattr(row, f"tpot_ms_{name}") == pytest.approx(value, rel=1e-9)
        if one.timed is not None and one.timed.times.parts_ms is not None:
            for name, value in one.timed.times.parts_ms.items():
                assert getattr(row, f"{name}_ms") == pytest.approx(value, rel=1e-9, abs=1e-12)
            first = one.timed.times.ttft_ms
            assert pd.isna(row.ttft_ms_mean) if first is None else row.ttft_ms_mean == pytest.approx(first["mean"])


@given(cases(preload=False), choices("admission", "reset", "phase", "warmup"), st.sampled_from((None, 1, 3)))
@examples(25)
def test_rows_are_replays(case, settings, batch):
    trace, sized = case.trace, case.trace.model.expert_bytes is not None
    try:
        frame = remoe_sim.sweep(
            trace, "lru,lfu,belady,fifo", "0,1,3,9", "7,40%" if sized else None, "layer,global",
            ["trace", batch] if batch else None, **settings,
        )  # fmt: skip
    except remoe_sim.TraceError:
        assert settings["reset"] == "request"
        return
    assert frame["key"].is_unique
    assert_rows_are_replays(frame, trace, **settings)


@pytest.mark.once
@given(cases(sized=True, preload=False), st.sampled_from(("layer", "global")), st.sampled_from((None, 2)))
@examples(30)
def test_times_are_those_of_replays(case, scope, batch):
    trace = with_dense(case.trace)
    if len(set(trace.model.experts)) > 1:
        return
    frame = remoe_sim.sweep(
        trace, "lru,belady,fifo", "0,2,5", None, scope, batch, "oneplus-15r,rtx-4090", None, "none,layer,prefetch"
    )
    assert len(frame) == 3 * 3 * 2 * 3
    assert_rows_are_replays(frame, trace)


def test_what_a_training_trace_does_not_know_is_missed_at_any_capacity():
    trained = trace_of([Row(0, i, i, DECODE, [[i % 2, 3], [0]]) for i in range(3)], SHAPE)
    used = trace_of([Row(0, i, i, DECODE, [[i % 3, 4], [i % 2]]) for i in range(6)], SHAPE)
    given = {"admission": "bypass", "train": trained}
    frame = remoe_sim.sweep(used, "static", "0:5", None, "layer,global", **given)
    assert frame.query("scope == 'layer' and capacity == 5")["capacity_misses"].item() > 0
    assert_rows_are_replays(frame, used, **given)


@pytest.mark.once
def test_many_limits_of_the_sample_in_blocks(monkeypatch):
    from remoe_sim.cache import counts

    given = {"device": "jetson-orin-nx-16gb,rtx-4090", "overlap": "none,layer,prefetch"}
    whole = remoe_sim.sweep(SAMPLE, "lru,belady", "2:32:6", "10%,30%", "layer,global", **given)
    trace = remoe_sim.read_trace(SAMPLE)
    assert_rows_are_replays(whole.iloc[::7], trace)
    monkeypatch.setattr(counts, "MOST_MISSED_BYTES", 1)
    pd.testing.assert_frame_equal(
        remoe_sim.sweep(SAMPLE, "lru,belady", "2:32:6", "10%,30%", "layer,global", **given), whole
    )


@pytest.mark.once
def test_quantisations_change_sizes_and_what_a_budget_holds():
    shape = Shape((128,) * 48, (8,) * 48, None)
    rows = [Row(0, i, i, DECODE, [[(8 * i + j) % 128 for j in range(8)] for _ in range(48)]) for i in range(4)]
    frame = remoe_sim.sweep(
        trace_of(rows, shape), "lru", 8, "3GiB,50%", "layer,global", device="rtx-4090", model="qwen3-30b-a3b",
        quant="q4_k_m,bf16",
    )  # fmt: skip
    by = frame.set_index(["quant", "scope", "capacity_unit"])
    assert by.loc[("bf16", "layer", "experts_per_layer"), "bytes_read"].item() > 3 * (
        by.loc[("q4_k_m", "layer", "experts_per_layer"), "bytes_read"].item()
    )
    shares = frame[(frame["capacity_unit"] == "bytes") & (frame["capacity"] != 3 * 2**30)]
    assert (shares["capacity_share"].round(6) == 0.5).all()
    for quant in ("q4_k_m", "bf16"):
        one = remoe_sim.replay(
            trace_of(rows, shape), budget="3GiB", policy="lru", device="rtx-4090", model="qwen3-30b-a3b", quant=quant
        )["lru"]
        row = by.loc[(quant, "layer", "bytes")].query("capacity == 3 * 2**30").iloc[0]
        assert (row["hits"], row["bytes_read"]) == (one.hits, one.bytes_read)


@pytest.mark.once
def test_auto_is_every_capacity_and_twenty_shares():
    frame = remoe_sim.sweep(SAMPLE, "lru", scope="layer,global")
    assert frame[frame["scope"] == "layer"]["capacity"].tolist() == list(range(1, 33))
    shares = frame[frame["scope"] == "global"]["capacity_share"]
    assert shares.round(6).tolist() == [round(0.05 * n, 6) for n in range(1, 21)]
    wide = trace_of([Row(0, 0, 0, DECODE, [[511]])], Shape((512,), (1,), None))
    assert remoe_sim.sweep(wide, "lru")["capacity"].tolist() == list(range(8, 513, 8))
    assert remoe_sim.sweep(wide, "lru", scope="global")["capacity_unit"].unique().tolist() == ["experts"]


WRONG = [
    ({"traces": []}, "no trace is given; name trace files, or sample:NAME"),
    ({"policy": "lur"}, "unknown policy 'lur'; did you mean 'lru'"),
    ({"scope": "layers"}, "unknown scope 'layers'; did you mean 'layer'"),
    ({"cache": "4:2"}, "cache '4:2' is not a range"),
    ({"cache": "auto,4"}, "auto stands for all limits; give it alone"),
    ({"cache": "4", "budget": "auto"}, "auto stands for all limits; give it alone"),
    ({"budget": "110%"}, "share '110' is not possible; give a number from 0 to 100"),
    ({"budget": "10%:5%:1%"}, "budget '10%:5%:1%' is not a range; give a%:b%:step%"),
    ({"budget": "10%:50%"}, "budget '10%:50%' is not a range; give a%:b%:step%"),
    ({"budget": "5 parsecs"}, "'5 parsecs' is not a size"),
    ({"batch": "0"}, "batch .* '0' is not possible"),
    ({"quant": "q4_k_m"}, "model, quant, overlap and what else makes times go with --device; name one"),
    ({"overlap": "layer"}, "model, quant, overlap and what else makes times go with --device; name one"),
    ({"device": "rtx-4090", "overlap": "some"}, "unknown overlap 'some'"),
    ({"device": "rtx-9999"}, "unknown device 'rtx-9999'"),
    ({"device": "rtx-4090"}, "has no card of that name"),
    ({"output": "s.csv"}, "'s.csv' has no known suffix; write a sweep to a .parquet file"),
    ({"policy": "static", "admission": "bypass"}, "policy 'static' learns from another trace; name it with --train"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG)
def test_wrong_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        remoe_sim.sweep(**{"traces": SMALL, **arguments})


def test_budgets_need_sizes_and_requests_that_interleave_are_refused():
    unsized = trace_of([Row(0, 0, 0, DECODE, [[1, 2], [0]])], Shape((5, 4), (2, 1), None))
    with pytest.raises(ValueError, match="sizes are unknown and a byte budget needs them; pass --expert-bytes"):
        remoe_sim.sweep(unsized, budget="10%")
    assert remoe_sim.sweep(unsized, "lru", budget="50%", expert_bytes="10B")["capacity"].tolist() == [45]
    mixed = trace_of([Row(r, i, i, DECODE, [[1, 2], [0]]) for i, r in enumerate((0, 1, 0))], SHAPE)
    with pytest.raises(ValueError, match="the rows of a request are not together"):
        remoe_sim.sweep(mixed, reset="request")


# --- the command


def run(*arguments):
    return CliRunner().invoke(cli.main, ["sweep", *arguments], catch_exceptions=False)


@pytest.mark.once
def test_command_from_a_file_and_flags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    remoe_sim.write_trace(remoe_sim.read_trace(SAMPLE), "a.parquet")
    limits = 'cache = "8:16:8"\nmisses-from = "storage"\ndevice = ["rtx-4090"]\n'
    Path("s.toml").write_text('traces = ["*.parquet"]\npolicy = ["lru", "fifo"]\n' + limits)
    rows = json.loads(run("--config", "s.toml", "--json").stdout)["rows"]
    assert [(row["policy"], row["capacity"]) for row in rows] == [("lru", 8), ("lru", 16), ("fifo", 8), ("fifo", 16)]
    assert {row["misses_from"] for row in rows} == {"storage"}
    rows = json.loads(run("--policy", "belady", "--config", "s.toml", "--json").stdout)["rows"]
    assert [row["policy"] for row in rows] == ["belady", "belady"]
    Path("s.toml").write_text("polcy = 'lru'\n")
    with pytest.raises(ValueError, match=r"unknown key of s.toml 'polcy'; did you mean 'policy'"):
        run("--config", "s.toml")
    Path("s.toml").write_text("policy =\n")
    with pytest.raises(ValueError, match=r"s.toml is no TOML: .*; correct it there"):
        run("--config", "s.toml")


@pytest.mark.once
def test_command_leaves_out_its_own_file_and_shows_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    remoe_sim.write_trace(remoe_sim.read_trace(SAMPLE), "a.parquet")
    assert run("a.parquet", "--cache", "8", "-o", "s.parquet").exit_code == 0
    done = run("a.parquet", "s.parquet", "--cache", "8,16", "-o", "s.parquet")
    assert "s.parquet is what this sweep writes, so it is not taken for a trace" in done.stderr
    assert "6 cells are in s.parquet" in done.stderr
    assert re.search(r"8 +54.63 % +56.05 % +69.74 %", done.stdout)
    plan = run("a.parquet", "--cache", "8,16,24", "-o", "s.parquet", "--dry-run").stdout
    assert "9 cells, 6 of them done; 3 replays are left" in plan
    with pytest.raises(ValueError, match=r"no file is called like 'b\*.parquet'"):
        run("b*.parquet")


def test_the_page_names_every_column():
    text = (ROOT / "docs" / "sweep.md").read_text()
    assert set(COLUMNS.names) - set(re.findall(r"`(\w+)`", text)) == set()
