"""Calibration: numbers that made runs are found again, files are read, what cannot be used is said."""

import csv
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim.cli import main
from remoe_sim.devices.calibrate import FITTABLE, fit_devices, predict_ms
from remoe_sim.devices.measured_runs import Run, model_card_of, quant_of, read_runs
from remoe_sim.util.cards import Fact

MODEL = "olmoe-1b-7b"


pytestmark = pytest.mark.once  # kernels are tested elsewhere, and interpreted this takes minutes


def runs_of(device, noise=(1.0,)):
    """Runs as a device would make them."""
    shapes = [(mib, lanes, overlap) for mib in (20, 100, 250) for lanes in (1, 4) for overlap in ("none", "layer")]
    made = []
    for number, (mib, lanes, overlap) in enumerate(shapes):
        run = Run(f"r{number}", "box", MODEL, "q4_k_m", 1.0, mib * 2**20, top_k=8, overlap=overlap, lanes=lanes)
        made.append(replace(run, tpot_ms=predict_ms(run, device) * noise[number % len(noise)]))
    return made


def changed(device, **values):
    return device.changed({name.replace("__", "."): Fact(value, "assumed", "test") for name, value in values.items()})


@pytest.mark.heavy("numba")  # takes long
def test_numbers_that_made_runs_are_found_again():
    start = remoe_sim.device("laptop")
    truth = changed(start, expert_s=4e-4, storage__bandwidth_bytes_per_s=2.2e9)
    answer = remoe_sim.calibrate(runs_of(truth), start, "expert_s,storage.bandwidth_bytes_per_s")
    assert [one.name for one in answer.fitted] == ["expert_s", "storage.bandwidth_bytes_per_s"]
    assert [one.value for one in answer.fitted] == pytest.approx([4e-4, 2.2e9], rel=1e-3)
    assert answer.median_error < 1e-4
    assert answer.device.facts["expert_s"].status == "fitted"
    assert "12 runs" in answer.device.fitted_from


@pytest.mark.heavy("numba")  # takes long
def test_an_outlier_moves_little_and_intervals_hold_the_truth():
    start = remoe_sim.device("laptop")
    truth = changed(start, expert_s=4e-4)
    runs = runs_of(truth, noise=(1.02, 0.98, 1.01, 0.99))
    runs[0] = replace(runs[0], tpot_ms=5 * runs[0].tpot_ms)
    (one,) = remoe_sim.calibrate(runs, start, ["expert_s"]).fitted
    assert one.value == pytest.approx(4e-4, rel=0.1)
    assert one.low < 4e-4 < one.high


def test_numbers_that_several_devices_share():
    slow, fast = remoe_sim.device("laptop"), remoe_sim.device("apple-m3-max")
    runs = [(run, one) for one in (slow, fast) for run in runs_of(changed(one, layer_s=7e-4))]
    facts, _ = fit_devices(runs, ["layer_s"])
    assert facts["layer_s"].value == pytest.approx(7e-4, rel=1e-3)


def test_compute_time_tells_waiting_and_computing_apart():
    start = remoe_sim.device("laptop")
    truth = changed(start, expert_s=4e-4, storage__latency_s=3e-4)
    runs = []
    for run in runs_of(truth):
        still = predict_ms(replace(run, bytes_per_token=0.0), truth)
        runs.append(replace(run, compute_ms=still))
    answer = remoe_sim.calibrate(runs, start, "expert_s,storage.latency_s")
    assert [one.value for one in answer.fitted] == pytest.approx([4e-4, 3e-4], rel=0.02)
    assert answer.median_error_with_compute < 0.01


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_table_of_runs_and_its_card(tmp_path):
    truth = changed(remoe_sim.device("laptop"), expert_s=4e-4)
    rows = [
        {
            "id": run.id, "hardware": "box", "model": "OLMoE 1B-7B (chat)", "quant": "Q4_K_M (imatrix)",
            "tpot_ms": run.tpot_ms, "MiB_read_per_token": run.bytes_per_token / 2**20, "topk_used": 8,
            "mode": f"{'serial' if run.overlap == 'none' else 'overlap'} {run.lanes} lanes",
        }
        for run in runs_of(truth)
    ]  # fmt: skip
    rows += [{**rows[0], "id": "other", "model": "GPT-2"}, {**rows[0], "id": "untimed", "tpot_ms": ""}]
    path, card = write(tmp_path / "runs.csv", rows), tmp_path / "mine.toml"
    arguments = ["calibrate", str(path), "--device", "laptop", "--fit", "expert_s", "-o", str(card)]
    answer = CliRunner().invoke(main, [*arguments, "--json"])
    assert answer.exit_code == 0, answer.output
    said = json.loads(answer.stdout)
    assert said["schema"] == "remoe-sim.calibrate.v1"
    assert said["fitted"][0]["value"] == pytest.approx(4e-4, rel=1e-3)
    assert [one["id"] for one in said["left_out"]] == ["other", "untimed"]
    assert "left out untimed: no time per token" in answer.stderr
    fitted = remoe_sim.device(card)
    assert fitted.expert_s == pytest.approx(4e-4, rel=1e-3)
    assert "runs.csv" in fitted.fitted_from
    assert "median absolute error" in CliRunner().invoke(main, arguments).stdout


