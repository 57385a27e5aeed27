"""`split --train-share`: divisions fitted to some requests and judged on all others."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim.cli import main
from tests.oracle import naive
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.support.strategies import Shape, trace_of

TRACE = "sample:qwen-original"


def rows_of(requests):
    """Requests of six tokens; layer 0 cycles over more experts than layer 1, differently in each request."""
    rows = []
    for request in range(requests):
        draws = np.random.default_rng(request)
        for position in range(6):
            layers = [draws.permutation(8)[:2].tolist(), draws.permutation(3)[:2].tolist()]
            rows.append(Row(request, position, len(rows), PREFILL if position < 2 else DECODE, layers))
    return rows


@pytest.mark.parametrize("reset", ["never", "request"])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_both_parts_are_replays_of_their_requests_alone(seed, reset):
    rows = rows_of(8)
    trace = trace_of(rows, Shape((8, 8), (2, 2), None))
    found = remoe_sim.split(trace, cache=3, train_share=0.25, train_seed=seed, reset=reset)["lru"]
    drawn = set(np.random.default_rng(seed).permutation(8)[:2].tolist())
    assert (found.held_out.trained, found.held_out.judged) == (2, 6)
    for part, on_train in ((found, True), (found.held_out, False)):
        own = [row for row in rows if (row.request in drawn) == on_train]
        for name in ("equal", "greedy", "best"):
            division = getattr(part, name)
            theirs = naive.replay(own, "lru", limit=list(division.experts), reset=reset)
            assert (division.lookups, division.misses) == (theirs["lookups"], theirs["misses"])
            assert division.experts == getattr(found, name).experts


def test_a_division_that_does_not_hold_says_so():
    """Trained requests want four experts of layer 0 and one of layer 1, the others the reverse."""
    rows = []
    drawn = set(np.random.default_rng(0).permutation(4)[:2].tolist())
    for request in range(4):
        for position in range(12):
            many, one = [position % 4], [0]
            rows.append(Row(request, position, len(rows), DECODE, [many, one] if request in drawn else [one, many]))
    found = remoe_sim.split(trace_of(rows, Shape((4, 4), (1, 1), None)), cache=3, train_share="0.5")["lru"]
    assert found.misses_saved > 0
    assert not found.held_out.holds
    assert found.held_out.misses_saved <= 0


def test_what_the_command_says():
    done = CliRunner().invoke(main, ["split", TRACE, "--cache", "8", "--phase", "decode", "--train-share", "0.5"])
    text = " ".join(done.stdout.split())
    assert "on the 100 requests it was fitted to" in text
    assert "hold on new requests." in text or "holds on new requests." in text
    named = ["split", TRACE, "--cache", "8", "--phase", "decode", "--train-share", "0.5", "--json"]
    held = json.loads(CliRunner().invoke(main, named).stdout)["results"][0]["held_out"]
    assert held["misses_saved"] == held["equal"]["misses"] - held["best"]["misses"]
    assert held["holds"] == (held["misses_saved"] > 0)


def test_without_a_share_counts_are_of_all_requests_and_half_is_held_out_beside_them():
    found = remoe_sim.split(TRACE, cache=8, phase="decode")["lru"]
    assert found.equal.misses == remoe_sim.replay(TRACE, cache=8, phase="decode", policy="lru")["lru"].misses
    asked = remoe_sim.split(TRACE, cache=8, phase="decode", train_share=0.5)["lru"]
    assert found.held_out == asked.held_out
    assert asked.held_out.trained_saved == asked.misses_saved
    low, high = found.held_out.interval
    assert low <= found.held_out.misses_saved / found.held_out.equal.misses <= high


def test_three_requests_are_not_parted_unasked():
    trace = trace_of(rows_of(3), Shape((8, 8), (2, 2), None))
    assert remoe_sim.split(trace, cache=3)["lru"].held_out is None


@pytest.mark.parametrize("share", [0, 1, 0.001])
def test_a_part_without_requests_is_refused(share):
    with pytest.raises(ValueError, match="leaves none to train on or none to judge on"):
        remoe_sim.split(TRACE, cache=8, train_share=share)
