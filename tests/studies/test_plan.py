"""Plans: times are those of a replay at the same cache, targets are met and not by less, memory is what it says."""

import json
import re
from itertools import pairwise

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import remoe_sim
from remoe_sim.cli import main
from remoe_sim.studies import plan_curve
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.support.data import DEMO, SHARED, needs_traces
from tests.support.strategies import Shape, choices, examples, trace_of
from tests.support.timed import planned, sizes, with_dense

pytestmark = pytest.mark.once  # kernels are tested elsewhere, and interpreted this takes minutes

DEVICE = "jetson-orin-nx-16gb"
GIB = 2**30


@given(
    planned(),
    st.sampled_from(("lru", "lfu", "belady", "fifo")),
    st.sampled_from(("none", "layer", "prefetch")),
    choices("scope", "admission", "reset", "phase"),
)
@examples(30)
def test_times_and_room_are_those_of_a_replay(traces, policy, overlap, settings):
    trace, preload = traces
    settings["phase"] = settings["phase"].replace("prefill", "all")
    given = {**settings, "device": DEVICE, "overlap": overlap, "preload": preload}
    refused = ""
    try:
        report = remoe_sim.plan(trace, policy=policy, **given)
    except ValueError as error:
        report, refused = [], str(error)
    assert not refused or "emptied at each request" in refused
    for one in report:
        assert one.every_limit
        assert one.no_cache is one.curve[0]
        assert one.all_experts is one.curve[-1]
        for point in one.curve[:: max(1, len(one.curve) // 4)]:
            limit = {"cache": sizes(point)} if settings["scope"] == "layer" else {"budget": sizes(point)}
            replayed = remoe_sim.replay(trace, policy=one.policy, **limit, **given).results[0]
            assert point.tpot_ms == replayed.tpot_ms
            assert point.parts_ms == replayed.timed.times.parts_ms
            assert point.tokens_per_second == replayed.tokens_per_second
            assert point.memory_bytes - one.beside.total >= replayed.peak_resident_bytes
        memory = [point.memory_bytes for point in one.curve]
        assert memory == sorted(memory)
        if one.policy == "lru":  # nothing is missed with more of a cache that was not missed with less
            times = [point.mean for point in one.curve]
            assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(times))


@pytest.mark.parametrize("policy", ["lru", "belady", "fifo"])
@pytest.mark.parametrize("target", ["40ms", "0.02s", 9])
def test_the_answer_meets_the_target_and_one_expert_less_does_not(policy, target):
    one = remoe_sim.plan(DEMO, DEVICE, target, policy=policy)[0]
    assert one.reached
    assert one.target.mean <= one.target_ms
    before = one.curve[sizes(one.target) - 1]
    assert sizes(before) == sizes(one.target) - 1
    assert before.mean > one.target_ms


def test_the_sentence_has_the_band():
    one = remoe_sim.plan(DEMO, DEVICE, memory="0.5GiB", policy="lru")[0]
    assert f"takes {one.memory.mean:,.2f} ms per token, {one.memory.band.sentence}, with" in one.sentence
    reached = remoe_sim.plan(DEMO, DEVICE, 15, policy="lru")[0]
    assert f"{reached.target.mean:,.2f} ms, {reached.target.band.sentence}" in reached.sentence


def test_the_largest_cache_in_a_memory():
    for memory in (300_000_000, "0.5GiB", "1GiB"):
        one = remoe_sim.plan(DEMO, DEVICE, memory=memory, policy="lru")[0]
        assert one.memory.memory_bytes <= one.memory_bytes < one.curve[sizes(one.memory) + 1].memory_bytes
    nothing = remoe_sim.plan(DEMO, DEVICE, memory="100MiB", policy="lru")[0]
    assert nothing.memory is None
    assert "does not fit: 0.25 GiB" in nothing.sentence


def test_what_stands_beside_experts_by_hand():
    """Two layers, the second with a group of three; a second request in the last step."""
    rows = [Row(1, 0, 0, PREFILL, [[0, 1], [0, 1]]), Row(1, 1, 0, PREFILL, [[0, 1], [1, 2]])]
    rows += [Row(1, 2, 1, DECODE, [[0, 1], [0, 1]]), Row(2, 0, 1, DECODE, [[0, 1], [0, 1]])]
    trace = with_dense(trace_of(rows, Shape((4, 4), (2, 2), (10, 7))))
    one = remoe_sim.plan(trace, DEVICE, policy="lru")[0]
    assert one.beside.total == one.beside.weights == sum(trace.model.dense_bytes)
    assert [point.cache_bytes for point in one.curve] == [0, 17, 34, 51, 68]
    assert [point.workspace_bytes for point in one.curve] == [21, 14, 7, 0, 0]  # 3 · 7, then what does not fit
    bypass = remoe_sim.plan(trace, DEVICE, policy="lru", admission="bypass")[0]
    assert [point.workspace_bytes for point in bypass.curve] == [21, 21, 20, 10, 0]
    everywhere = remoe_sim.plan(trace, DEVICE, policy="lru", scope="global")[0]
    assert [sizes(point) for point in everywhere.curve] == [0, 31, 34, 41, 68]  # where lookups begin to hit
    assert [point.workspace_bytes for point in everywhere.curve] == [21, 0, 0, 0, 0]
    fifo = remoe_sim.plan(trace, DEVICE, policy="fifo", scope="global")[0]
    assert [sizes(point) for point in fifo.curve] == list(range(69))


def test_memory_of_a_model_with_a_card_and_a_context():
    model = remoe_sim.model("qwen3-30b-a3b", quant="q4_k_m")
    rows = [Row(1, n, n, DECODE, [[n % 5, 7, *range(20, 26)]] * 48) for n in range(6)]
    trace = trace_of(rows, Shape((128,) * 48, (8,) * 48, None))
    short, long = (
        remoe_sim.plan(trace, DEVICE, policy="lru", model="qwen3-30b-a3b", quant="q4_k_m", context=context)[0].beside
        for context in (None, 8192)
    )
    assert short.weights == long.weights == sum(model.resident_bytes)
    assert (short.head, short.embedding) == (model.head_bytes, model.embedding_bytes)
    assert short.kv_cache == 6 * sum(model.kv_bytes_per_token)
    assert long.kv_cache == 8192 * sum(model.kv_bytes_per_token)
    assert short.total + model.routed_bytes == pytest.approx(model.total_bytes + short.kv_cache, rel=1e-3)


def test_a_window_bounds_the_kv_cache_of_each_request():
    from dataclasses import replace

    from remoe_sim.studies.plan_curve import Beside

    model = remoe_sim.model("gpt-oss-20b")
    plain = replace(model, kv_window_tokens=(None,) * model.layers)
    per_token = model.kv_bytes_per_token
    assert Beside.of(plain, 1000, 2).kv_cache == 1000 * sum(per_token)
    windows = [(bytes_, window) for bytes_, window in zip(per_token, model.kv_window_tokens, strict=True)]
    assert any(window is not None for _, window in windows)
    expected = sum(bytes_ * min(1000, 2 * (window or 1000)) for bytes_, window in windows)
    assert Beside.of(model, 1000, 2).kv_cache == expected


def test_the_knee_lies_farthest_below_the_chord():
    one = remoe_sim.plan(DEMO, DEVICE, policy="lru")[0]
    first, last = one.no_cache, one.all_experts

    def below(point):
        share = (point.memory_bytes - first.memory_bytes) / (last.memory_bytes - first.memory_bytes)
        return first.mean + share * (last.mean - first.mean) - point.mean

    assert one.knee is max(one.curve, key=below)


def test_limits_that_were_not_all_looked_at_give_the_same_answers(monkeypatch):
    asked = {"device": DEVICE, "target_tpot": "21ms", "memory": "0.8GiB", "policy": "lru,belady"}
    full = remoe_sim.plan(DEMO, **asked)
    monkeypatch.setattr(plan_curve, "MOST_PAIRS", 0)
    monkeypatch.setattr(plan_curve, "GRID", 5)
    monkeypatch.setattr(plan_curve, "FINER", 4)
    for one, other in zip(full, remoe_sim.plan(DEMO, **asked), strict=True):
        assert not other.every_limit
        assert len(other.curve) < len(one.curve)
        assert (one.target, one.memory, one.knee) == (other.target, other.memory, other.knee)


def test_experts_in_all_have_more_limits_than_are_looked_at(monkeypatch):
    monkeypatch.setattr(plan_curve, "MOST_PAIRS", 1_000_000)
    one = remoe_sim.plan(DEMO, DEVICE, "20ms", policy="lru", scope="global")[0]
    assert not one.every_limit
    less = {"budget": sizes(one.target) - max(remoe_sim.read_trace(DEMO).model.expert_bytes)}
    replayed = remoe_sim.replay(DEMO, **less, policy="lru", scope="global", device=DEVICE).results[0]
    assert one.target.mean <= 20 < replayed.tpot_ms["mean"]


def test_why_a_target_is_out_of_reach():
    slow = remoe_sim.plan(DEMO, DEVICE, "1ms", policy="lru")[0]
    assert slow.target is None
    assert not slow.reached
    assert "computing alone takes" in slow.sentence
    least = slow.all_experts.mean
    cold = remoe_sim.plan(DEMO, DEVICE, least - 0.01, policy="lru")[0]
    assert "wait for first uses" in cold.sentence
    small = remoe_sim.plan(DEMO, DEVICE, least, memory="0.5GiB", policy="lru")[0]
    assert small.target is not None
    assert not small.reached
    assert "and there are 0.50 GiB" in small.sentence


def test_the_cheapest_device_of_a_list():
    names = ["oneplus-15r", DEVICE, "rtx-4090", "rtx-3090"]
    listed = remoe_sim.plan(DEMO, names, "8ms", policy="belady,lru")
    assert listed.ordered_by == "list"
    assert {one.policy for one in listed.leading} == {"lru"}
    assert [one.reached for one in listed.leading] == [False, True, True, True]
    assert listed.chosen.device.name == DEVICE
    assert listed.cheapest is None  # nobody said what they cost
    assert listed.sentence.startswith("On a synthetic trace: First of the list: ")
    assert "heap" not in listed.sentence
    answer = listed.to_dict()
    assert answer["cheapest"] is None
    assert answer["chosen"] == {"device": DEVICE, "quant": listed.chosen.model.quant}
    priced = remoe_sim.plan(DEMO, "rtx-4090=1600,rtx-3090=700", "8ms", policy="lru")
    assert (priced.ordered_by, priced.cheapest.device.name) == ("price", "rtx-3090")
    assert priced.sentence.startswith("On a synthetic trace: Cheapest by the prices given, at 700: ")
    assert priced.chosen is priced.cheapest
    same = remoe_sim.plan(DEMO, {"rtx-4090": 600, "rtx-3090": 700}, "8ms", policy="lru")
    assert same.cheapest.device.name == "rtx-4090"
    nobody = remoe_sim.plan(DEMO, names, "0.1ms", policy="lru")
    assert nobody.cheapest is nobody.chosen is None
    assert nobody.sentence.startswith("On a synthetic trace: None of the 4 choices")
    fastest = remoe_sim.plan(DEMO, names, policy="lru")
    assert fastest.ordered_by is None
    assert "Fastest" in fastest.sentence


@needs_traces
def test_quantisations_of_a_real_trace():
    trace = remoe_sim.import_trace(SHARED / "bigmoe" / "qwen.route.csv")
    report = remoe_sim.plan(trace, DEVICE, "150ms", model="qwen3-30b-a3b", quant="q4_k_m,q8_0", policy="lru")
    small, large = report
    assert (small.model.quant, large.model.quant) == ("q4_k_m", "q8_0")
    assert small.target.memory_bytes < large.target.memory_bytes
    assert sizes(small.all_experts) == 128
    for one in report:
        at = remoe_sim.replay(
            trace, cache=sizes(one.target), policy="lru", device=DEVICE, model="qwen3-30b-a3b", quant=one.model.quant
        )
        assert at.results[0].tpot_ms == one.target.tpot_ms


def test_json_frames_and_table():
    arguments = ["plan", DEMO, "--device", DEVICE, "--target-tpot", "15ms"]
    answer = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert answer["schema"] == "remoe-sim.plan.v1"
    first = answer["results"][0]
    assert (first["device"], first["policy"], first["target_reached"]) == (DEVICE, "lru", True)
    assert len(first["curve"]) == 33
    assert first["sentence"][:-1] in answer["sentence"]
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(main, arguments).stdout
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "reaches 15 ms per token with 0.74 GiB of 14.29 GiB: 17 of 32" in " ".join(shown.split())
    report = remoe_sim.plan(DEMO, DEVICE, 15)
    assert list(report.to_frame()["answer"])[:5] == ["no_cache", "knee", "target", "memory", "all_experts"]
    assert len(report.curve_frame()) == 66
    assert "<table" in report._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target_tpot": "fast"}, "target TPOT"),
        ({"target_tpot": 0}, "target TPOT"),
        ({"memory": "much"}, "size"),
        ({"device": "rtx-4090=1600,rtx-3090", "target_tpot": 9}, "price"),
        ({"device": "rtx-4090=1600"}, "--target-tpot"),
        ({"device": "rtx-4090=cheap", "target_tpot": 9}, "price of rtx-4090"),
        ({"device": []}, "device"),
        ({"device": "abacus"}, "abacus"),
        ({"order": "sequential"}, "--order set"),
        ({"phase": "prefill"}, "decode tokens"),
        ({"policy": "clairvoyant"}, "policy"),
        ({"quant": "q4_k_m"}, "no card"),
    ],
)
def test_what_is_not_possible_is_said_in_a_sentence(arguments, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        remoe_sim.plan(DEMO, **{"device": DEVICE, **arguments})


@given(
    planned(),
    st.sampled_from(("lru", "lfu", "belady", "fifo")),
    st.sampled_from(("mandatory", "bypass")),
    st.floats(0, 1),
)
@examples(30)
def test_no_smaller_budget_reaches_the_target(traces, policy, admission, share):
    """Experts of unequal size in one cache: every budget that any contents can have is tried against the answer."""
    trace, preload = traces
    given = {"device": DEVICE, "scope": "global", "admission": admission, "preload": preload}
    ends = remoe_sim.plan(trace, policy=policy, **given)[0]
    target = ends.all_experts.mean + share * (ends.no_cache.mean - ends.all_experts.mean)
    one = remoe_sim.plan(trace, policy=policy, target_tpot=target, **given)[0]
    assert one.every_limit
    reaching = [
        budget
        for budget in range(0, sizes(one.all_experts) + 1, 1000)
        if remoe_sim.replay(trace, policy=policy, budget=budget, **given).results[0].tpot_ms["mean"] <= target
    ]
    assert sizes(one.target) == min(reaching)


def test_what_was_not_tried_is_said(monkeypatch):
    rows = [Row(1, n, n, DECODE, [[n * n % 15], [n * n * n % 13]]) for n in range(40)]
    trace = with_dense(trace_of(rows, Shape((16, 16), (1, 1), (7001, 13003))))
    monkeypatch.setattr(plan_curve, "MOST_PAIRS", 0)
    monkeypatch.setattr(plan_curve, "GRID", 5)
    report = remoe_sim.plan(trace, DEVICE, policy="lru,belady", scope="global")
    lru, belady = report
    assert not lru.every_limit
    assert not belady.every_limit
    assert (lru.ordered, belady.ordered) == (True, False)
    assert belady.limits == sum((7001 * 16, 13003 * 16)) + 1  # every byte: the sizes have no common factor
    answer = report.to_dict()["results"]
    assert [(one["limits"], one["limits_tried"]) for one in answer] == [(r.limits, len(r.curve)) for r in report]
    assert f"lru {len(lru.curve)} of {lru.limits:,}" in report.tried
    assert f"belady {len(belady.curve)} of {belady.limits:,}" in report.tried
    assert "with belady a smaller cache may do" in report.tried
    monkeypatch.undo()
    assert remoe_sim.plan(DEMO, DEVICE, policy="lru").tried == ""


@pytest.mark.parametrize(("target", "code"), [("50ms", 0), ("0.0001ms", 3)])
def test_a_target_that_nothing_reaches_is_an_error_if_asked(target, code):
    words = ["plan", "sample:qwen-original", "--device", DEVICE, "--policy", "lru", "--target-tpot", target]
    strict = CliRunner().invoke(main, [*words, "--strict"])
    assert (strict.exit_code, "no device reaches the target" in strict.stderr) == (code, code == 3)
    assert CliRunner().invoke(main, words).exit_code == 0
