"""What the tests of all importers share."""

import re

import numpy as np
import pytest

from remoe_sim import TraceError, import_trace, read_trace, write_trace
from remoe_sim.trace import PHASES
from tests.oracle.naive import Row


def rows_of(trace):
    """A trace in the oracle's words; None for a null decision and for a null slot."""
    layers = [nested(trace.decisions(index)) for index in range(trace.moe_layers)]
    tokens = zip(trace.request.tolist(), trace.position.tolist(), trace.step.tolist(), trace.phase, strict=True)
    return [
        Row(request, position, step, PHASES[phase], [layer[row] for layer in layers])
        for row, (request, position, step, phase) in enumerate(tokens)
    ]


def nested(decisions):
    """The decisions of a layer as lists."""
    lists = decisions.experts.astype(object)
    if decisions.valid is not None:
        lists[~decisions.valid] = None
    routed = np.ones(len(lists), bool) if decisions.routed is None else decisions.routed
    return [one.tolist() if there else None for one, there in zip(lists, routed, strict=True)]


def assert_round_trip(trace, folder):
    """The trace file gives back what was imported: tokens, decisions, weights, model, origin and notes."""
    path = folder / "round-trip.parquet"
    write_trace(trace, path)
    again = read_trace(path)
    assert rows_of(again) == rows_of(trace)
    assert (again.model, again.origin, again.notes) == (trace.model, trace.origin, trace.notes)
    assert again.layer_numbers == trace.layer_numbers
    assert np.array_equal(again.token_id, trace.token_id) if trace.token_id is not None else again.token_id is None
    for index in range(trace.moe_layers):
        mine, theirs = (one.source.weights(index) for one in (trace, again))
        assert theirs is None if mine is None else np.array_equal(mine, theirs, equal_nan=True)


def refused(path, *parts, **options):
    """The sentence with which an import is refused; it names the file and every part, and is one line."""
    with pytest.raises(TraceError) as caught:
        import_trace(path, **options)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    for part in parts:
        assert re.search(part, sentence), sentence
    return sentence
