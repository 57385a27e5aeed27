"""Numbers as people read them: nothing is shown as 0 or 100 % that is not."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from remoe_sim.cli import main
from remoe_sim.util.units import decimal, percent
from tests.oracle.naive import DECODE, Row
from tests.support.strategies import Shape, trace_of
from tests.support.timed import with_dense


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [
        (614_388, 614_400, "99.998 %"), (614_399, 614_400, "99.9998 %"), (1, 614_400, "0.0002 %"), (1, 2, "50.00 %"),
        (0, 5, "0.00 %"), (5, 5, "100.00 %"), (0.4708, 1, "47.08 %"), (None, 1, "none"), (0, 0, "none"),
    ],
)  # fmt: skip
def test_percent(part, whole, shown):
    assert percent(part, whole) == shown


@given(st.integers(1, 10**12), st.integers(0, 10**12))
def test_only_nothing_is_0_and_only_everything_100_percent(whole, part):
    part %= whole + 1
    shown = float(percent(part, whole).removesuffix(" %"))
    assert (shown == 0) == (part == 0)
    assert (shown == 100) == (part == whole)


@given(st.floats(1e-9, 1e12), st.integers(1, 3))
def test_no_amount_is_shown_as_0(number, decimals):
    shown = float(decimal(number, decimals).replace(",", ""))
    assert shown == pytest.approx(number, rel=0.05, abs=0.5 * 10.0**-decimals)
    assert shown > 0
    assert decimal(0.0) == "0.00"


def test_shares_of_the_program_go_through_percent():
    """A share formatted by hand would be 100.00 % for 99.998 %."""
    root = Path(remoe_sim.__file__).parent
    for path in root.rglob("*.py"):
        if path.name != "units.py" and path.parent.name not in ("figures", "finetune"):
            by_hand = re.findall(r"\{100 \* [^}]*:\.[12]f\} %", path.read_text())
            errors_and_changes = [one for one in by_hand if "error" in one or "given" in one]
            assert by_hand == errors_and_changes, f"{path.name}: {by_hand}"


def test_a_plan_of_little_memory_shows_it(tmp_path):
    rows = [Row(1, n, n, DECODE, [[n % 8], [n % 3]]) for n in range(20)]
    remoe_sim.write_trace(with_dense(trace_of(rows, Shape((8, 8), (1, 1), (3000, 3000)))), tmp_path / "t.parquet")
    for devices in ("rtx-4090", "rtx-4090,rtx-3090"):
        arguments = ["plan", str(tmp_path / "t.parquet"), "--device", devices, "--memory", "40KiB"]
        shown = CliRunner(env={"COLUMNS": "120"}).invoke(main, arguments).stdout
        assert "0.00 GiB" not in shown
        assert "KiB" in shown
    table = CliRunner(env={"COLUMNS": "120"}).invoke(main, [*arguments[:3], "rtx-4090", *arguments[4:]]).stdout
    row = next(line for line in table.splitlines() if line.startswith("all experts")).split()
    assert [float(cell) for cell in row[3:6] if float(cell)] != []
    assert float(row[3]) == pytest.approx(48_000 / 2**30, rel=0.05)
