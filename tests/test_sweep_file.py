"""The file of a sweep: continued, never repeated, whole at any moment, and not shared."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from data import DEMO
from test_user_policy import FEWEST_HITS

import remoe_sim
from remoe_sim.sweep_file import COLUMNS, NAMES, alone

pytestmark = pytest.mark.once  # kernels are tested elsewhere, and interpreted this takes minutes

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = DEMO


def test_a_sweep_goes_on_where_it_was(tmp_path):
    path, seen = tmp_path / "s.parquet", []

    def progress(done, total):
        seen.append((done, total))

    first = remoe_sim.sweep(SAMPLE, "lru", "4,8", output=path, progress=progress)
    assert seen == [(0, 2), (1, 2), (2, 2)]
    seen.clear()
    more = remoe_sim.sweep(SAMPLE, "lru,fifo", "4:12:4", output=path, progress=progress)
    assert seen[0] == (2, 6)
    assert seen[-1] == (6, 6)
    pd.testing.assert_frame_equal(more[more["key"].isin(first["key"])].reset_index(drop=True), first)
    stamp = path.stat().st_mtime_ns
    fewer = remoe_sim.sweep(SAMPLE, "fifo", "12", output=path)
    assert len(fewer) == 1
    kept = pd.read_parquet(path)
    assert sorted(kept["key"]) == sorted(more["key"])
    assert kept.columns.tolist() == COLUMNS.names
    assert path.stat().st_mtime_ns >= stamp
    assert [left.name for left in tmp_path.iterdir()] == ["s.parquet"]


def test_changed_inputs_are_computed_anew_and_take_the_place_of_old_rows(tmp_path, monkeypatch):
    path, mine = tmp_path / "s.parquet", tmp_path / "mine.py"
    mine.write_text(FEWEST_HITS)
    first = remoe_sim.sweep(SAMPLE, ["lru", str(mine)], 8, output=path)
    mine.write_text(FEWEST_HITS + "\n# changed\n")
    again = remoe_sim.sweep(SAMPLE, ["lru", str(mine)], 8, output=path)
    assert (again["key"] == first["key"]).tolist() == [True, False]
    assert len(pd.read_parquet(path)) == 2
    monkeypatch.setattr(remoe_sim, "__version__", "9.9.9")
    newer = remoe_sim.sweep(SAMPLE, "lru", 8, output=path)
    assert newer["key"][0] not in set(again["key"])
    assert pd.read_parquet(path)["version"].tolist() == ["9.9.9", again["version"][1]]


def test_a_trace_is_known_by_its_content(tmp_path):
    trace = remoe_sim.read_trace(SAMPLE)
    one, two, path = tmp_path / "one.parquet", tmp_path / "two.parquet", tmp_path / "s.parquet"
    remoe_sim.write_trace(trace, one)
    remoe_sim.write_trace(trace, two)
    first = remoe_sim.sweep(one, "lru", 8, output=path)
    seen = []
    second = remoe_sim.sweep(str(two), "lru", 8, output=path, progress=lambda *now: seen.append(now))
    assert seen == [(1, 1)]
    assert second["trace"].tolist() == [str(two)]
    assert second["key"].tolist() == first["key"].tolist()
    with pytest.raises(ValueError, match=r"one.parquet' and '.*two.parquet' hold the same trace; name it once"):
        remoe_sim.sweep([one, two], "lru", 8)


def test_what_stands_at_the_place_of_the_file_is_not_overwritten(tmp_path):
    path = tmp_path / "s.parquet"
    for content in (b"", b"something else"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is there and is no sweep of this release; name another file"):
            remoe_sim.sweep(SAMPLE, "lru", 8, output=path)
        assert path.read_bytes() == content


def test_two_sweeps_do_not_write_to_one_file(tmp_path):
    path = tmp_path / "s.parquet"
    (tmp_path / ".s.parquet.123.part").write_bytes(b"left by a killed sweep")
    with alone(path), pytest.raises(ValueError, match=r"another sweep is writing to .*; wait for it, or name another"):
        remoe_sim.sweep(SAMPLE, "lru", 8, output=path)
    remoe_sim.sweep(SAMPLE, "lru", 8, output=path)
    assert [left.name for left in tmp_path.iterdir()] == ["s.parquet"]


def test_an_error_keeps_what_is_done(tmp_path):
    path = tmp_path / "s.parquet"
    broken = FEWEST_HITS.replace("worst = min(", "1 / 0; worst = min(")
    (tmp_path / "mine.py").write_text(broken)
    with pytest.raises(ZeroDivisionError):
        remoe_sim.sweep(SAMPLE, ["lru", str(tmp_path / "mine.py")], "4,8", output=path)
    assert pd.read_parquet(path)["policy"].tolist() == ["lru", "lru"]


@pytest.mark.heavy("numba")  # takes long
def test_killed_sweeps_end_like_uninterrupted_ones():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "sweep_kill.py", "--kills", "3"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said["cells_held_after_each_kill"]) == 3
    assert said["completed_and_equal"] >= 1


def test_dry_run_computes_nothing(tmp_path):
    path = tmp_path / "s.parquet"
    remoe_sim.sweep(SAMPLE, "lru", "4,8", output=path)
    before = path.read_bytes()
    plan = remoe_sim.sweep(SAMPLE, "lru,belady", "4,8", output=path, dry_run=True)
    assert plan["done"].tolist() == [True, True, False, False]
    assert plan["replay"].tolist() == [0, 0, 1, 1]
    assert path.read_bytes() == before
    assert list(NAMES) == plan.columns.tolist()[:-2]
