"""Slots in any order and numbers that cannot be gate weights, in every format that has weights."""

import json
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from remoe_sim import Decisions, InMemory, TraceError, import_trace, read_trace, reroute, write_trace
from remoe_sim.trace.weights import ORDERED, in_order
from tests.support import foreign_files
from tests.support.bigmoe import PREAMBLE, capture
from tests.support.data import DEMO
from tests.support.foreign_files import FIRST, flame_moe, json_file, lines_file, text_file
from tests.support.imported import rows_of
from tests.support.plain_files import write_csv, write_jsonl, write_npz
from tests.support.strategies import examples
from tests.support.torch_writing import tensor, torch_save

# Each writes the first fixture's ids, in the order in which they are given, with these weights of each decision.


def tokens(ids, weights):
    return [
        (index, layer, ids[index, layer].tolist(), [float(one) for one in weights[index, layer]])
        for index in range(len(ids))
        for layer in range(2)
    ]


def csv_long(folder, ids, weights):
    lines = [
        f"0,{at},decode,{layer},{expert},{weight}"
        for at, layer, experts, gates in tokens(ids, weights)
        for expert, weight in zip(experts, gates, strict=True)
    ]
    return write_csv(folder, "request,position,phase,layer,expert,weight", lines)


def csv_wide(folder, ids, weights):
    lines = [f"0,{at},decode,{layer},{a},{b},{c},{d}" for at, layer, (a, b), (c, d) in tokens(ids, weights)]
    return write_csv(folder, "request,position,phase,layer,e0,e1,w0,w1", lines)


def jsonl(folder, ids, weights):
    return write_jsonl(
        folder,
        [
            {"request": 0, "position": at, "phase": "decode", "layer": layer, "experts": experts, "weights": gates}
            for at, layer, experts, gates in tokens(ids, weights)
        ],
    )


def npz(folder, ids, weights):
    return write_npz(folder, experts=ids, weights=np.asarray(weights, float))


def bigmoe(folder, ids, weights):
    rows = [
        f"0,1,{at},{layer},{slot},{expert},{weight},0,0\n"
        for at, layer, experts, gates in tokens(ids, weights)
        for slot, (expert, weight) in enumerate(zip(experts, gates, strict=True))
    ]
    return capture(folder, "".join(rows), PREAMBLE)


def lattice(folder, ids, weights):
    lines = [
        {"layer_idx": layer, "token_idx": at, "selected_ids": experts, "gate_weights": gates}
        for at, layer, experts, gates in tokens(ids, weights)
    ]
    return lines_file(folder, "l.jsonl", lines)


def vllm_routes(folder, ids, weights):
    lines = [
        {"req_id": "r", "token_idx": at, "layer": layer, "topk_ids": experts, "topk_weights": gates}
        for at, layer, experts, gates in tokens(ids, weights)
    ]
    return lines_file(folder, "r.jsonl", lines)


def speculative(folder, ids, weights):
    lines = [
        {"dataset": "d", "problem_id": 0, "layer": layer, "experts": experts, "gating_probs": gates, "token_idx": at}
        for at, layer, experts, gates in tokens(ids, weights)
    ]
    return lines_file(folder, "p.jsonl", lines)


def colibri(folder, ids, weights):
    lines = [
        f"{at} 0 {layer} " + " ".join(f"{expert}:{gate}" for expert, gate in zip(experts, gates, strict=True))
        for at, layer, experts, gates in tokens(ids, weights)
    ]
    return text_file(folder, "route.txt", "\n".join(lines) + "\n")


def gpt_oss(folder, ids, weights):
    data = [
        {
            f"token_{at}": {
                f"layer_{layer}": {"selected_experts": ids[at, layer].tolist(),
                                   "selected_probs": [float(one) for one in weights[at, layer]]}
                for layer in range(2)
            }
        }
        for at in range(len(ids))
    ]  # fmt: skip
    return json_file(folder, "g.json", foreign_files.gpt_oss() | {"router_data": data})


def moelens(folder, ids, weights):
    whole = foreign_files.moelens()
    for layer in range(2):
        for at, one in enumerate(whole["layers"][1 + layer]["tokens"]):
            one["top_experts"] = ids[at, layer].tolist()
            one["top_weights"] = [float(weight) for weight in weights[at, layer]]
    return json_file(folder, "m.json", whole)


def cecar(folder, ids, weights):
    one = {"type": "topk", "idx": tensor(ids[:, None]), "val": tensor(np.asarray(weights, np.float32)[:, None])}
    whole = foreign_files.cecar(routing_decode=[one], prompt_len=[0], eos_pos_in_decode=[-1])
    return torch_save(whole, folder / "c.pt")


def flame(folder, ids, weights):
    import pyarrow as pa

    changed = {
        f"layer_{layer}": {
            "indices": pa.array(ids[:, layer].tolist(), pa.list_(pa.int16())),
            "scores": pa.array(np.asarray(weights)[:, layer].tolist(), pa.list_(pa.float32())),
        }
        for layer in range(2)
    }
    return flame_moe(folder, **changed)


