"""Every benchmark script has a quick form, and it runs to its end."""

import re

import pytest

from tests.support.scripts import ROOT, benchmark

FOLDER = ROOT / "benchmarks"
TESTED_ELSEWHERE = {"emulator.run", "fidelity.fidelity", "paper.train"}  # tests of their own run their quick forms


def scripts():
    """Names of all modules below `benchmarks` that can be run."""
    paths = [path for path in sorted(FOLDER.rglob("*.py")) if '__name__ == "__main__"' in path.read_text("utf-8")]
    return [".".join(path.relative_to(FOLDER).with_suffix("").parts) for path in paths]


def kept():
    """Contents of all files that scripts have kept."""
    return {path: path.read_bytes() for path in (FOLDER / "results").iterdir()}


def test_scripts_are_found():
    found = scripts()
    assert {"audit", "speed.roofline", "faults.faults", *TESTED_ELSEWHERE} <= set(found)
    assert len(found) > 30


@pytest.mark.heavy("numba")  # takes long
@pytest.mark.parametrize("name", [name for name in scripts() if name not in TESTED_ELSEWHERE])
def test_the_quick_form_runs_to_its_end(name):
    before = kept()
    assert benchmark(name, "--quick", timeout=300).strip()
    assert kept() == before


def test_nothing_changes_where_modules_are_looked_for():
    for folder in (FOLDER, ROOT / "tests"):
        for path in folder.rglob("*.py"):
            assert not re.search(r"sys\.path\.(insert|append|extend)|sys\.path *\+?= ", path.read_text("utf-8")), path
