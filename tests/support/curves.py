"""Curves of random traces, and their comparison with the oracle."""

from unittest import mock

import hypothesis.strategies as st
import numpy as np
from hypothesis import assume

import remoe_sim
from remoe_sim.cache import curve as curve_module
from tests.oracle.naive import Row, interleaved
from tests.oracle.oracle import POLICIES, expected
from tests.support.strategies import Shape, cases, choices

HOW = ("admission", "order", "reset", "phase", "warmup")


@st.composite
def curves(draw, scope, **shape):
    """A case and arguments under which its cache can be emptied between requests."""
    case, arguments = draw(cases(**shape)), draw(choices(*HOW))
    rows = [row for row in case.rows if arguments["phase"] in ("all", row.phase)]
    assume(not (arguments["reset"] == "request" and interleaved(rows)))
    return case, {**arguments, "scope": scope}


def curve(case, policies, arguments, **limits):
    return remoe_sim.curve(case.trace, policy=policies, preload=case.preload, **arguments, **limits)


def counts(row):
    return [row.lookups, row.hits, row.decode_lookups, row.decode_hits]


def oracle_counts(answer):
    return [answer["lookups"], answer["hits"], answer["decode"]["lookups"], answer["decode"]["hits"]]


def one_layer(case, layer):
    """The case with all other layers left out."""
    rows = [Row(row.request, row.position, row.step, row.phase, [row.decisions[layer]]) for row in case.rows]
    shape = Shape(case.shape.experts[layer : layer + 1], case.shape.top_k[layer : layer + 1], None)
    entries = [(0, expert) for index, expert in case.entries if index == layer]
    return type(case)(rows, case.trace, shape, None, tuple(entries))


def side_by_side(wanted):
    """Layers are replayed side by side wherever that is possible, or never."""
    return mock.patch.object(curve_module, "LEAST", 1 if wanted else 1000)


def assert_curve_of_layers(case, arguments, together):
    """Every policy, layer and capacity equals the oracle; together: layers are replayed side by side."""
    with side_by_side(together):
        frame = curve(case, POLICIES, arguments)
    largest = max(case.shape.experts)
    for policy in POLICIES:
        mine = frame[frame["policy"] == policy]
        together = np.zeros((largest, 4), int)
        for layer, number in enumerate(case.trace.layer_numbers):
            rows = mine[mine["layer"] == number]
            experts, alone = case.shape.experts[layer], one_layer(case, layer)
            theirs = [
                oracle_counts(expected(alone, policy, arguments, cache=capacity)) for capacity in range(1, experts + 1)
            ]
            assert rows["capacity"].tolist() == list(range(1, experts + 1))
            assert [counts(row) for row in rows.itertuples()] == theirs
            together += theirs + theirs[-1:] * (largest - experts)  # a full cache stays full
        rows = mine[mine["layer"] == "all"]
        assert rows["capacity"].tolist() == list(range(1, largest + 1))
        assert [counts(row) for row in rows.itertuples()] == together.tolist()


def assert_curve_of_one_cache(case, arguments):
    """Every policy and capacity equals the oracle."""
    limits = range(min(sum(case.shape.experts), 20) + 2)
    frame = curve(case, POLICIES, arguments, cache=limits)
    assert frame.attrs["capacity_unit"] == "experts"
    for row in frame.itertuples():
        assert counts(row) == oracle_counts(expected(case, row.policy, arguments, cache=row.capacity))
