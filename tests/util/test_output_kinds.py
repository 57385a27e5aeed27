"""Output files say what they are, and a memory of a few bytes is asked about."""

import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim.cache.settings import Limit
from remoe_sim.cli import main


@pytest.mark.parametrize("name", ["x.csv", "x.JSON", "x.html"])
def test_a_trace_is_refused_a_name_of_another_kind(tmp_path, name):
    with pytest.raises(ValueError, match=r"a trace ends in \.parquet: give '.*x\.parquet'"):
        remoe_sim.write_trace(remoe_sim.read_trace("sample:qwen-original"), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.pdf", "x.parquet"])
def test_a_report_is_refused_a_name_of_another_kind(tmp_path, name):
    shown = CliRunner().invoke(main, ["report", "sample:qwen-original", "-o", str(tmp_path / name)])
    assert isinstance(shown.exception, ValueError)  # `cli.run` makes it a sentence and exit code 2
    assert "a report ends in .html" in str(shown.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("memory", ["16", " 8 "])
def test_a_bare_memory_is_asked_about(memory):
    shown = CliRunner().invoke(main, ["replay", "sample:qwen-original", "--memory", memory])
    assert isinstance(shown.exception, ValueError)
    assert f"was {memory.strip()}GiB meant?" in str(shown.exception)


def test_a_memory_of_bytes_with_their_unit_is_taken():
    assert Limit.of(None, None, "16B").budget == 16
