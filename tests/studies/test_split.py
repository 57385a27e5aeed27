"""`split`: its laws on random traces against the oracle, real traces, and the command."""

import itertools
import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from numba import config

import remoe_sim
from remoe_sim import cli
from tests.oracle import naive
from tests.oracle.naive import DECODE, Row
from tests.support.data import SHARED, needs_traces
from tests.support.strategies import Shape, cases, choices, examples, trace_of

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="takes minutes where kernels are interpreted")
DIVISIONS = ("equal", "greedy", "best")


def limits(case):
    counts = st.fixed_dictionaries({"cache": st.integers(0, 14)})
    if case.shape.sizes is None:
        return counts
    total = sum(size * experts for size, experts in zip(case.shape.sizes, case.shape.experts, strict=True))
    return counts | st.fixed_dictionaries({"budget": st.integers(0, total + 2)})


@st.composite
def splits(draw, **shape):
    case = draw(cases(**shape))
    return case, draw(choices("admission", "order", "phase", "warmup")), draw(limits(case))


def replayed(case, arguments, limit, scope):
    """Results of `replay` at the same limit."""
    if scope == "global" and "cache" in limit:
        limit = {"cache": limit["cache"] * len(case.shape.top_k)}
    return remoe_sim.replay(
        case.trace, policy="lru,belady,fifo", scope=scope, preload=case.preload, **arguments, **limit
    )


@examples(100)
@given(splits(large=False), st.sampled_from(("misses", "bytes")))
def test_never_worse_than_the_equal_division(drawn, minimise):
    case, arguments, limit = drawn
    assume(minimise == "misses" or case.shape.sizes is not None)
    report = remoe_sim.split(
        case.trace, policy="lru,belady,fifo", minimise=minimise, preload=case.preload, **arguments, **limit
    )
    what = "misses" if minimise == "misses" else "bytes_read"
    total = next(iter(report.capacity.values()))
    apart, together = replayed(case, arguments, limit, "layer"), replayed(case, arguments, limit, "global")
    for result in report:
        assert getattr(result.best, what) <= min(getattr(result.equal, what), getattr(result.greedy, what))
        for found, same in ((result.equal, apart), (result.shared, together)):
            expected = same[result.policy]
            assert (found.lookups, found.misses) == (expected.lookups, expected.misses)
            assert found.bytes_read == expected.bytes_read
        assert result.shared_is_optimal == together[result.policy].optimal
        for name in ("greedy", "best"):
            assert getattr(result, name).held <= total


@examples(60)
@given(cases(preload=False, layers=3, large=False, most=8), st.integers(0, 5), choices("admission", "phase"))
def test_what_a_division_misses_is_what_the_oracle_counts(case, cache, arguments):
    report = remoe_sim.split(case.trace, cache=cache, policy="lru,belady,lfu-forget", **arguments)
    layers = len(case.shape.top_k)
    for result in report:
        for name in DIVISIONS:
            division = getattr(result, name)
            counts = naive.replay(case.rows, result.policy, limit=division.experts, **arguments)
            assert (division.misses, division.lookups) == (counts["misses"], counts["lookups"])
        everything = itertools.product(range(cache * layers + 1), repeat=layers)
        if cache * layers <= 6:
            least = min(
                naive.replay(case.rows, result.policy, limit=limit, **arguments)["misses"]
                for limit in everything
                if sum(limit) <= cache * layers
            )
            assert result.best.misses == least


def hand_case():
    """Layer 1 repeats one expert, layer 3 goes round three: two experts per layer are one too many and one too few."""
    rows = [Row(0, i, i, DECODE, [[0], [i % 3]]) for i in range(9)]
    return trace_of(rows, Shape((4, 4), (1, 1), (10, 10)))


def test_a_division_by_hand():
    report = remoe_sim.split(hand_case(), cache=2)
    result = report["lru"]
    assert (result.equal.experts, result.equal.misses) == ((2, 2), 1 + 9)
    assert (result.best.experts, result.best.layer_misses) == ((1, 3), (1, 3))
    assert (result.best.misses, result.best.bytes_read, result.misses_saved, result.bytes_saved) == (4, 40, 6, 60)
    assert result.greedy == result.best
    assert report.capacity == {"experts": 4}
    assert remoe_sim.split(hand_case(), budget="40B")["lru"].best == replace(result.best, held=40)


def test_bytes_and_misses_are_different_goals():
    """Layer 1 has small experts with more reuse, layer 3 large ones with less; there is room for one of them."""
    rows = [Row(0, i, i, DECODE, [[0], [0 if i < 4 else i - 3]]) for i in range(6)]
    trace = trace_of(rows, Shape((4, 4), (1, 1), (10, 30)))
    fewest = {goal: remoe_sim.split(trace, cache=1, minimise=goal)["lru"].best for goal in ("misses", "bytes")}
    assert fewest["misses"].experts == fewest["bytes"].experts == (1, 1)
    for goal, experts in (("misses", (1, 0)), ("bytes", (0, 1))):
        assert remoe_sim.split(trace, budget=30, minimise=goal)["lru"].best.experts == experts