WRITERS = {
    "csv long": csv_long, "csv wide": csv_wide, "jsonl": jsonl, "npz": npz, "bigmoe": bigmoe, "lattice": lattice,
    "vllm-routes": vllm_routes, "speculative-moe": speculative, "colibri": colibri, "gpt-oss": gpt_oss,
    "moelens": moelens, "cecar": cecar, "flame-moe": flame,
}  # fmt: skip
UNKNOWN = ("npz", "bigmoe", "colibri")  # formats in which nan stands for a weight that is not known


def weighted(folder, name, ids, weights):
    """The trace, and its weights [tokens, layers, k]."""
    trace = import_trace(WRITERS[name](folder, ids, weights), experts=8)
    return trace, np.stack([trace.source.weights(index) for index in range(2)], axis=1)


@pytest.mark.parametrize("name", WRITERS)
def test_slots_in_another_order_are_the_same_trace(tmp_path, name):
    weights = np.broadcast_to([0.75, 0.25], FIRST.shape).copy()
    straight, mine = weighted(tmp_path, name, FIRST, weights)
    ids, others = FIRST.copy(), weights.copy()
    ids[1::2], others[1::2] = ids[1::2, :, ::-1], others[1::2, :, ::-1]
    turned, theirs = weighted(tmp_path, name, ids, others)
    assert rows_of(turned) == rows_of(straight)
    assert np.array_equal(mine, theirs)
    assert np.array_equal(mine, weights)
    assert ORDERED in turned.notes or name == "flame-moe"
    assert ORDERED not in straight.notes


@pytest.mark.parametrize("name", WRITERS)
def test_equal_weights_keep_the_order_of_the_file(tmp_path, name):
    trace, _ = weighted(tmp_path, name, FIRST, np.full(FIRST.shape, 0.5))
    assert [row.decisions for row in rows_of(trace)] == FIRST.tolist()


@pytest.mark.parametrize("number", [-0.25, float("inf"), float("-inf"), float("nan"), 1e39, -1e-30])
@pytest.mark.parametrize("name", WRITERS)
def test_what_cannot_be_a_weight_is_refused(tmp_path, name, number):
    if np.isnan(number) and name in UNKNOWN:
        return
    weights = np.broadcast_to([0.75, 0.25], FIRST.shape).copy()
    weights[3, 1, 1] = number
    with np.errstate(over="ignore"):
        path = WRITERS[name](tmp_path, FIRST, weights)
    with pytest.raises(TraceError) as caught:
        read_through(import_trace(path, experts=8))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def read_through(trace):
    for index in range(trace.moe_layers):
        trace.decisions(index)
        trace.source.weights(index)


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_weights_stay_unknown_and_in_their_order(tmp_path, name):
    weights = np.broadcast_to([0.25, 0.75], FIRST.shape).copy()
    weights[3, 1, 1] = np.nan
    trace, found = weighted(tmp_path, name, FIRST, weights)
    assert rows_of(trace)[3].decisions[1] == FIRST[3, 1].tolist()
    assert np.isnan(found[3, 1, 1])
    assert rows_of(trace)[2].decisions[1] == FIRST[2, 1, ::-1].tolist()


@pytest.mark.parametrize("cell", ["", "null"])
def test_an_empty_cell_is_an_unknown_weight(tmp_path, cell):
    if cell:
        line = {"request": 0, "position": 0, "phase": "decode", "layer": 0, "experts": [1, 2], "weights": [0.5, None]}
        path = write_jsonl(tmp_path, [line])
    else:
        path = write_csv(tmp_path, "request,position,phase,layer,e0,e1,w0,w1", ["0,0,decode,0,1,2,0.5,"])
    assert np.isnan(import_trace(path).source.weights(0)[0, 1])


def test_a_null_slot_keeps_its_place(tmp_path):
    lines = ["0,0,decode,0,,1,2,,0.2,0.7", "0,1,decode,0,3,,1,0.1,,0.9", "0,2,decode,0,0,1,2,0.5,0.3,0.2"]
    path = write_csv(tmp_path, "request,position,phase,layer,e0,e1,e2,w0,w1,w2", lines)
    trace = import_trace(path)
    assert [row.decisions[0] for row in rows_of(trace)] == [[None, 2, 1], [1, None, 3], [0, 1, 2]]
    assert trace.source.weights(0)[0, 1:].tolist() == [np.float32(0.7), np.float32(0.2)]


