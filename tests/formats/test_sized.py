"""Sizes by the name of a model: in an import, and in a replay without a device."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import TraceError, import_trace
from remoe_sim.cli import main
from tests.support.tiny_gguf import save_tiny_gguf

NAME = "qwen1.5-moe-a2.7b"


@pytest.fixture
def recording(tmp_path):
    ids = np.argsort(np.random.default_rng(1).random((30, 24, 60)), axis=2)[:, :, :4]
    np.savez(tmp_path / "r.npz", experts=ids.astype(np.uint8))
    return tmp_path / "r.npz"


def test_an_import_takes_sizes_by_name(recording, tmp_path):
    output = tmp_path / "t.parquet"
    line = ["import", str(recording), "-o", str(output), "--model", NAME, "--quant", "q4_k_m"]
    done = CliRunner().invoke(main, line, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    right, found = remoe_sim.model(NAME, "q4_k_m"), remoe_sim.read_trace(output).model
    assert (found.expert_bytes, found.dense_bytes) == (right.expert_bytes, right.dense_bytes)
    assert (found.name, found.quant, found.layers) == (NAME, "q4_k_m", right.layers)
    assert "largest id" not in remoe_sim.read_trace(output).notes


def test_sizes_without_a_quantisation_are_not_guessed(recording):
    trace = import_trace(recording, model=NAME)
    assert trace.model.expert_bytes is None
    assert "those of a quantisation (--quant NAME)" in trace.notes


def test_a_size_that_is_given_goes_before(recording):
    trace = import_trace(recording, model=NAME, quant="q4_k_m", expert_bytes="3MiB", name="mine")
    assert set(trace.model.expert_bytes) == {3 * 2**20}
    assert trace.model.name == "mine"


def test_a_model_that_does_not_fit_is_refused(recording):
    with pytest.raises((ValueError, TraceError), match="mixtral"):
        import_trace(recording, model="mixtral-8x7b", axes="tokens,layers,k", experts=60)


@pytest.mark.heavy("gguf")
def test_a_gguf_file_has_sizes_of_its_own(tmp_path):
    pytest.importorskip("gguf")
    save_tiny_gguf(tmp_path / "m.gguf")
    sized = remoe_sim.model(tmp_path / "m.gguf")
    shape = (9, len(sized.moe_layers), sized.experts)
    ids = np.argsort(np.random.default_rng(1).random(shape), axis=2)[:, :, : sized.top_k]
    trace = remoe_sim.from_arrays(ids, model=tmp_path / "m.gguf")
    assert trace.model.expert_bytes == sized.expert_bytes


def test_a_replay_takes_sizes_by_name_and_needs_no_device(recording, tmp_path):
    remoe_sim.write_trace(import_trace(recording, experts=60), tmp_path / "t.parquet")
    line = ["replay", str(tmp_path / "t.parquet"), "--cache", "8", "--policy", "lru", "--json"]
    done = CliRunner().invoke(main, [*line, "--model", NAME, "--quant", "q4_k_m"], catch_exceptions=False)
    (found,) = json.loads(done.stdout)["results"]
    assert found["bytes_read"] == found["misses"] * remoe_sim.model(NAME, "q4_k_m").expert_bytes[0] or (
        len(set(remoe_sim.model(NAME, "q4_k_m").expert_bytes)) > 1 and found["bytes_read"] > 0
    )
    assert found["device_run"] is None
    assert f"experts are as large as those of {NAME} in q4_k_m" in done.stderr
    by_budget = remoe_sim.replay(tmp_path / "t.parquet", budget="2GiB", policy="lru", model=NAME, quant="q4_0")
    assert by_budget.results[0].bytes_read > 0


def test_bytes_by_name_are_those_of_sizes_that_are_given(recording):
    trace = import_trace(recording, experts=60)
    sizes = list(remoe_sim.model(NAME, "q4_k_m").expert_bytes)
    by_name = remoe_sim.replay(trace, cache=8, model=NAME, quant="q4_k_m")
    by_size = remoe_sim.replay(trace, cache=8, expert_bytes=sizes)
    assert [one.bytes_read for one in by_name] == [one.bytes_read for one in by_size]


def test_a_trace_keeps_its_own_sizes_unless_a_quantisation_is_named(recording):
    trace = import_trace(recording, experts=60, expert_bytes=7)
    report = remoe_sim.replay(trace, cache=8, model=NAME, policy="lru")
    assert report.results[0].bytes_read == 7 * report.results[0].misses
    assert "its own sizes" in report.sizes_of
