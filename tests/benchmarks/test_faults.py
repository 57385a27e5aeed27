"""Faults: samples of `benchmarks/faults.py` and `kernel_faults.py`, the tables of the docs, and whole files."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import remoe_sim
from remoe_sim.util import files
from remoe_sim.util.files import replacing

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def script(name, *arguments):
    """A benchmark in a process of its own; its output."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.heavy("numba")  # takes long
def test_a_sample():
    faults = "killed,asked to end,interrupted,full disk,read-only disk,no folder,half an input,two at a time"
    answer = json.loads(script("faults", "--commands", "sweep", "--faults", faults))
    assert [row["fault"] for row in answer["rows"]] == faults.split(",")
    answer = json.loads(
        script("faults", "--commands", "import", "--faults", "asked to end,no input,answer to a full device")
    )
    assert [row["exit"] for row in answer["rows"]] == [143, 2, 2]
    assert answer["rows"][2]["says"] == ["remoe-sim: the answer cannot be written: no space left on device"]


@pytest.mark.heavy
def test_a_sample_of_a_model_that_is_tuned():
    answer = json.loads(
        script("faults", "--commands", "finetune", "--faults", "asked to end,full disk,unreadable input")
    )
    assert [row["exit"] for row in answer["rows"] if "exit" in row] in ([143, 2, 2], [143, 2])  # without a small disk


@pytest.mark.heavy("numba")  # takes long
def test_a_sample_of_kernels():
    answer = json.loads(script("kernel_faults", "--faults", "truncated file,damaged file"))
    assert [row["rows"] for row in answer["rows"]] == ["right", "right"]


@pytest.mark.once
@pytest.mark.parametrize("name", ["faults", "kernel_faults"])
def test_the_docs_have_the_table_of_the_kept_run(name):
    kept = RESULTS / f"{name}.json"
    assert all(row.get("fine", True) for row in json.loads(kept.read_text())["rows"])
    assert script(name, "--table", "--output", kept).strip() in (ROOT / "docs" / "robustness.md").read_text()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "file.txt"
    with replacing(target) as beside:
        beside.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(target) as beside:
        beside.write_text(f"half {1 // 0}")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_killed_writers_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    target, other = tmp_path / "file.txt", tmp_path / ".file.txt.backup"
    left = tmp_path / ".file.txt.99999-0badcafe.part"
    left.write_text("half")
    other.write_text("mine")
    with replacing(target) as first:
        assert not left.exists()
        first.write_text("first")
        with replacing(target) as second:  # somebody else at the same time
            assert first.exists()
            second.write_text("second")
        assert target.read_text() == "second"
    assert target.read_text() == "first"
    assert sorted(one.name for one in tmp_path.iterdir()) == [".file.txt.backup", "file.txt"]


def test_a_part_that_somebody_took_for_abandoned_is_begun_again(tmp_path, monkeypatch):
    lock, taken = files.lock, []

    def too_late(file):
        if not taken:
            taken.append(file.name)
            os.unlink(file.name)
        return lock(file)

    monkeypatch.setattr(files, "lock", too_late)
    with replacing(tmp_path / "file.txt") as beside:
        beside.write_text("whole")
    assert (tmp_path / "file.txt").read_text() == "whole"
    assert taken != []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named_and_other_errors_stay_what_they_are(tmp_path, number):
    with (
        pytest.raises(OSError, match=r"file.txt' cannot be written: .*; make room there"),
        replacing(tmp_path / "file.txt"),
    ):
        raise OSError(number, "too much")
    with pytest.raises(FileNotFoundError, match="input"), replacing(tmp_path / "file.txt"):
        raise FileNotFoundError(errno.ENOENT, "is not there", "input")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_to(tmp_path):
    (tmp_path / "folder").mkdir()
    for path, said in (
        (tmp_path / "missing" / "t.parquet", r"there is no folder '.*missing'; make it, or name another place"),
        (tmp_path / "folder", "is a directory; name a file"),
    ):
        with pytest.raises(OSError, match=said):
            remoe_sim.write_trace(remoe_sim.synth(tokens=50, layers=1), path)
    with pytest.raises(OSError, match="there is no folder"):
        remoe_sim.sweep(remoe_sim.synth(tokens=50, layers=1), "lru", cache=2, output=tmp_path / "missing" / "s.parquet")


def test_a_sweep_that_another_has_finished_meanwhile_does_not_write_beside_it(tmp_path, monkeypatch):
    """Its lock has no name any more, so a third would not see it."""
    from remoe_sim.studies.sweep import file as file_module
    from remoe_sim.util import files

    def gone(file):
        os.unlink(file.name)
        return True

    monkeypatch.setattr(files, "lock", gone)
    with pytest.raises(ValueError, match="another sweep is writing"), file_module.alone(tmp_path / "s.parquet"):
        pass
