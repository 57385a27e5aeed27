"""Output files say what they are, and a memory of a few bytes is asked about."""

import numpy as np
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim.cache.settings import Limit
from remoe_sim.cli import main
from remoe_sim.util.units import parse_bytes


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


@pytest.mark.parametrize("size", ["3", "3MiB,3,3MiB,3MiB"])
def test_a_bare_size_of_experts_is_asked_about(size, tmp_path):
    with pytest.raises(ValueError, match=r"expert_bytes '3' would be 3 bytes.* was 3MiB meant\? \(3B is 3 bytes\)"):
        remoe_sim.replay("sample:qwen-original", cache=8, expert_bytes=size)
    np.savez(tmp_path / "t.npz", experts=np.zeros((5, 2, 1), np.uint8))
    with pytest.raises(ValueError, match=r"was 3MiB meant\?"):
        remoe_sim.import_trace(tmp_path / "t.npz", expert_bytes=size)


def test_sizes_of_bytes_are_taken_with_their_unit_and_as_numbers():
    given = [remoe_sim.replay("sample:qwen-original", cache=8, policy="lru", expert_bytes=one) for one in ("3B", 3)]
    assert given[0].results[0].bytes_read == given[1].results[0].bytes_read


@pytest.mark.parametrize(("text", "size"), [("16G", 16 * 2**30), ("16m", 2**24), ("1.5 K", 1536), ("1T", 2**40)])
def test_letters_alone_are_powers_of_two(text, size):
    assert parse_bytes(text) == size
