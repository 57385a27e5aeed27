"""The benchmark of fidelity runs to its end, and its kept result is what it prints."""

import json
from pathlib import Path

import pytest

from tests.support.scripts import benchmark

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "benchmarks" / "results" / "fidelity.json"


@pytest.mark.once
def test_the_quick_form_runs_to_its_end(tmp_path):
    answer = json.loads(benchmark("fidelity.fidelity", "--quick", "--json", "--output", str(tmp_path / "f.json")))
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
    answer, kept = json.loads(benchmark("fidelity.fidelity", "--json")), json.loads(KEPT.read_text())
    for group in ("all", "phone_and_laptop"):
        for key, one in kept[group].items():
            assert answer[group][key]["rows"] == one["rows"]
            for name in ("median", "p90"):
                assert answer[group][key][name] == pytest.approx(one[name], abs=0.005)


def test_what_was_kept_is_the_whole():
    assert not json.loads(KEPT.read_text())["quick"]
