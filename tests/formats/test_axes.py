"""Arrays [layers, tokens, k] and [tokens, k, layers] are told apart, or the import asks."""

import numpy as np
import pytest

from remoe_sim import import_trace
from remoe_sim.formats.axes import tokens_first
from remoe_sim.formats.source import Given, Source
from tests.support.imported import refused, rows_of


def ids(tokens, layers, k=4, experts=16):
    return np.argsort(np.random.default_rng(1).random((tokens, layers, experts)), axis=2)[:, :, :k]


def read(tmp_path, array, given=None, **arrays):
    path = tmp_path / "t.npz"
    np.savez(path, experts=array, **arrays)
    return import_trace(path, **(given or {}))


def same(trace, right):
    return np.array_equal(np.stack([trace.decisions(n).experts for n in range(trace.moe_layers)], axis=1), right)


@pytest.mark.parametrize("axes", ["layers,tokens,k", "tokens,k,layers", "k,layers,tokens", "tokens,layers,k"])
def test_the_user_says_it(tmp_path, axes):
    right = ids(30, 5)
    order = [["tokens", "layers", "k"].index(name) for name in axes.split(",")]
    assert same(read(tmp_path, right.transpose(order), {"axes": axes}), right)


@pytest.mark.parametrize(
    ("arrays", "given"),
    [
        ({"offsets": [0, 10, 30]}, {}),
        ({"token_id": np.arange(30)}, {}),
        ({"layer_numbers": np.arange(5)}, {}),
        ({}, {"moe_layers": 5}),
    ],
)
@pytest.mark.parametrize("turned", [True, False])
def test_lengths_that_are_known_tell_axes_apart(tmp_path, arrays, given, turned):
    right = ids(30, 5)
    trace = read(tmp_path, right.transpose(1, 0, 2) if turned else right, given, **arrays)
    assert same(trace, right)
    assert ("taken as [layers,tokens,k]" in trace.notes) == turned


def test_k_before_layers(tmp_path):
    right = ids(30, 20)
    assert same(read(tmp_path, right.transpose(0, 2, 1)), right)
    assert same(read(tmp_path, right.transpose(0, 2, 1), {"top_k": 4}), right)
    assert same(read(tmp_path, right.transpose(1, 2, 0), {"moe_layers": 20}), right)


@pytest.mark.parametrize("shape", [(3, 5), (26, 300), (300, 400)])
def test_what_stays_open_is_asked(tmp_path, shape):
    np.save(tmp_path / "t.npy", ids(*shape))
    refused(tmp_path / "t.npy", "may be .tokens,layers,k. or .layers,tokens,k.", "--axes layers,tokens,k")
    assert import_trace(tmp_path / "t.npy", axes="layers,tokens,k").moe_layers == shape[0]
    assert import_trace(tmp_path / "t.npy", axes="tokens,layers,k").moe_layers == shape[1]


def test_dense_layers_are_no_repeats():
    table = ids(30, 6)
    table[:, 0] = 0
    source = Source("t", Given())
    assert tokens_first(source, table, source.error) is not None
    assert source.notes == []


def test_top_1_and_few_tokens(tmp_path):
    assert read(tmp_path, ids(2, 5, 1), {"axes": "tokens,layers,k"}).tokens == 2
    assert [row.decisions for row in rows_of(read(tmp_path, ids(9, 3, 1)))] == ids(9, 3, 1).tolist()
