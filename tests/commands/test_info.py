"""`info`: the numbers of the object, the stability of its JSON, and what people see."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from rich.cells import cell_len

import remoe_sim
from remoe_sim import cli
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.support.data import bigmoe_rows, needs_traces
from tests.support.tokens import EMPTY, K_ONE, NO_DECODE, ONE_TOKEN, tokens, trace_of

KEYS = [
    *("schema", "version", "path", "model", "tokens", "requests", "steps", "phases", "moe_layers", "experts", "top_k"),
    *("expert_bytes", "total_expert_bytes", "token_cycle_bytes", "decisions", "null_decisions", "dropped_slots"),
    *("slots", "decode_slots", "reuse_rate", "reuse_rate_by_request", "reuse_requests", "reuse", "routing_entropy"),
    *("routing_entropy_normalised", "load_balance_cv", "distinct_experts", "popularity_top10_slots"),
    *("popularity_top10_share", "streaks", "mean_streak", "working_set", "notes", "source", "layers"),
]
LAYER_KEYS = [
    *("layer", "experts", "top_k", "expert_bytes", "decisions", "null_decisions", "dropped_slots", "slots"),
    *("decode_slots", "shared", "wanted", "reuse_rate", "reuse_rate_w2", "reuse_rate_w4", "reuse_rate_w8"),
    *("routing_entropy", "routing_entropy_normalised", "load_balance_cv", "distinct_experts"),
    *("popularity_top10_slots", "popularity_top10_share", "streaks", "mean_streak"),
    *("working_set_16", "working_set_16_windows", "working_set_64", "working_set_64_windows"),
    *("working_set_256", "working_set_256_windows"),
]


def mixed_trace():
    """Two layers that differ in everything, two requests, a prefill, both kinds of null."""
    rows = [
        Row(7, 0, 0, PREFILL, [[0, 1], None]),
        Row(7, 1, 0, PREFILL, [[1, 2], [4]]),
        Row(7, 2, 1, DECODE, [[1, 2], [4]]),
        Row(7, 3, 2, DECODE, [[2, None], [4]]),
        Row(9, 5, 3, DECODE, [[3, 0], [0]]),
        Row(9, 6, 3, DECODE, [[0, 3], None]),
    ]
    sizes = {"expert_bytes": (1000, 300), "name": "two <layers>"}
    return replace(trace_of(rows, [4, 20], [2, 1], (3, 12), **sizes), notes="made by hand", origin={"format": "test"})


def plain(value):
    """Whether a value is JSON without NaN and of Python's own types."""
    if isinstance(value, dict):
        return all(type(key) is str and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or type(value) in (str, int) or (type(value) is float and math.isfinite(value))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Write a trace, run `remoe-sim info` on it, return what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(trace, *options):
        remoe_sim.write_trace(trace, "trace.parquet")
        result = CliRunner().invoke(cli.main, ["info", "trace.parquet", *options])
        assert result.exit_code == 0, result.exception
        assert result.stderr == ""
        return result.stdout

    return run


def test_values_of_a_small_trace():
    result = remoe_sim.info(mixed_trace()).to_dict()
    layers = result.pop("layers")
    assert result == {
        "schema": "remoe-sim.info.v1",
        "version": remoe_sim.__version__,
        "path": "",
        "model": "two <layers>",
        "tokens": 6,
        "requests": 2,
        "steps": 4,
        "phases": {"prefill": 2, "decode": 4},
        "moe_layers": 2,
        "experts": [4, 20],
        "top_k": [2, 1],
        "expert_bytes": [1000, 300],
        "total_expert_bytes": 10_000,
        "token_cycle_bytes": 2300,
        "decisions": 10,
        "null_decisions": 2,
        "dropped_slots": 1,
        "slots": 15,
        "decode_slots": 10,
        "reuse_rate": 4 / 4,
        "reuse_rate_by_request": 1.0,
        "reuse_requests": 2,
        "reuse": [{"window": w, "shared": 4, "wanted": 4, "reuse_rate": 1.0} for w in (1, 2, 4, 8)],
        "routing_entropy": pytest.approx(np.mean([layer["routing_entropy"] for layer in layers])),
        "routing_entropy_normalised": pytest.approx(np.mean([layer["routing_entropy_normalised"] for layer in layers])),
        "load_balance_cv": pytest.approx(np.mean([layer["load_balance_cv"] for layer in layers])),
        "distinct_experts": 6,
        "popularity_top10_slots": 7,
        "popularity_top10_share": 7 / 15,
        "streaks": 6,
        "mean_streak": 10 / 6,
        "working_set": [{"window": span, "windows": 0, "mean_experts": None} for span in (16, 64, 256)],
        "notes": "made by hand",
        "source": {"format": "test"},
    }
    uses = np.array([3, 3, 3, 2]) / 11
    assert layers[0] == {
        **dict.fromkeys(LAYER_KEYS),
        **{"layer": 3, "experts": 4, "top_k": 2, "expert_bytes": 1000},
        **{"decisions": 6, "null_decisions": 0, "dropped_slots": 1, "slots": 11, "decode_slots": 7},
        **{
            "shared": 3,
            "wanted": 3,
            "reuse_rate": 1.0,
            "reuse_rate_w2": 1.0,
            "reuse_rate_w4": 1.0,
            "reuse_rate_w8": 1.0,
        },
        "routing_entropy": pytest.approx(-(uses * np.log(uses)).sum()),
        "routing_entropy_normalised": pytest.approx(-(uses * np.log(uses)).sum() / math.log(4)),
        "load_balance_cv": pytest.approx(uses.std() / uses.mean()),
        **{"distinct_experts": 4, "popularity_top10_slots": 3, "popularity_top10_share": 3 / 11},
        **{"streaks": 4, "mean_streak": 7 / 4},
        **{f"working_set_{span}_windows": 0 for span in (16, 64, 256)},
    }
    assert (layers[1]["layer"], layers[1]["shared"], layers[1]["wanted"], layers[1]["null_decisions"]) == (12, 1, 1, 2)


@pytest.mark.parametrize("case", [EMPTY, ONE_TOKEN, NO_DECODE, K_ONE, (tokens([None, None]), [4], [2])])
def test_json_is_plain_and_has_every_key(case):
    result = remoe_sim.info(trace_of(*case)).to_dict()
    assert list(result) == KEYS
    assert [list(layer) for layer in result["layers"]] == [LAYER_KEYS]
    assert plain(result)


def test_rates_over_nothing_are_null():
    result = remoe_sim.info(trace_of(*EMPTY))
    assert (result.tokens, result.steps, result.requests) == (0, 0, 0)
    unknown = ("reuse_rate", "reuse_rate_by_request", "load_balance_cv", "popularity_top10_share", "mean_streak")
    assert [getattr(result, name) for name in (*unknown, "expert_bytes", "token_cycle_bytes")] == [None] * 7
    assert "not defined" in dict(result.facts())["mean streak"]


def test_working_sets_are_pooled_over_windows():
    rows = tokens([[0]] * 16) + tokens([[0], [1]] * 16, request=1)
    for step, row in enumerate(rows):
        row.step = step
    result = remoe_sim.info(trace_of(rows, [8], [1]))
    assert result.working_set[0] == {"window": 16, "windows": 3, "mean_experts": 5 / 3}
    assert (result.layers[0]["working_set_16"], result.layers[0]["working_set_16_windows"]) == (5 / 3, 3)


def test_frame_and_html():
    result = remoe_sim.info(mixed_trace())
    frame = result.to_frame()
    assert list(frame.columns) == LAYER_KEYS
    assert list(frame.layer) == [3, 12]
    html = result._repr_html_()
    assert "two &lt;layers&gt;" in html
    assert html.count("<table") == 2


def test_command_prints_json(run):
    text = run(mixed_trace(), "--json")
    result = json.loads(text)
    assert list(result) == KEYS
    assert (result["experts"], result["phases"]) == ([4, 20], {"prefill": 2, "decode": 4})
    assert result["path"] == "trace.parquet"


def test_command_prints_numerators_and_denominators(run):
    text = run(mixed_trace())
    for part in ("6 (2 prefill, 4 decode)", "4 to 20 experts", "top-1 to 2", "2.2 KiB", "1.0000 (4 of 4 decode slots)"):
        assert part in text
    for part in ("0.4667 (7 of 15 slots)", "10 (2 null; 1 slots dropped)", "1.6667 tokens (10 slots in 6 runs)"):
        assert part in text
    assert "streak" in text
    assert "shared/wanted" not in text


def test_command_prints_layers(run):
    lines = run(mixed_trace(), "--layers").splitlines()
    assert lines[-2].split()[:4] == ["3", "6", "3/3", "1.0000"]
    assert lines[-1].split()[:4] == ["12", "4", "1/1", "1.0000"]
    assert lines[-1].split()[-1] == "-"


def test_output_fits_80_columns_and_has_no_trailing_spaces(run):
    rng = np.random.default_rng(1)
    rows = [Row(0, at, at, DECODE, [rng.permutation(512)[:8].tolist()] * 2) for at in range(300)]
    trace = replace(trace_of(rows, [512] * 2, [8] * 2, expert_bytes=(10**6, 10**7)), notes="what was assumed " * 20)
    for line in run(trace, "--layers").splitlines():
        assert cell_len(line) <= 80
        assert line == line.rstrip()


def test_help_has_an_example():
    text = CliRunner().invoke(cli.main, ["info", "--help"]).stdout
    assert "remoe-sim info qwen.parquet --layers" in text


def test_a_missing_file_is_one_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["remoe-sim", "info", str(tmp_path / "none.parquet")])
    with pytest.raises(SystemExit) as stop:
        cli.run()
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "none.parquet" in said.err


@needs_traces
@pytest.mark.parametrize(
    ("name", "top_k", "cycle", "reuse"), [("qwen", 6, 784.7, 0.3795), ("gptoss", 2, 907.7, 0.1788)]
)
def test_real_captures(name, top_k, cycle, reuse):
    rows, sizes = bigmoe_rows(name)
    layers = len(sizes)
    result = remoe_sim.info(trace_of(rows, [128] * layers, [top_k] * layers, expert_bytes=tuple(sizes)))
    assert result.token_cycle_bytes / 2**20 == pytest.approx(cycle, abs=0.05)
    assert result.token_cycle_bytes == top_k * sum(sizes)
    assert result.reuse_rate == pytest.approx(reuse, abs=5e-5)
    assert result.null_decisions == result.phases["prefill"] - 1
    assert result.distinct_experts == sum(layer["distinct_experts"] for layer in result.layers)
    assert plain(result.to_dict())