def test_metrics_per_token(tmp_path):
    rows = [{"step": n, "wall_ms": 100 + n, "read_bytes": 2**20 * n, "stall_ms": 20} for n in range(1, 6)]
    path = write(tmp_path / "x.metrics", rows)
    path.write_text(path.read_text() + "# summary tokens=5\n")
    runs, left_out = read_runs(path, "olmoe-1b-7b", "q4_k_m", 8, "layer", 4)
    assert (len(runs), left_out) == (5, [])
    assert (runs[0].tpot_ms, runs[0].bytes_per_token, runs[0].compute_ms) == (101, 2**20, 81)
    with pytest.raises(ValueError, match="--model"):
        read_runs(path)


def test_names_in_published_tables():
    assert model_card_of("Qwen3-30B-A3B") == "qwen3-30b-a3b"
    assert model_card_of("/data/gpt-oss-120b-MXFP4.gguf") == "gpt-oss-120b"
    assert model_card_of("TurboSparse") is None
    assert quant_of("Q4_K_M (experts MXFP4)") == "q4_k_m"
    assert quant_of("HQQ 4-bit attn, 2-bit experts (2.6 bits/param)") == "bpw:2.6"
    assert quant_of("not stated") is None


@pytest.mark.parametrize(
    ("text", "arguments", "says"),
    [
        ("a,b\n1,2\n", {}, "columns a, b"),
        ("model,tpot_ms,hit_rate_pct\nolmoe-1b-7b,-5,50\n", {}, "line 2"),
        ("model,tpot_ms,hit_rate_pct\ngpt-2,5,50\n", {}, "no run that can be used"),
        ("model,tpot_ms,hit_rate_pct\nolmoe-1b-7b,5,50\n", {"fit": "charm"}, "charm"),
        ("model,tpot_ms,hit_rate_pct\nolmoe-1b-7b,5,50\n", {"fit": "host.latency_s"}, "host.latency_s"),
        ("model,tpot_ms,hit_rate_pct\nolmoe-1b-7b,5,50\n", {"fit": "expert_s,layer_s"}, "2 numbers"),
    ],
)
def test_what_is_not_possible_is_said_in_a_sentence(tmp_path, text, arguments, says):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        remoe_sim.calibrate(path, "laptop", **arguments)


@pytest.mark.parametrize("factor", [1e-9, 1e12])
@pytest.mark.parametrize("name", FITTABLE)
def test_no_fit_leaves_what_a_card_may_say(name, factor, tmp_path):
    """Runs so fast or so slow that a number would have to be beyond anything: the card stays one that is read."""
    start = remoe_sim.device("rtx-4090") if name.startswith("host") else remoe_sim.device("laptop")
    place = "host" if name.startswith("host.") else "cpu" if name.startswith("host") else "storage"
    runs = [replace(run, tpot_ms=factor * run.tpot_ms) for run in runs_of(start)]
    answer = remoe_sim.calibrate(runs, start, [name], misses_from=place)
    answer.device.to_toml(tmp_path / "mine.toml")
    again = remoe_sim.device(tmp_path / "mine.toml")
    assert again.facts[name].value == answer.fitted[0].value


def test_a_number_that_the_runs_say_nothing_of_is_not_determined():
    start = remoe_sim.device("laptop")
    answer = remoe_sim.calibrate(runs_of(start), start, "expert_s,state_bytes_per_s")  # olmoe has no such state
    assert [one.low is None for one in answer.fitted] == [False, True]
