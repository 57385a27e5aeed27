"""What fits in rows of sweeps, in their files, old ones too, and in figures."""

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli, figures
from remoe_sim.studies.sweep.file import ADDED, read_frame
from remoe_sim.util.cards import Fact

SAMPLE = "sample:qwen-original"
MIB = 2**20

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The card of a device with 10 MiB."""
    path = tmp_path_factory.mktemp("cards") / "small.toml"
    facts = {name: Fact(size, "measured", "a test") for name, size in (("usable_bytes", 10 * MIB), ("system_bytes", 0))}
    remoe_sim.device("jetson-orin-nano-8gb").changed(facts, name="small").to_toml(path)
    return str(path)


@pytest.fixture(scope="module")
def rows(small, tmp_path_factory):
    """A sweep with its file: four caches of 4 to 32 experts per layer, on a small device and on a large one."""
    path = tmp_path_factory.mktemp("sweep") / "sweep.parquet"
    frame = remoe_sim.sweep(SAMPLE, "lru", cache="4,8,16,32", device=[small, "jetson-orin-nano-8gb"], output=path)
    return frame, path


def test_rows_say_what_a_replay_says(rows, small):
    frame, path = rows
    assert str(frame["fits"].dtype) == "boolean"
    for row in frame.itertuples():
        card = small if row.device == "small" else row.device
        fit = remoe_sim.replay(SAMPLE, cache=row.capacity, policy="lru", device=card)["lru"].fit
        assert (row.fits, row.missing_bytes, row.room_bytes) == (fit.fits, fit.missing_bytes, fit.room_bytes)
    on_small = frame[frame["device"] == "small"]
    assert list(on_small["fits"]) == [True, True, False, False]
    assert frame[frame["device"] != "small"]["fits"].all()
    beyond = on_small["capacity_bytes"] - on_small["room_bytes"]
    assert list(on_small["missing_bytes"]) == list(beyond.clip(lower=0))
    pd.testing.assert_frame_equal(read_frame(path), frame, check_like=False)


def test_rows_without_a_device_do_not_know():
    frame = remoe_sim.sweep(SAMPLE, "lru", cache="8")
    assert frame[list(ADDED)].isna().all(axis=None)


def test_a_file_without_these_columns_is_read_verified_and_extended(rows, small, tmp_path):
    table = pq.read_table(rows[1])
    old = tmp_path / "old.parquet"
    pq.write_table(table.drop_columns(list(ADDED)), old, write_page_checksum=True)
    frame = read_frame(old)
    assert len(frame) == 8
    assert frame[list(ADDED)].isna().all(axis=None)
    pd.testing.assert_frame_equal(frame.drop(columns=list(ADDED)), rows[0].drop(columns=list(ADDED)))
    assert remoe_sim.verify(old, sample=2, device=small).equal
    assert len(figures.tpot(frame).axes) == 2
    more = remoe_sim.sweep(SAMPLE, "lru", cache="4,8,16,24,32", device=[small, "jetson-orin-nano-8gb"], output=old)
    assert len(more) == 10
    assert more["fits"].isna().sum() == 8  # what is in the file is not computed again


def test_a_file_that_lacks_another_column_is_none_of_ours(rows, tmp_path):
    bad = tmp_path / "bad.parquet"
    pq.write_table(pq.read_table(rows[1]).drop_columns(["hits"]), bad)
    with pytest.raises(ValueError, match="is no sweep of this release"):
        read_frame(bad)


def test_the_command_says_how_many_rows_do_not_fit(small):
    words = ["sweep", SAMPLE, "--policy", "lru", "--cache", "8,16,32", "--device", small, "--json"]
    answer = CliRunner().invoke(cli.main, words)
    assert answer.exit_code == 0, answer.output
    assert [row["fits"] for row in json.loads(answer.stdout)["rows"]] == [True, False, False]
    assert answer.stderr.count("remoe-sim: 2 of 3 rows do not fit in memory (small)") == 1
    assert CliRunner().invoke(cli.main, [*words, "--strict"]).exit_code == 3
    words[words.index("8,16,32")] = "8"
    fitting = CliRunner().invoke(cli.main, [*words, "--strict"])
    assert fitting.exit_code == 0
    assert "do not fit" not in fitting.stderr


def test_a_line_is_where_the_memory_is_full(rows):
    frame, _ = rows
    page = figures.tpot(frame)
    for axes, (_, own) in zip(page.axes, frame.groupby("device", sort=False), strict=True):
        upright = [line for line in axes.get_lines() if line.get_label() == "the device's memory is full"]
        if own["device"].iloc[0] == "small":
            assert [line.get_xdata()[0] for line in upright] == [own["room_bytes"].iloc[0] / MIB]
        else:
            assert not upright
