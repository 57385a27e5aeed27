"""`verify`: what a sweep wrote is found again bit for bit, and whatever was changed is named."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli
from remoe_sim.studies.sweep.file import COLUMNS
from tests.oracle.naive import DECODE, Row
from tests.support.strategies import Shape, trace_of
from tests.support.timed import with_dense
from tests.support.user_policies import FEWEST_HITS

pytestmark = pytest.mark.once  # kernels are tested elsewhere, and interpreted this takes minutes

SHAPE = Shape((5, 5), (2, 1), (10, 20))
ROWS = [Row(at // 4, at % 4, at, DECODE, [[at % 5, (at + 2) % 5], [at % 3]]) for at in range(12)]


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """A sweep of everything that a row can say, in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    remoe_sim.write_trace(with_dense(trace_of(ROWS, SHAPE)), "t.parquet")
    given = {"device": "oneplus-15r", "overlap": "none", "context": 9, "warmup": 1}
    return remoe_sim.sweep(
        "t.parquet", "lru,fifo", "0,3", "40%", "layer,global", "trace,2", **given, output="s.parquet"
    )


def changed(column, value, row=0, path="s.parquet"):
    """The file with one value changed; its version and all else are as they were."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[row][column] = value
    pq.write_table(pa.Table.from_pylist(rows, COLUMNS), path)


def run(*arguments):
    return CliRunner().invoke(cli.main, ["verify", *arguments], catch_exceptions=False)


def test_all_cells_are_found_again(swept):
    answer = remoe_sim.verify("s.parquet", sample="all")
    assert answer.equal
    assert (answer.rows, answer.checked) == (len(swept), tuple(range(len(swept))))
    assert "24 cells of 24 computed anew, all equal bit for bit" in repr(answer)
    done = run("s.parquet", "--sample", "3", "--seed", "5")
    assert (done.exit_code, done.stdout) == (0, "s.parquet: 3 cells of 24 computed anew, all equal bit for bit\n")
    one, other, same = (remoe_sim.verify("s.parquet", sample=3, seed=seed).checked for seed in (5, 6, 5))
    assert one == same != other


@pytest.mark.parametrize("column", ["hits", "hit_rate", "tpot_ms_mean", "optimal", "capacity_share", "bytes_read"])
def test_any_value_that_was_changed_is_named(swept, column):
    """Also in its last bit."""
    rows = pq.read_table("s.parquet").to_pylist()
    number = next(at for at, row in enumerate(rows) if row[column] or column == "optimal")
    old = rows[number][column]
    new = not old if isinstance(old, bool) else old + 1 if isinstance(old, int) else old * (1 + 2**-52)
    assert new != old
    changed(column, new, number)
    done = run("s.parquet", "--sample", "all")
    assert done.exit_code == 1
    assert f"first difference: row {number} (trace t.parquet, " in done.stderr
    assert f"): {column} is {new!r}, and {old!r} computed anew" in done.stderr
    answer = json.loads(run("s.parquet", "--sample", "all", "--json").stdout)
    assert (answer["schema"], answer["equal"], answer["version"]) == (
        "remoe-sim.verify.v1", False, remoe_sim.__version__,
    )  # fmt: skip
    (difference,) = answer["differences"]
    assert (difference["row"], difference["column"], difference["recorded"]) == (number, column, new)


def test_a_row_with_another_name_does_not_pass(swept):
    changed("policy", "lfu")
    done = run("s.parquet", "--sample", "all")
    assert done.exit_code == 1
    assert ": key is " in done.stderr
    assert "its names were changed, or its policy, card, sizes or training trace were others" in done.stderr


def test_traces_that_are_gone_changed_or_elsewhere(swept, tmp_path):
    (tmp_path / "t.parquet").rename(tmp_path / "moved.parquet")
    with pytest.raises(remoe_sim.TraceError, match=r"t\.parquet: there is no such file"):
        run("s.parquet")
    assert run("s.parquet", "moved.parquet", "--sample", "4").exit_code == 0
    with pytest.raises(ValueError, match=r"none of the traces that are given is that of 't.parquet' \(xxh3:"):
        run("s.parquet", "sample:qwen-original")
    other = [*ROWS[:-1], Row(2, 3, 11, DECODE, [[0, 1], [3]])]
    remoe_sim.write_trace(with_dense(trace_of(other, SHAPE)), "t.parquet")
    with pytest.raises(remoe_sim.TraceError, match=r"it is another trace than the rows were made of \(xxh3:"):
        run("s.parquet")


def test_rows_of_another_version_and_files_that_are_no_sweep(swept):
    changed("version", "0.0.9")
    with pytest.raises(ValueError, match=r"row 0 was made by remoe-sim 0.0.9, and this is .*; install that version"):
        run("s.parquet", "--sample", "all")
    with pytest.raises(ValueError, match=r"'t\.parquet' is there and is no sweep of this release"):
        run("t.parquet")
    with pytest.raises(ValueError, match=r"sample .* '0' is not possible"):
        run("s.parquet", "--sample", "0")


def test_what_a_row_does_not_say_is_given_again(tmp_path, monkeypatch):
    """A policy in a file, a trace that a policy learns from, sizes that the trace does not have."""
    monkeypatch.chdir(tmp_path)
    remoe_sim.write_trace(trace_of(ROWS, Shape((5, 5), (2, 1), None)), "t.parquet")
    remoe_sim.write_trace(trace_of(ROWS[:5], Shape((5, 5), (2, 1), None)), "other.parquet")
    (tmp_path / "mine.py").write_text(FEWEST_HITS)
    given = {"expert_bytes": "7B", "train": "other.parquet"}
    remoe_sim.sweep("t.parquet", "./mine.py,static", "2", admission="bypass", **given, output="s.parquet")
    assert remoe_sim.verify("s.parquet", sample="all", policy="./mine.py", **given).equal
    for name in given:  # without it, it is another row
        less = {key: value for key, value in given.items() if key != name}
        if name == "train":
            with pytest.raises(ValueError, match="'static' learns from another trace"):
                remoe_sim.verify("s.parquet", sample="all", policy="./mine.py", **less)
        else:
            answer = remoe_sim.verify("s.parquet", sample="all", policy="./mine.py", **less)
            assert {one.column for one in answer.differences} >= {"key", "bytes_read"}
    with pytest.raises(ValueError, match="unknown policy 'fewest-hits'"):
        remoe_sim.verify("s.parquet", sample="all", **given)


def test_the_rows_that_are_verified_are_all_columns(swept):
    assert set(swept.columns) == set(COLUMNS.names)
    assert pd.read_parquet("s.parquet")["key"].is_unique