def test_json_and_frame():
    report = remoe_sim.split(hand_case(), cache=2, policy="lru,belady", phase="decode")
    answer = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert answer["schema"] == "remoe-sim.split.v1"
    assert list(answer) == [
        "schema", "version", "trace", "admission", "order", "reset", "phase", "warmup", "capacity", "minimise",
        "results", "layers",
    ]  # fmt: skip
    lru = answer["results"][0]
    assert list(lru) == [
        "policy", "equal", "greedy", "best", "shared", "misses_saved", "misses_saved_share", "bytes_saved",
    ]  # fmt: skip
    assert lru["best"] == {
        "lookups": 18, "hits": 14, "misses": 4, "hit_rate": 14 / 18, "bytes_read": 40, "held": 4, "experts": [1, 3],
    }  # fmt: skip
    assert lru["misses_saved_share"] == 0.6
    assert lru["shared"]["optimal"] is False
    assert answer["results"][1]["shared"]["optimal"] is True
    frame = report.to_frame()
    assert frame["layer"].tolist() == [1, 3, 1, 3]
    assert frame["best_experts"].tolist()[:2] == [1, 3]
    assert frame["equal_misses"].tolist()[:2] == [1, 9]
    assert "best_misses" in report._repr_html_()
    assert len(report) == 2
    with pytest.raises(KeyError):
        report["fifo"]


def test_nothing_to_divide():
    rows = [Row(0, i, i, DECODE, [None, [None]]) for i in range(3)]
    result = remoe_sim.split(trace_of(rows, Shape((4, 3), (2, 1), None)), cache=2)["lru"]
    assert (result.best.lookups, result.best.misses, result.best.hit_rate, result.bytes_saved) == (0, 0, None, None)
    assert result.to_dict()["misses_saved_share"] is None


@pytest.fixture(scope="module")
def qwen():
    return remoe_sim.import_trace(SHARED / "bigmoe" / "qwen.route.csv")


@compiled
@needs_traces
@pytest.mark.parametrize("policy", ["lru", "belady"])
@pytest.mark.parametrize("share", [10, 20, 40])
def test_the_gain_on_a_real_trace(qwen, policy, share):
    """Experts of two sizes."""
    total = sum(128 * size for size in qwen.model.expert_bytes)
    report = remoe_sim.split(qwen, budget=total * share // 100, policy=policy, phase="decode")
    result, known = report[policy], {
        ("lru", 10): (17737, 16316), ("lru", 20): (9920, 9049), ("lru", 40): (3996, 3314),
        ("belady", 10): (12412, 11458), ("belady", 20): (5895, 5379), ("belady", 40): (3235, 3059),
    }  # fmt: skip
    assert (result.equal.misses, result.best.misses) == known[policy, share]
    assert result.best.misses <= result.greedy.misses <= result.equal.misses
    assert result.best.held <= total * share // 100


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command on the hand case; exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    remoe_sim.write_trace(hand_case(), "hand.parquet")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["remoe-sim", "split", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.run()
        printed = capsys.readouterr()
        return SimpleNamespace(code=stopped.value.code or 0, out=printed.out, err=printed.err)

    return run


def test_the_command_prints_both(run):
    shown = run("hand.parquet", "--cache", "2", "--policy", "lru,belady")
    assert (shown.code, shown.err) == (0, "")
    assert re.search(r"^best +4 +-60\.00 % +77\.78 % +14 / 18 +0\.0391?$", shown.out, re.MULTILINE)
    assert "best for lru: 1:1 3:3" in shown.out
    assert "equal: 2 each" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    answer = json.loads(run("hand.parquet", "--budget", "40B", "--minimise", "bytes", "--json").out)
    assert answer == remoe_sim.split("hand.parquet", budget=40, minimise="bytes").to_dict()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "no limit given"),
        (("--cache", "2", "--budget", "1MiB"), "cache and budget given"),
        (("--cache", "-2"), "cache '-2' is not possible"),
        (("--budget", "lots"), "'lots' is not a size"),
        (("--cache", "2", "--minimise", "time"), "unknown minimise 'time'; valid are bytes, misses"),
        (("--cache", "2", "--policy", "lru,lru"), "names a policy twice"),
        (("--cache", "2", "--reserve", "1MiB"), "reserve goes with --memory"),
    ],
)
def test_what_is_not_possible(run, arguments, why):
    stopped = run("hand.parquet", *arguments)
    assert (stopped.code, stopped.out) == (2, "")
    assert why in stopped.err
    assert stopped.err.count("\n") == 1


def test_unknown_sizes(tmp_path):
    rows = [Row(0, i, i, DECODE, [[i % 2]]) for i in range(4)]
    remoe_sim.write_trace(trace_of(rows, Shape((4,), (1,), None)), tmp_path / "t.parquet")
    arguments = ["split", str(tmp_path / "t.parquet")]
    shown = CliRunner().invoke(cli.main, [*arguments, "--cache", "1"])
    assert "unknown" in shown.stdout
    assert "pass --expert-bytes" in shown.stderr
    for more in (["--budget", "1MiB"], ["--cache", "1", "--minimise", "bytes"]):
        with pytest.raises(remoe_sim.TraceError, match=r"sizes are unknown and (a byte budget|minimising bytes) needs"):
            CliRunner().invoke(cli.main, [*arguments, *more], catch_exceptions=False)
    sized = CliRunner().invoke(cli.main, [*arguments, "--budget", "2MiB", "--expert-bytes", "1MiB"])
    assert sized.exit_code == 0
