"""What is learnt from a share of the requests, and the files that keep divisions and pins."""

import json

import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim.cache.learning import parted, read_kept, write_kept
from remoe_sim.cli import main

TRACE = "sample:qwen-original"


@pytest.mark.parametrize("more", [{"pin": "hot:25%"}, {"policy": "hot+lru"}])
def test_a_share_is_the_same_as_two_traces(more):
    train, rest = parted(remoe_sim.read_trace(TRACE), 0.25, 3)
    assert (train.requests, rest.requests) == (50, 150)
    asked = {"cache": 12, "phase": "decode", "policy": "lru", **more}
    found = remoe_sim.replay(TRACE, train_share=0.25, train_seed=3, **asked)
    apart = remoe_sim.replay(rest, train=train, **asked).results[0]
    itself = remoe_sim.replay(train, train=train, **asked).results[0]
    assert (found.results[0].misses, found.results[0].lookups) == (apart.misses, apart.lookups)
    own = found.settings["held_out"]["on_what_was_learnt_from"][apart.policy]
    assert (own["misses"], own["lookups"]) == (itself.misses, itself.lookups)


def test_what_learns_is_held_out_by_default_and_what_does_not_is_counted_whole():
    asked = {"cache": 12, "phase": "decode", "policy": "lru"}
    assert "held_out" not in remoe_sim.replay(TRACE, **asked).settings
    held = remoe_sim.replay(TRACE, pin="hot:2", **asked).settings["held_out"]
    assert (held["train_share"], held["trained_requests"], held["judged_requests"]) == (0.5, 100, 100)
    shown = CliRunner().invoke(main, ["replay", TRACE, "--cache", "12", "--pin", "hot:2", "--policy", "lru"]).stdout
    assert "learnt from 100 requests, counted on 100 others; hit rates: lru" in shown


def test_a_division_and_pins_come_back_from_their_files(tmp_path):
    kept, pins = tmp_path / "division.toml", tmp_path / "pins.toml"
    write_kept("division", kept, {0: 8, 1: 4, 2: 12, 3: 8})
    write_kept("pins", pins, {0: [3, 17], 2: [5]})
    assert read_kept("division", kept) == {0: 8, 1: 4, 2: 12, 3: 8}
    one = remoe_sim.replay(TRACE, division=kept, pin=pins, policy="lru", phase="decode")
    other = remoe_sim.replay(TRACE, division="8,4,12,8", pin="0:3,0:17,2:5", policy="lru", phase="decode")
    assert one.results[0].misses == other.results[0].misses
    assert one.settings["division"] == [8, 4, 12, 8]


def test_an_equal_division_is_a_plain_cache():
    asked = {"policy": "lru,lfu", "phase": "decode"}
    for one, other in zip(
        remoe_sim.replay(TRACE, division=[8] * 4, **asked), remoe_sim.replay(TRACE, cache=8, **asked), strict=True
    ):
        assert one.misses == other.misses


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[division]\n0 = 8", "of 1 layers"),
        ("x = 1", "is not a"),
        ("[division]\n0 = 'a'", "is not a"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, text, why):
    path = tmp_path / "division.toml"
    path.write_text(text)
    done = CliRunner().invoke(main, ["replay", TRACE, "--division", str(path)])
    assert done.exit_code == 2 or isinstance(done.exception, ValueError)
    assert why in done.output or why in str(done.exception)


def test_a_division_goes_with_no_other_limit():
    with pytest.raises(ValueError, match="give it alone"):
        remoe_sim.replay(TRACE, cache=8, division="8,8,8,8")


def test_split_writes_what_replay_takes(tmp_path):
    kept = tmp_path / "division.toml"
    named = ["split", TRACE, "--cache", "8", "--phase", "decode", "--json", "--output", str(kept)]
    found = json.loads(CliRunner().invoke(main, named).stdout)["results"][0]["best"]
    result = remoe_sim.replay(TRACE, division=kept, policy="lru", phase="decode").results[0]
    assert (result.misses, result.lookups) == (found["misses"], found["lookups"])
    again = remoe_sim.split("sample:qwen-remoe", cache=8, phase="decode", apply=kept)["lru"]
    other = remoe_sim.replay("sample:qwen-remoe", division=kept, policy="lru", phase="decode").results[0]
    assert again.applied.misses == other.misses
