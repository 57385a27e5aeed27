"""`remoe-sim verdict`: what it prints, and what bad arguments say."""

import json
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.support.strategies import Shape, trace_of
from tests.support.verdicts import one_layer


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command on a trace of one layer; exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    remoe_sim.write_trace(one_layer([0, 1, 2] * 20), "round.parquet")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["remoe-sim", "verdict", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.run()
        printed = capsys.readouterr()
        return SimpleNamespace(code=stopped.value.code or 0, out=printed.out, err=printed.err)

    return run


def test_the_command_prints_both(run):
    shown = run("round.parquet", "--cache", "2")
    assert (shown.code, shown.err) == (0, "")
    assert "Verdict: " in shown.out
    assert "knows the future: belady" in shown.out
    assert "belady*, bypass" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    answer = json.loads(run("round.parquet", "--budget", "20B", "--scope", "global", "--policy", "lru", "--json").out)
    assert answer == remoe_sim.verdict("round.parquet", budget=20, scope="global", policy="lru").to_dict()


def test_the_paragraph_is_what_it_was(run):
    shown = run("round.parquet", "--cache", "2", "--policy", "lru").out
    assert "\n".join(shown.splitlines()[3:13]) == PARAGRAPH


PARAGRAPH = """\
Verdict: policy. With 2 experts per layer (20 B in all), lru misses 60 of 60
lookups (100.0 %). 3 of these misses are cold, first uses that no cache avoids;
57 are capacity misses. Belady, which knows the future, would avoid 29 of the
capacity misses (50.9 %) in the same cache: most of them come from keeping the
wrong experts, not from a lack of room. How much of that a policy without
foresight can reach, this does not say. If experts could also be used without
entering the cache, the optimum would be 22 misses: of the gap of 38 to that,
forced admission costs 9 and not foreseeing 29. A decode token touches 10 B; the
limit is 2.00 of these token cycles. To hit 80 % of the decode lookups with a
cache per layer, lru needs 3 experts in each (30 B in all), Belady 3."""


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "no limit given"),
        (("--cache", "2", "--memory", "1MiB"), "cache and memory given"),
        (("--cache", "2", "--policy", "lru,belady"), "policy 'belady' knows the future"),
        (("--cache", "2", "--policy", "lro"), "unknown policy 'lro'; did you mean 'lru'?"),
        (("--cache", "2", "--scope", "all"), "unknown scope 'all'"),
        (("--cache", "2", "--warmup", "x"), "warmup 'x' is not possible"),
    ],
)
def test_what_is_not_possible(run, arguments, why):
    stopped = run("round.parquet", *arguments)
    assert (stopped.code, stopped.out) == (2, "")
    assert why in stopped.err
    assert stopped.err.count("\n") == 1


def test_unknown_sizes(tmp_path):
    rows = [Row(0, i, i, DECODE, [[i % 2]]) for i in range(4)]
    remoe_sim.write_trace(trace_of(rows, Shape((4,), (1,), None)), tmp_path / "t.parquet")
    shown = CliRunner().invoke(cli.main, ["verdict", str(tmp_path / "t.parquet"), "--cache", "1"])
    assert shown.exit_code == 0
    assert "MiB" not in shown.stdout.replace("MiB/token", "").replace("KiB/token", "")
    assert "pass --expert-bytes" in shown.stderr


def test_one_of_a_thing_is_not_many(run):
    rows = [Row(0, 0, 0, PREFILL, [[0, 1]]), Row(0, 1, 1, PREFILL, [[0, 2]])]
    remoe_sim.write_trace(trace_of(rows, Shape((4,), (2,), None)), "prompt.parquet")
    shown = " ".join(run("prompt.parquet", "--cache", "1", "--policy", "lru").out.split())
    assert "2 tokens, 1 MoE layer scope" in shown
    assert "With 1 expert per layer" in shown
    assert "1 is a capacity miss" in shown
    assert "flood" not in shown.partition("policy misses")[0]  # says something of decode lookups, and there are none
    assert "MiB/token" not in shown
