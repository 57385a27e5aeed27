"""The benchmark of fidelity runs to its end, and the README's figures are those of its kept result."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT, KEPT = ROOT / "benchmarks" / "fidelity.py", ROOT / "benchmarks" / "results" / "fidelity.json"


def run(*arguments):
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.once
def test_the_quick_form_runs_to_its_end(tmp_path):
    answer = json.loads(run("--quick", "--json", "--output", str(tmp_path / "f.json")))
    assert json.loads((tmp_path / "f.json").read_text()) == answer
    assert answer["quick"]
    kept = json.loads(KEPT.read_text())
    assert {row["engine"] for row in answer["rows"]} == {row["engine"] for row in kept["rows"]}
    whole = {row["id"]: row for row in kept["rows"]}
    for row in answer["rows"]:
        assert row["blind_ms"] == pytest.approx(whole[row["id"]]["blind_ms"], rel=0.02)
    assert answer["left_out"] == kept["left_out"]


@pytest.mark.heavy("numba")
def test_the_kept_result_is_what_it_prints():
    answer, kept = json.loads(run("--json")), json.loads(KEPT.read_text())
    for group in ("all", "phone_and_laptop"):
        for key, one in kept[group].items():
            assert answer[group][key]["rows"] == one["rows"]
            for name in ("median", "p90"):
                assert answer[group][key][name] == pytest.approx(one[name], abs=0.005)


def test_the_readme_says_what_was_kept():
    kept = json.loads(KEPT.read_text())
    assert not kept["quick"]
    text = " ".join((ROOT / "README.md").read_text().split())
    found = re.search(
        r"predicts (\d+) published runs.*?median absolute error is (\d+) % and the 90th percentile (\d+) % \((\d+) runs"
        r".*?the median is (\d+) % and the 90th percentile (\d+) %",
        text,
    )
    given, blind = kept["all"]["given_error"], kept["all"]["blind_error"]
    rounded = [round(100 * one[name]) for one in (given, blind) for name in ("median", "p90")]
    expected = [len(kept["rows"]), *rounded[:2], given["rows"], *rounded[2:]]
    assert [int(number) for number in found.groups()] == expected
