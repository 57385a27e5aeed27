"""Replays on a device: what each step needs and misses, the bytes that a real device read, first tokens, errors."""

import csv
import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from remoe_sim.cli import main
from remoe_sim.devices.run import model_of
from remoe_sim.devices.steps import Steps
from remoe_sim.devices.timeline import Times
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.support.data import DEMO, SHARED, needs_traces
from tests.support.strategies import Shape, cases, examples, trace_of
from tests.support.timed import with_dense

DEVICE = "oneplus-15r"


@given(cases(sized=True, preload=False), st.sampled_from(("layer", "global")), st.integers(0, 6))
@examples(60)
def test_counts_of_steps_add_up_to_those_of_the_replay(case, scope, cache):
    trace = with_dense(case.trace)
    if len(set(trace.model.experts)) > 1:
        return
    report = remoe_sim.replay(trace, cache=cache, scope=scope, policy="lru,fifo,belady", device=DEVICE)
    for result in report:
        reads = result.timed.reads
        missed = reads.far.astype(int) + reads.near
        assert result.timed.steps.needed.sum() == result.lookups
        assert missed.sum() == result.misses
        assert (missed * np.array(trace.model.expert_bytes)).sum() == result.bytes_read
        assert (missed <= result.timed.steps.needed).all()
        assert result.timed.steps.decode.sum() == result.decode.tokens
        parts = result.timed.times.parts_ms
        assert (parts is None) == (result.tpot_ms is None)
        if parts is not None:
            assert sum(parts.values()) == pytest.approx(result.tpot_ms["mean"])


def test_first_token_and_context_by_hand():
    shape = Shape((4,), (1,), (4096,))
    rows = [Row(7, 0, 0, PREFILL, [[0]]), Row(7, 1, 0, PREFILL, [[1]]), Row(7, 2, 1, PREFILL, [[1]])]
    rows += [Row(7, 3, 2, DECODE, [[1]]), Row(8, 0, 2, PREFILL, [[2]]), Row(8, 1, 3, DECODE, [[2]])]
    trace = with_dense(trace_of(rows, shape))
    timed = remoe_sim.replay(trace, cache=4, policy="lru", device=DEVICE)["lru"].timed
    assert timed.steps.kv_tokens.tolist() == [2, 3, 4 + 1, 2]
    assert timed.steps.tokens.tolist() == [2, 1, 2, 1]
    assert timed.steps.decode.tolist() == [0, 0, 1, 1]
    assert timed.steps.prompts.tolist() == [[0, 1], [2, 2]]
    seconds = timed.times.seconds
    first = timed.times.ttft_ms
    assert first["mean"] == pytest.approx(500 * (seconds[0] + seconds[1] + seconds[2]))
    fixed = remoe_sim.replay(trace, cache=4, policy="lru", device=DEVICE, context=100)["lru"].timed
    assert fixed.steps.kv_tokens.tolist() == [100, 100, 200, 100]


def turns_of(rows, counted):
    """(first step, last step) of every prompt, told slowly: prefill rows of a request up to its next decode token."""
    steps, found = sorted({row.step for row in rows if counted(row)}), []
    for request in sorted({row.request for row in rows}):
        prompt = []
        for row in [*(row for row in rows if row.request == request), None]:
            if row is not None and row.phase == PREFILL:
                prompt.append(row)
            elif prompt:
                found.append([steps.index(one.step) for one in (prompt[0], prompt[-1]) if counted(one)])
                prompt = []
    return [one for one in found if one]


def two_turns():
    """A request of two turns, between which it answers for three steps; prompts of two steps and of one."""
    shape = Shape((4,), (1,), (4096,))
    phases = (PREFILL, PREFILL, DECODE, DECODE, DECODE, PREFILL, DECODE)
    return [Row(7, at, at, phase, [[at % 4]]) for at, phase in enumerate(phases)], shape


def test_the_first_token_of_a_turn_does_not_wait_for_the_answer_before_it():
    rows, shape = two_turns()
    trace = with_dense(trace_of(rows, shape))
    runs = {
        "replay": remoe_sim.replay(trace, cache=4, policy="lru", device=DEVICE)["lru"].timed,
        "tiers": remoe_sim.tiers(trace, 4, host_cache=4, device="rtx-3090")[0].timed,
        "prefetch": remoe_sim.prefetch(trace, 4, predictor="previous", device=DEVICE)[0].timed,
        "batch": remoe_sim.replay(remoe_sim.batch(trace, 2), cache=4, policy="lru", device=DEVICE)["lru"].timed,
    }
    for timed in runs.values():
        assert timed.steps.prompts.tolist() == [[0, 1], [5, 5]]
        seconds = timed.times.seconds
        each = [1e3 * (seconds[0] + seconds[1]), 1e3 * seconds[5]]
        assert timed.times.ttft_ms["mean"] == pytest.approx(sum(each) / 2)
        assert timed.times.ttft_ms["p99"] == pytest.approx(np.percentile(each, 99))
    row = remoe_sim.sweep(trace, policy="lru", cache=4, device=DEVICE).iloc[0]
    assert row.ttft_ms_mean == pytest.approx(runs["replay"].times.ttft_ms["mean"])


def test_turns_are_those_of_the_trace_also_where_answers_are_left_out():
    rows, shape = two_turns()
    trace = with_dense(trace_of(rows, shape))
    timed = remoe_sim.replay(trace, cache=4, policy="lru", device=DEVICE, phase="prefill")["lru"].timed
    assert timed.steps.prompts.tolist() == [[0, 1], [2, 2]]
    timed = remoe_sim.replay(trace, cache=4, policy="lru", device=DEVICE, phase="decode")["lru"].timed
    assert timed.times.ttft_ms is None
    shares = remoe_sim.prefetch(trace, 4, predictor="frequent", train_share=0.2, device=DEVICE)[0].timed
    assert shares.steps.prompts.tolist() == [[5, 5]]  # of the first prompt a step is only learned from


