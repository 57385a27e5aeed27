"""Bytes, contexts and limits beyond what 64 bits count: refused in a sentence before any work, or counted exactly."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli
from remoe_sim.kernels import prefetch as columns
from remoe_sim.studies.prefetch_result import PrefetchCounts
from tests.support.data import DEMO

pytestmark = pytest.mark.once  # millions of lookups, which take minutes where kernels are interpreted

TIB = 2**40
K, EXPERTS, LAYERS = 64, 128, 64


def huge(tokens, sizes=None):
    """A trace whose tokens want K experts in every layer, none of which the token before wanted."""
    rng = np.random.default_rng(0)
    chosen = np.stack([rng.permutation(EXPERTS).astype(np.uint16).reshape(2, K)[at % 2] for at in range(tokens)])
    phase = np.ones(tokens, np.uint8)
    phase[: tokens // 4] = 0
    return remoe_sim.Trace(
        request=np.arange(tokens, dtype=np.int32) // 64, position=np.arange(tokens, dtype=np.int32) % 64,
        step=np.arange(tokens, dtype=np.int32), phase=phase, layer_numbers=tuple(range(LAYERS)),
        model=remoe_sim.Model((EXPERTS,) * LAYERS, (K,) * LAYERS, "huge", LAYERS, sizes, None),
        source=remoe_sim.InMemory([remoe_sim.Decisions(chosen)] * LAYERS),
    )  # fmt: skip


TOO_MANY = 2**63 // TIB // K // LAYERS  # tokens that read 2^63 bytes of experts of one TiB
COMMANDS = {
    "replay": ["--cache", "2"], "sweep": ["--cache", "2"], "tiers": ["--device-cache", "2", "--host-cache", "all"],
    "prefetch": ["--cache", "2"], "plan": ["--device", "oneplus-15r"], "split": ["--cache", "2"], "curve": [],
    "verdict": ["--cache", "2"], "report": ["--cache", "2"], "batches": ["--cache", "2"],
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("huge") / "huge.parquet"
    remoe_sim.write_trace(huge(TOO_MANY), path)
    return str(path)


def refused(*arguments):
    """The sentence with which a command ends."""
    done = CliRunner().invoke(cli.main, arguments)
    assert isinstance(done.exception, ValueError), done.output
    return str(done.exception)


@pytest.mark.parametrize("command", COMMANDS)
def test_more_bytes_than_can_be_counted_are_refused_before_any_work(command, file, tmp_path):
    options = [*COMMANDS[command], "--expert-bytes", "1TiB"]
    output = tmp_path / {"sweep": "sweep.parquet", "report": "report.html"}.get(command, "none")
    options += [] if output.name == "none" else ["-o", str(output)]
    assert re.search(r"more than 4611686018427387904 bytes.*--expert-bytes 3MiB", refused(command, file, *options))
    assert not output.exists()


def test_the_sentence_names_the_file(file):
    trace = remoe_sim.read_trace(file)
    with pytest.raises(remoe_sim.TraceError, match=r"huge.parquet: .* more than 4611686018427387904 bytes"):
        trace.with_sizes(TIB)


def test_what_is_allowed_is_counted_exactly():
    """Half of the bytes that are too many: no sum wraps round."""
    trace = huge(TOO_MANY // 2 - 2 * EXPERTS // K, (TIB,) * LAYERS)
    wanted = trace.tokens * K * LAYERS * TIB
    result = remoe_sim.replay(trace, cache=0, policy="lru")["lru"]
    assert result.bytes_read == wanted
    assert result.peak_resident_bytes > 0
    tiers = remoe_sim.tiers(trace, 0, host_cache=0, relation="independent")[0].counts
    assert tiers.storage_to_host_bytes == tiers.host_to_device_bytes == wanted
    row = remoe_sim.sweep(trace, policy="lru", cache=0).iloc[0]
    assert row.bytes_read == wanted


def test_guesses_may_be_more_than_lookups():
    table = np.zeros((2, columns.COLUMNS), np.int64)
    table[:, columns.LOADED] = table[:, columns.WASTED] = 2**24
    counts = PrefetchCounts.of(table, 1, np.array([TIB, TIB - 1]))
    assert counts.prefetch_bytes == counts.wasted_bytes == 2**24 * (2 * TIB - 1)


@pytest.mark.parametrize(
    ("command", "options", "says"),
    [
        ("replay", ["--cache", "2", "--device", "oneplus-15r", "--context", "9" * 18], "context '9+' is not possible"),
        ("plan", ["--device", "oneplus-15r", "--context", "9" * 18], "context '9+' is not possible"),
        ("replay", ["--cache", "2", "--device", "oneplus-15r", "--lanes", "9" * 18], "lanes '9+' is not possible"),
        ("split", ["--cache", "9" * 18], "a cache of 9+ experts"),
    ],
)
def test_numbers_that_overflow_later_are_refused(command, options, says):
    assert re.search(says, refused(command, DEMO, *options))


@pytest.mark.parametrize("name", ["batch", "context", "lanes"])
def test_estimate_refuses_them_too(name):
    with pytest.raises(ValueError, match=f"^{name} '9+' is not possible; give a whole number"):
        remoe_sim.estimate(model="qwen3-30b-a3b", device="oneplus-15r", **{name: int("9" * 18)})


def test_estimates_of_huge_models_do_not_wrap_round(tmp_path):
    shape = {"hidden_size": 10**8, "intermediate_size": 10**8, "num_hidden_layers": 40, "num_attention_heads": 8}
    shape |= {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 8, "vocab_size": 1000}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "mixtral", **shape}))
    result = remoe_sim.estimate(model=config, device="oneplus-15r", hit_rate=0.5).results[0]
    assert result.bytes_per_token == pytest.approx(0.5 * 40 * 8 * 3 * 10**16 * 2, rel=1e-6)
    read = result.costs.read_bytes(result.reads.far, result.reads.near) / result.reads.far.shape[0]
    assert read == pytest.approx(result.bytes_per_token, rel=1e-6)
