"""`--pin` by layer, by range of layers, and by uses in another trace."""

import numpy as np
import pytest
from click.testing import CliRunner

import remoe_sim
from remoe_sim.cache.caches import usage
from remoe_sim.cli import main

TRACE, OTHER = "sample:qwen-original", "sample:qwen-remoe"
LIMIT = {"cache": 100, "scope": "global", "policy": "lru", "phase": "decode"}
EXPERTS = 32


def results(**more):
    return remoe_sim.replay(TRACE, **LIMIT, **more).to_dict()["results"]


def most_used(count):
    other = remoe_sim.read_trace(OTHER)
    ranked = {layer: np.argsort(-usage(other, layer), kind="stable")[:count].tolist() for layer in range(4)}
    return {layer: experts for layer, experts in ranked.items() if experts}


@pytest.mark.parametrize(
    ("pin", "same"),
    [
        ("1:all", {1: range(EXPERTS)}),
        ("layers:1-2", {1: range(EXPERTS), 2: range(EXPERTS)}),
        ("layers:0-0,3:5", {0: range(EXPERTS), 3: [5]}),
    ],
)
def test_layers_are_all_of_their_experts(pin, same):
    assert results(pin=pin) == results(pin={layer: [*experts] for layer, experts in same.items()})


@pytest.mark.parametrize(("pin", "count"), [("hot:0", 0), ("hot:3", 3), ("hot:25%", 8), ("hot:10%", 3)])
def test_hot_ones_are_the_most_used_of_the_training_trace(pin, count):
    assert results(pin=pin, train=OTHER) == results(pin=most_used(count))


@pytest.mark.parametrize(
    ("pin", "message"),
    [
        ("hot:x", "is not possible; give LAYER:EXPERT"),
        ("layers:9-12", "no MoE layer 9; there are MoE layers from 0 to 3"),
        ("7:all", "no MoE layer 7"),
        ("all:7", "is not possible"),
    ],
)
def test_pins_that_are_not_possible(pin, message):
    with pytest.raises(ValueError, match=message):
        results(pin=pin)


def test_hot_ones_of_few_requests_need_another_trace():
    few = remoe_sim.read_trace(TRACE).select(requests=[0, 1, 2])
    with pytest.raises(ValueError, match="learns from another trace; name it with --train"):
        remoe_sim.replay(few, cache=8, pin="hot:3")


def test_the_command_takes_them():
    named = ["replay", TRACE, "--cache", "8", "--policy", "lru", "--pin", "hot:25%", "--train", OTHER]
    done = CliRunner().invoke(main, named)
    assert done.exit_code == 0, done.output
    refused = CliRunner().invoke(main, [*named[:3], "7", *named[4:]])
    assert "the pinned experts take 8 experts of a cache of 7" in str(refused.exception or refused.output)