@given(cases(sized=True, preload=False), st.sampled_from(("all", "prefill")), st.sampled_from((None, 1, 2)))
@examples(60)
def test_prompts_are_runs_of_prefill_tokens_of_a_request(case, phase, size):
    trace, rows = with_dense(case.trace), case.rows
    if len(set(trace.model.experts)) > 1:
        return
    if size is not None:
        trace = remoe_sim.batch(trace, size)
        columns = zip(trace.request, trace.position, trace.step, trace.phase, strict=True)
        rows = [Row(int(r), int(p), int(s), DECODE if kind else PREFILL, []) for r, p, s, kind in columns]
    timed = remoe_sim.replay(trace, cache=4, policy="lru", device=DEVICE, phase=phase)["lru"].timed
    expected = turns_of(rows, lambda row: phase == "all" or row.phase == PREFILL)
    assert timed.steps.prompts.tolist() == expected


def test_percentiles_count_tokens_not_steps():
    steps = Steps(np.array([3, 1]), np.zeros(2, int), np.array([3, 1]), np.zeros((2, 1), np.uint16))
    times = Times(steps, np.array([0.010, 0.020]), np.zeros((2, 5)), np.zeros(2, int))
    assert times.tpot_ms["mean"] == pytest.approx((3 * 10 + 20) / 4)
    assert times.tpot_ms["p50"] == pytest.approx(10)
    assert times.tokens_per_second == pytest.approx(4 / 0.030)


@needs_traces
def test_bytes_that_a_phone_read():
    """Blocks of 4 KiB, three unaligned tensors per expert: what the device counted, on 127 of 128 tokens."""
    trace = remoe_sim.import_trace(SHARED / "bigmoe" / "qwen.route.csv")
    result = remoe_sim.replay(
        trace, budget="4000MiB", scope="global", policy="lru", device=DEVICE, model="qwen3-30b-a3b", quant="q4_k_m"
    )["lru"]
    assert result.hits == 29597
    missed = result.timed.reads.far[-128:].astype(float)
    read = [result.timed.costs.read_bytes(row[None], np.zeros_like(row)[None]) for row in missed]
    with open(SHARED / "bigmoe" / "qwen.metrics") as file:
        counted = [int(row["read_bytes"]) for row in csv.DictReader(line for line in file if line[0] != "#")]
    assert sum(a == b for a, b in zip(read, counted, strict=True)) >= 127


def test_compute_time_that_was_measured_takes_the_place_of_the_modelled_one():
    trace = remoe_sim.read_trace(DEMO)
    parts = remoe_sim.replay(trace, cache=8, policy="lru", device=DEVICE, compute_ms=50)["lru"].timed.times.parts_ms
    assert parts["dense"] + parts["experts"] + parts["fixed"] == pytest.approx(50)


@pytest.mark.parametrize(
    ("name", "card", "quant"),
    [
        ("Qwen3-30B-A3B-Q4_K_M.gguf", "qwen3-30b-a3b", "q4_k_m"),
        ("/models/gpt-oss-120b-MXFP4.gguf", "gpt-oss-120b", "mxfp4"),
        ("mixtral 8x7b", "mixtral-8x7b", "bf16"),
    ],
)
def test_the_name_of_a_trace_tells_its_card(name, card, quant):
    from dataclasses import replace

    trace = remoe_sim.read_trace(DEMO)
    trace = replace(trace, model=replace(trace.model, name=name, quant=None))
    model = model_of(trace, None, None)
    assert (model.name, model.quant) == (card, quant)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"device": "abacus"}, "device"),
        ({"device": DEVICE, "order": "sequential"}, "--order set"),
        ({"model": "mixtral-8x7b"}, "MoE layers"),
        ({"model": "mixtral-8x7b", "overlap": "none"}, "--device"),
        ({"overlap": "layer"}, "--device"),  # the default, but given
        ({"device": DEVICE, "overlap": "full"}, "overlap"),
        ({"device": DEVICE, "lanes": 0}, "lanes"),
        ({"device": DEVICE, "misses_from": "host"}, "link from host memory"),
        ({"device": DEVICE, "model": "mixtral-8x7b"}, "MoE layers"),
        ({"device": DEVICE, "quant": "q4_k_m"}, "no card"),
        ({"device": "rtx-4090", "host": "abacus"}, "unknown host"),
        ({"device": DEVICE, "host": "desktop-ddr5-6000"}, "takes no host"),
        ({"device": "rtx-4090", "engine": "mlx"}, "runs on metal"),
        ({"device": "rtx-4090+abacus"}, "unknown host, storage or engine"),
    ],
)
def test_what_is_not_possible_is_said_in_a_sentence(arguments, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        remoe_sim.replay(DEMO, cache=8, policy="lru", **arguments)


@pytest.mark.parametrize(
    "line",
    [
        ("replay", DEMO, "--cache", "8"),
        ("tiers", DEMO, "--device-cache", "8", "--host-cache", "200"),
        ("compare", DEMO, DEMO, "--cache", "8"),
        ("sweep", DEMO, "--cache", "8"),
        ("report", DEMO, "--cache", "8", "-o", "page.html"),
    ],
    ids=lambda line: line[0],
)
def test_an_overlap_that_is_the_default_needs_a_device_too(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, [*map(str, line), "--overlap", "layer"])
    assert "overlap and what else makes times go with --device; name one" in str(done.exception)
    assert not list(tmp_path.iterdir())
