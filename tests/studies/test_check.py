"""Measured runs next to their estimates: every layout that is read, what is inside, what cannot be checked."""

import csv
import io
import json

import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim.cli import main
from remoe_sim.util.errors import TraceError
from tests.support.scripts import ROOT

BENCH = {
    "model_filename": "/models/Qwen3-30B-A3B-Q4_K_M.gguf", "model_type": "qwen3moe 30B.A3B Q4_K - Medium",
    "gpu_info": "NVIDIA GeForce RTX 4090", "n_prompt": 0, "n_gen": 128, "n_depth": 0, "avg_ts": 180.0, "n_cpu_moe": 0,
}  # fmt: skip
TABLE = """
| model                          |      size |  params | backend | ngl |  test |           t/s |
| ------------------------------ | --------: | ------: | ------- | --: | ----: | ------------: |
| qwen3moe 30B.A3B Q4_K - Medium | 17.28 GiB | 30.53 B | CUDA    |  99 | pp512 | 5000.0 ± 10.0 |
| qwen3moe 30B.A3B Q4_K - Medium | 17.28 GiB | 30.53 B | CUDA    |  99 | tg128 |  180.0 ± 1.11 |
"""


def as_csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{**BENCH, "n_prompt": 512, "n_gen": 0, "avg_ts": 5000}, BENCH]),
        "\n".join(json.dumps(one) for one in [{**BENCH, "n_prompt": 512, "n_gen": 0}, BENCH]),
        as_csv([{**BENCH, "n_prompt": 512, "n_gen": 0}, BENCH]),
        TABLE,
    ],
)
def test_what_llama_bench_writes(tmp_path, text):
    path = tmp_path / "bench"
    path.write_text(text, encoding="utf-8")
    (one,) = remoe_sim.check(path, device="rtx-4090").results
    given = remoe_sim.estimate("qwen3-30b-a3b", "rtx-4090", "q4_k_m", hit_rate=1, context=64)[0]
    assert one.measured_ms == pytest.approx(1e3 / 180)
    assert one.predicted.tpot_ms == pytest.approx(given.tpot_ms)
    assert one.inside is (given.band.low <= 1e3 / 180 <= given.band.high)


def test_the_hardware_names_the_card(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps([{**BENCH, "n_cpu_moe": 20}]))
    (one,) = remoe_sim.check(path).results
    given = remoe_sim.estimate("qwen3-30b-a3b", "rtx-4090", "q4_k_m", cpu_moe_layers=20, context=64)[0]
    assert one.predicted.tpot_ms == pytest.approx(given.tpot_ms)
    name, factor = one.explained_by or (None, None)  # the CPU would have to be far quicker
    assert name is None or factor < 1


def test_a_run_as_estimated_is_inside_and_what_explains_another_does(tmp_path):
    given = remoe_sim.estimate("qwen3-30b-a3b", "rtx-3060", "q4_k_m", hit_rate=0.9)[0]
    row = {"model": "qwen3-30b-a3b", "quant": "q4_k_m", "device": "rtx-3060", "hit_rate_pct": 90, "context": 512}
    path = tmp_path / "rows.csv"
    path.write_text(as_csv([{**row, "tpot_ms": given.tpot_ms}, {**row, "tpot_ms": 100 * given.tpot_ms}]))
    same, slow = remoe_sim.check(path).results
    assert (same.inside, slow.inside) == (True, False)
    assert same.explained_by[1] == pytest.approx(1)
    name, factor = slow.explained_by
    parts = given.times.parts_ms
    assert parts[name] == max(parts.values())
    assert given.tpot_ms + (factor - 1) * parts[name] == pytest.approx(slow.measured_ms)
    shown = CliRunner().invoke(main, ["check", str(path)])
    assert shown.stdout.startswith("1 of 2 runs inside the band")
    found = json.loads(CliRunner().invoke(main, ["check", str(path), "--json"]).stdout)
    assert (found["schema"], found["runs"], found["inside"]) == ("remoe-sim.check.v1", 2, 1)


def test_three_quarters_of_published_speeds_are_inside():
    report = remoe_sim.check(ROOT / "benchmarks" / "fidelity" / "speeds.csv")
    assert len(report) + len(report.left_out) == 42
    assert len(report) >= 34
    assert report.inside >= 0.75 * len(report)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no decode run"),
        ("{", "it is no JSON"),
        ("model,tok_s\nqwen3-30b-a3b,fast\n", "tok_s is 'fast'; give a number"),
        ("model,tok_s\nqwen3-30b-a3b,3\n", "no card for device 'none'"),
        ("model,device,tok_s\nllama-3-8b,rtx-3060,3\n", "unknown model 'llama-3-8b'"),
        ("model,device\nqwen3-30b-a3b,rtx-3060\n", "it says no speed"),
    ],
)
def test_refused(tmp_path, text, says):
    path = tmp_path / "run"
    path.write_text(text)
    with pytest.raises(TraceError, match=says):
        remoe_sim.check(path)


def test_answers_of_servers(tmp_path):
    path = tmp_path / "answer.json"
    timings = {"prompt_n": 100, "cache_n": 12, "predicted_n": 64, "predicted_ms": 512.0, "predicted_per_second": 125.0}
    path.write_text(json.dumps({"model": "Qwen3-30B-A3B-Q4_K_M.gguf", "timings": timings, "content": "..."}))
    (one,) = remoe_sim.check(path, device="rtx-4090").results
    assert (one.measured_ms, one.predicted.said["context"], one.predicted.model.quant) == (8.0, 144, "q4_k_m")
    saved = {"model_id": "Qwen/Qwen3-30B-A3B", "completed": 10, "total_input_tokens": 1000, "total_output_tokens": 400,
             "median_tpot_ms": 9.5, "mean_tpot_ms": 11.0, "max_concurrency": 1}  # fmt: skip
    path.write_text(json.dumps(saved))
    (one,) = remoe_sim.check(path, device="rtx-4090", quant="awq").results
    assert (one.measured_ms, one.predicted.said["context"]) == (9.5, 120)
    path.write_text(json.dumps({**saved, "max_concurrency": 8}))
    with pytest.raises(remoe_sim.TraceError, match="it served several requests at once"):
        remoe_sim.check(path, device="rtx-4090", quant="awq")


def test_runs_are_written_so_that_they_can_be_checked_again(tmp_path):
    given, kept = tmp_path / "runs.csv", tmp_path / "mine.csv"
    given.write_text("id,model,quant,device,context,tok_s\na,qwen3-30b-a3b,q4_k_m,rtx-4090,512,150\n")
    done = CliRunner().invoke(main, ["check", str(given), "-o", str(kept)])
    assert done.exit_code == 0, done.output
    first, again = (remoe_sim.check(path).results[0] for path in (given, kept))
    assert (first.id, first.measured_ms) == (again.id, pytest.approx(again.measured_ms))
    assert first.predicted.tpot_ms == pytest.approx(again.predicted.tpot_ms)
