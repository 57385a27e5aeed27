"""The file of a sweep: continued, never repeated, whole at any moment, and not shared."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim.cli import main
from remoe_sim.studies.sweep.file import COLUMNS, NAMES, alone
from tests.support.scripts import benchmark
from tests.support.sweeps import SAMPLE, three_runs
from tests.support.user_policies import FEWEST_HITS

pytestmark = pytest.mark.once  # kernels are tested elsewhere, and interpreted this takes minutes

ROOT = Path(__file__).resolve().parents[2]


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
    monkeypatch.setattr("remoe_sim.studies.sweep.cells.__version__", "9.9.9")
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


def test_traces_of_one_name_keep_their_rows(tmp_path, monkeypatch):
    path = three_runs(tmp_path, monkeypatch)
    rows = pd.read_parquet(path)
    assert len(rows) == 12
    assert rows["trace_hash"].value_counts().tolist() == [4, 4, 4]
    assert rows["trace"].unique().tolist() == ["trace.parquet"]


def test_traces_of_one_name_are_verified_and_shown_apart(tmp_path, monkeypatch):
    path = three_runs(tmp_path, monkeypatch)
    traces = [tmp_path / f"run-{number}" / "trace.parquet" for number in range(3)]
    assert remoe_sim.verify(path, traces, sample="all").equal
    monkeypatch.chdir(tmp_path / "run-0")  # the others' paths lead to this one's trace here
    with pytest.raises(remoe_sim.TraceError, match=r"it is another trace than the rows were made of \(xxh3:"):
        remoe_sim.verify(path, sample="all")
    page = remoe_sim.report(path)
    facts = [name for name, _, _ in page.sections[0].parts[0].rows if name.startswith("trace ")]
    hashes = [one.partition(":")[2][:8] for one in pd.read_parquet(path)["trace_hash"].unique()]
    assert facts == ["trace hash", *(f"trace trace.parquet ({digest})" for digest in hashes)]
    assert "3 combinations" in page.html


def test_figures_draw_traces_of_one_name_apart(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from remoe_sim.figures._panels import curve_rows, split_rows

    rows = curve_rows(pd.read_parquet(three_runs(tmp_path, monkeypatch)))
    assert len(rows) == 12
    titles = [title for title, _ in split_rows(rows, ["trace"])]
    assert len(set(titles)) == 3
    assert all(title.startswith("trace (") for title in titles)


def test_one_trace_of_several_names_is_one(tmp_path):
    from remoe_sim.studies.sweep.labels import stem, told_apart

    frame = pd.DataFrame({"trace": ["a/t.parquet", "t.parquet", "b/t.parquet", "c/u.parquet"]})
    frame["trace_hash"] = ["xxh3:1", "xxh3:1", "xxh3:2", "xxh3:3"]
    assert told_apart(frame, stem)["trace"].tolist() == ["a/t.parquet", "a/t.parquet", "b/t.parquet", "u"]
    assert told_apart(frame)["trace"].tolist() == ["a/t.parquet", "a/t.parquet", "b/t.parquet", "c/u.parquet"]


def test_a_trace_beside_the_file_of_the_sweep_is_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    remoe_sim.write_trace(remoe_sim.read_trace(SAMPLE), "t.parquet")
    remoe_sim.sweep("t.parquet", "lru", 8, output="s.parquet")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert remoe_sim.verify("../s.parquet").equal


def test_a_trace_that_is_written_anew_meanwhile_is_another(tmp_path):
    def replaced(done, total):
        remoe_sim.write_trace(remoe_sim.synth(tokens=90, layers=2, experts=8, top_k=2, seed=1), tmp_path / "t.parquet")

    remoe_sim.write_trace(remoe_sim.synth(tokens=90, layers=2, experts=8, top_k=2, seed=0), tmp_path / "t.parquet")
    with pytest.raises(remoe_sim.TraceError, match="another trace than the one that the sweep was planned with"):
        remoe_sim.sweep(tmp_path / "t.parquet", "lru", 4, progress=replaced)


def test_what_a_sweep_writes_is_no_trace_however_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    remoe_sim.write_trace(remoe_sim.read_trace(SAMPLE), "t.parquet")
    for _ in range(2):
        done = CliRunner().invoke(
            main, ["sweep", "*.parquet", "--policy", "lru", "--cache", "8", "-o", "./s.parquet"], catch_exceptions=False
        )
        assert done.exit_code == 0


BANDS = ["tpot_ms_low", "tpot_ms_high"]


def test_files_from_before_there_were_bands_are_read_and_continued(tmp_path):
    path = tmp_path / "s.parquet"
    old = remoe_sim.sweep(SAMPLE, "lru", "4,8", device="rtx-4090", output=path)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(BANDS), path)
    assert remoe_sim.verify(path).equal
    more = remoe_sim.sweep(SAMPLE, "lru", "4,8,12", device="rtx-4090", output=path)
    assert more[BANDS].isna().all(axis=1).tolist() == [True, True, False]
    names = [name for name in old.columns if name not in BANDS]
    pd.testing.assert_frame_equal(more.head(2)[names], old[names])
    assert (more["tpot_ms_low"][2:] < more["tpot_ms_mean"][2:]).all()
    assert pd.read_parquet(path).columns.tolist() == COLUMNS.names


def test_rows_have_the_band_of_a_replay():
    rows = remoe_sim.sweep(SAMPLE, "lru", "8", device="rtx-4090").iloc[0]
    band = remoe_sim.replay(SAMPLE, cache=8, policy="lru", device="rtx-4090")["lru"].timed.band
    assert (rows["tpot_ms_low"], rows["tpot_ms_high"]) == (band.low, band.high)
    assert remoe_sim.sweep(SAMPLE, "lru", "8")["tpot_ms_low"].isna().all()


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
    with pytest.raises(ValueError, match=r"mine\.py, line \d+: ZeroDivisionError"):
        remoe_sim.sweep(SAMPLE, ["lru", str(tmp_path / "mine.py")], "4,8", output=path)
    assert pd.read_parquet(path)["policy"].tolist() == ["lru", "lru"]


@pytest.mark.heavy("numba")  # takes long
def test_killed_sweeps_end_like_uninterrupted_ones():
    said = json.loads(benchmark("faults.sweep_kill", "--kills", "3"))
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