@st.composite
def tables(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, k = draw(st.integers(0, 5)), draw(st.integers(1, 4))
    weights = rng.integers(0, 4, (rows, k)) / 4
    weights[rng.random(weights.shape) < 0.1] = np.nan
    there = None if draw(st.booleans()) else rng.random(weights.shape) < 0.7
    return rng.permuted(np.tile(np.arange(9), (rows, 1)), axis=1)[:, :k], weights.astype(np.float32), there


@examples(200)
@given(tables())
def test_the_order_of_slots_against_a_slow_twin(case):
    experts, weights, there = case
    found_experts, found_weights, moved = in_order(experts, weights, there)
    wanted = []
    for ids, gates, mask in zip(
        experts.tolist(), weights.tolist(), (np.ones(weights.shape, bool) if there is None else there).tolist(),
        strict=True,
    ):  # fmt: skip
        pairs = [(gate, one) for gate, one, counts in zip(gates, ids, mask, strict=True) if counts]
        if not any(gate != gate for gate, _ in pairs):
            pairs.sort(key=lambda pair: -pair[0])
        rest = iter(pairs)
        wanted.append(
            [next(rest) if counts else (gate, one) for gate, one, counts in zip(gates, ids, mask, strict=True)]
        )
    assert found_experts.tolist() == [[one for _, one in row] for row in wanted]
    expected = np.array([[gate for gate, _ in row] for row in wanted], np.float32).reshape(weights.shape)
    assert np.array_equal(found_weights, expected, equal_nan=True)
    assert moved == (found_experts is not experts)


# trace files that others made


def demo_with(weights=True, probs=False, seed=None):
    """The demo with weights, and with the slots of each decision in another order where a seed is given."""
    demo = read_trace(DEMO)
    rng = np.random.default_rng(7)
    layers, gates, every = [], [], []
    for index in range(demo.moe_layers):
        ids = demo.decisions(index).experts
        values = -np.sort(-rng.random(ids.shape).astype(np.float32), axis=1)
        whole = np.zeros((len(ids), 32), np.float16)
        whole[:] = rng.random(whole.shape) / 16
        np.put_along_axis(whole, ids.astype(np.int64), np.float16([0.5, 0.3, 0.2, 0.09]), axis=1)
        if seed is not None:
            order = np.random.default_rng([seed, index]).permuted(np.tile(np.arange(4), (len(ids), 1)), axis=1)
            ids, values = np.take_along_axis(ids, order, axis=1), np.take_along_axis(values, order, axis=1)
        layers.append(Decisions(ids))
        gates.append(values)
        every.append(whole)
    return replace(demo, source=InMemory(layers, gates if weights else None, every if probs else None), path="")


RULES = [("drop", {"threshold": 0.9}), ("cache-aware", {"bias": 0.9}), ("max-rank", {"max_rank": 12})]


@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize(("method", "amount"), RULES)
@pytest.mark.parametrize("weights", [True, False])
def test_reroute_of_slots_in_another_order(tmp_path, method, amount, kind, weights):
    reports = []
    for seed in (None, 3):
        trace = demo_with(weights=weights, probs=method != "drop" or not weights, seed=seed)
        if kind == "file":
            write_trace(trace, tmp_path / "t.parquet")
            trace = tmp_path / "t.parquet"
        reports.append(reroute(trace, 8, method, keep=2, **amount))
    straight, turned = reports
    assert turned.changed_slots == straight.changed_slots > 0
    assert turned.lost.tolist() == straight.lost.tolist()
    assert turned.before == straight.before
    assert turned.after == straight.after
    assert rows_of(turned.rerouted) == rows_of(straight.rerouted)
    assert "in the order of" in turned.rerouted.notes
    assert "in the order of" not in straight.rerouted.notes
    if method == "drop" and weights:
        for index in range(2):
            assert np.array_equal(*(one.rerouted.source.weights(index) for one in reports))


@pytest.mark.parametrize("number", [-0.25, np.inf, -np.inf])
def test_a_trace_file_with_what_cannot_be_a_weight(tmp_path, number):
    import pyarrow as pa
    import pyarrow.parquet as pq

    trace = demo_with()
    write_trace(trace, tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    gates = trace.source.weights(2).copy()
    gates[5, 1] = number
    at = table.column_names.index("weights_03")
    flat = pa.FixedSizeListArray.from_arrays(pa.array(gates.reshape(-1)), 4)
    foreign = table.set_column(at, "weights_03", flat)
    meta = json.loads(table.schema.metadata[b"remoe_sim"])
    meta.pop("content")
    pq.write_table(foreign.replace_schema_metadata({"remoe_sim": json.dumps(meta)}), tmp_path / "u.parquet")
    with pytest.raises(TraceError, match=rf"row 5, column 'weights_03': {number} cannot be a gate weight"):
        reroute(tmp_path / "u.parquet", 8, "drop", threshold=0.5)


@pytest.mark.parametrize("number", [-0.25, np.inf])
def test_what_cannot_be_a_weight_is_not_written(tmp_path, number):
    trace = demo_with()
    trace.source.all_weights[2][5, 1] = number
    with pytest.raises(TraceError, match=rf"row 5, column 'weights_03': {number} cannot be a gate weight"):
        write_trace(trace, tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())


def test_unknown_weights_are_refused_by_reroute_only(tmp_path):
    trace = demo_with()
    trace.source.all_weights[2][trace.tokens - 1, 1] = np.nan
    write_trace(trace, tmp_path / "t.parquet")
    assert np.isnan(read_trace(tmp_path / "t.parquet").source.weights(2)[-1, 1])
    with pytest.raises(TraceError, match="column 'weights_03'"):
        reroute(tmp_path / "t.parquet", 8, "drop", threshold=0.5)
