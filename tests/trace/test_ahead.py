"""Look-ahead choices: kept by everything that makes a trace of another, judged by `info`, version 2 of the schema."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given

import remoe_sim
from remoe_sim import concat, read_trace, write_trace
from remoe_sim.studies.reroute import Rerouted
from remoe_sim.trace.schedule import Reordered
from remoe_sim.trace.weights import with_ordered_slots
from tests.support.strategies import Shape, cases, examples, layer_of, trace_of, with_ahead


def said(trace):
    """(layer number, distance) -> of each token the experts of its look-ahead, None where there is none."""
    found = {}
    for distance in range(1, trace.most_ahead + 1):
        for index, number in enumerate(trace.layer_numbers):
            named = trace.ahead(index, distance)
            if named is not None:
                valid = np.ones(named.experts.shape, bool) if named.valid is None else named.valid
                routed = np.ones(len(named.experts), bool) if named.routed is None else named.routed
                found[number, distance] = [
                    [int(e) if v else None for e, v in zip(*row, strict=True)] if there else None
                    for *row, there in zip(named.experts, valid, routed, strict=True)
                ]
    return found


def numbered(trace, drawn):
    return {(trace.layer_numbers[layer], distance): rows for (layer, distance), rows in drawn.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ahead")


@examples(60)
@given(cases(preload=False, layers=4).flatmap(lambda case: with_ahead(case, len(case.shape.top_k) - 1)))
def test_what_makes_a_trace_of_a_trace_keeps_them(folder, drawn):
    case, ahead = drawn
    trace = case.trace
    assume(trace.tokens and trace.moe_layers > 1)
    wanted = numbered(trace, ahead)
    assert said(trace) == wanted
    write_trace(trace, folder / "t.parquet")
    again = read_trace(folder / "t.parquet")
    assert said(again) == wanted
    meta = json.loads(pq.read_schema(folder / "t.parquet").metadata[b"remoe_sim"])
    assert meta["schema_version"] == 2

    part = again.select(tokens=slice(0, None, 2), layers=trace.layer_numbers[::2])
    kept = set(trace.layer_numbers[::2])
    assert said(part) == {
        (number, distance // 2): rows[::2]  # of every second layer, so that a distance of 2 is one of 1
        for (number, distance), rows in wanted.items()
        if number in kept and distance % 2 == 0
    }
    both = said(concat([trace, again]))
    assert both == {key: rows * 2 for key, rows in wanted.items()}
    assert said(with_ordered_slots(trace)[0]) == wanted
    order = np.arange(trace.tokens)[::-1]
    turned = Reordered(trace, order)
    assert turned.ahead(0, 1).experts.tolist() == trace.ahead(0, 1).experts[::-1].tolist()
    assert Rerouted(trace, None).ahead(0, 1) is trace.ahead(0, 1)


@examples(60)
@given(cases(preload=False, layers=4).flatmap(lambda case: with_ahead(case, len(case.shape.top_k) - 1)))
def test_recall_is_what_a_loop_counts(drawn):
    case, ahead = drawn
    found = {(one.distance, one.layer): one for one in remoe_sim.info(case.trace).ahead}
    assert len(found) == len(ahead)
    for (layer, distance), named in ahead.items():
        target = layer + distance
        wanted, right = ([0] * case.shape.top_k[target] for _ in range(2))
        for row, names in zip(case.rows, named, strict=True):
            for slot, expert in enumerate(row.decisions[target] or []):
                if expert is not None and any(name is not None for name in names or []):
                    wanted[slot] += 1
                    right[slot] += expert in names
        one = found[distance, case.trace.layer_numbers[target]]
        assert (one.wanted, one.foreseen) == (sum(wanted), sum(right))
        assert one.by_rank == [r / w if w else None for r, w in zip(right, wanted, strict=True)]


def small():
    """Two tokens, two layers of four experts, and what layer 1 says of layer 3."""
    from tests.oracle.naive import DECODE, Row

    rows = [Row(0, 0, 0, DECODE, [[0, 1], [2, 3]]), Row(0, 1, 1, DECODE, [[1, 2], [0, 1]])]
    trace = trace_of(rows, Shape((4, 4), (2, 2), None))
    trace.source.__dict__["all_ahead"] = [[layer_of([[3, 0], None], 2), None]]
    return trace


def test_a_frame_has_a_column_for_each_distance():
    frame = small().to_frame()
    assert frame["ahead1"].isna().tolist() == [False, False, True, True, True, True, True, True]
    assert frame["ahead1"][:2].tolist() == [3, 0]


def test_without_them_a_file_is_of_version_1(tmp_path):
    trace = small().select(layers=1)
    assert trace.most_ahead == 0
    write_trace(trace, tmp_path / "one.parquet")
    assert json.loads(pq.read_schema(tmp_path / "one.parquet").metadata[b"remoe_sim"])["schema_version"] == 1
    assert "ahead" not in remoe_sim.info(trace).to_dict()
    assert remoe_sim.info(small()).to_dict()["ahead"] == [
        {"distance": 1, "layer": 3, "wanted": 2, "foreseen": 1, "recall": 0.5, "by_rank": [0.0, 1.0]}
    ]


def test_impossible_experts_are_named_with_their_column():
    trace = small()
    trace.source.__dict__["all_ahead"] = [[layer_of([[3, 4], None], 2), None]]
    with pytest.raises(remoe_sim.TraceError, match=r"row 0, column 'ahead1_01': expert 4 is not below"):
        trace.ahead(0, 1)


def test_a_predictor_without_its_columns_says_how_to_record_them():
    trace = small()
    with pytest.raises(ValueError, match=r"at most 1 MoE layers, so depth 2.*--depth 1 or less"):
        remoe_sim.prefetch(trace, 2, predictor="lookahead", depth=2)
    with pytest.raises(ValueError, match=r"no such columns \(ahead1_NN\); record it with: .*--ahead 1"):
        remoe_sim.prefetch("sample:qwen-original", 8, predictor="lookahead")
