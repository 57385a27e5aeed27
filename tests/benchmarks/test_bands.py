"""The table of errors is that of the kept results, and bands hold as many left-out runs as they say."""

import csv
import json

import numpy as np
import pytest

from benchmarks.fidelity.errors import inside_of, runs_of, text_of
from benchmarks.fidelity.speeds import HERE, PRIORS, fitted, predicted, read_speeds
from remoe_sim.devices.band import LEAST_RUNS
from remoe_sim.devices.engine import engine
from tests.support.scripts import ROOT

pytestmark = pytest.mark.once
KEPT = json.loads((ROOT / "benchmarks" / "results" / "speeds.json").read_text("utf-8"))


def test_the_table_that_the_package_has_is_that_of_the_kept_results():
    assert (ROOT / "remoe_sim" / "devices" / "errors.csv").read_text("utf-8") == text_of(runs_of())


def test_bands_hold_left_out_runs():
    answer = inside_of(runs_of())
    assert 0.75 <= answer["inside"] <= 0.87
    assert all(one["inside"] >= 0.6 for one in answer["by_class"].values() if one["runs"] >= LEAST_RUNS)


def test_every_row_is_predicted_or_left_out_with_a_reason():
    with (HERE / "speeds.csv").open(encoding="utf-8", newline="") as file:
        rows = [row["id"] for row in csv.DictReader(file)]
    assert sorted(rows) == sorted(one["id"] for one in KEPT["rows"] + KEPT["left_out"])
    assert all(one["reason"] for one in KEPT["left_out"])


def test_kept_predictions_are_made_without_their_configuration():
    speeds, _ = read_speeds(HERE / "speeds.csv")
    kept = {row["id"]: row for row in KEPT["rows"]}
    one = next(each for each in speeds if each.id == "N041")
    others = fitted([other for other in speeds if other.configuration != one.configuration])
    assert 1e3 * predicted(one, others) == pytest.approx(kept[one.id]["engine_ms"], rel=1e-3)


def test_numbers_that_made_speeds_are_found_again():
    speeds, _ = read_speeds(HERE / "speeds.csv")
    resident = [one for one in speeds if one.engine == "llama.cpp" and one.kind == "cuda" and not one.cpu_layers]
    true = {("share", "llama.cpp", "cuda"): 0.6, ("layer_s", "llama.cpp"): 9e-5}
    made = [type(one)(**{**vars(one), "seconds": predicted(one, true)}) for one in resident]
    found = fitted(made)
    for name, value in true.items():
        nearer = abs(np.log(found[name] / value)) < 0.3 * abs(np.log(PRIORS[name[0]][0] / value))
        assert nearer, (name, found[name])


@pytest.mark.parametrize("name", ["llama.cpp", "vllm", "ktransformers"])
def test_cards_of_engines_have_the_fitted_numbers(name):
    card, numbers = engine(name), KEPT["fitted"]
    assert card.layer_s == pytest.approx(numbers[f"layer_s.{name}"], rel=0.01)
    for kind, families in card.share.items():
        assert families["any"] == pytest.approx(numbers[f"share.{name}.{kind}"], rel=0.01)
    if card.cpu_share_of_matvec is not None:
        assert card.cpu_share_of_matvec == pytest.approx(numbers[f"cpu_share.{name}"], rel=0.01)
