"""Tables in memory are traces: what `to_frame` makes, what Parquet holds, and tables with the Arrow interface only."""

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

import remoe_sim
from remoe_sim import TraceError, from_arrays, from_frame
from tests.support.imported import rows_of
from tests.support.strategies import examples


class OnlyArrow:
    """A table of a library that says nothing but Arrow's interface."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def table():
    position = np.repeat(np.arange(6), 2)
    layer = np.tile([0, 1], 6)
    experts = [[n % 5, (n + 1) % 5] for n in range(12)]
    return {"token_idx": position, "il": layer, "topk_ids": experts, "stage": ["prefill"] * 4 + ["decode"] * 8}


FORMS = {
    "pandas": lambda columns: pd.DataFrame(columns),
    "filtered": lambda columns: pd.DataFrame(columns)[lambda frame: frame["il"] >= 0],
    "index": lambda columns: pd.DataFrame(columns).set_index(["token_idx", "il"]),
    "arrow": lambda columns: pa.table(columns),
    "batch": lambda columns: pa.RecordBatch.from_pydict(columns),
    "interface": lambda columns: OnlyArrow(pa.table(columns)),
    "views of text": lambda columns: OnlyArrow(
        pa.table({**columns, "stage": pa.array(columns["stage"]).cast(pa.string_view())})
    ),
    "dictionary": lambda columns: columns,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_is_read(form):
    trace = from_frame(FORMS[form](table()))
    assert (trace.tokens, trace.moe_layers, trace.model.top_k) == (6, 2, (2, 2))
    assert trace.phase.tolist() == [0, 0, 1, 1, 1, 1]
    assert trace.decisions(1).experts[2].tolist() == [0, 1]


def test_a_table_of_polars_is_read():
    polars = pytest.importorskip("polars")
    assert rows_of(from_frame(polars.DataFrame(table()))) == rows_of(from_frame(pd.DataFrame(table())))


def test_columns_of_other_names():
    frame = pd.DataFrame(table()).rename(columns={"token_idx": "when", "topk_ids": "taken"})
    right = rows_of(from_frame(pd.DataFrame(table())))
    assert rows_of(from_frame(frame, {"position": "when", "experts": "taken"})) == right
    assert rows_of(from_frame(frame, "position=when,experts=taken")) == right


@examples(60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=4),
    st.integers(0, 99),
    st.booleans(),
)
def test_a_frame_of_a_trace_is_that_trace_again(lengths, seed, weighed):
    chance = np.random.default_rng(seed)
    ids = np.argsort(chance.random((sum(map(sum, lengths)), 3, 9)), axis=2)[:, :, :2]
    weights = -np.sort(-chance.random(ids.shape), axis=2) if weighed else None
    offsets, prompts = np.cumsum([0, *map(sum, lengths)]), [prompt for prompt, _ in lengths]
    trace = from_arrays(ids, offsets=offsets, prompt_lengths=prompts, weights=weights, experts=9)
    again = from_frame(trace.to_frame(), experts=9)
    assert rows_of(again) == rows_of(trace)
    for index in range(3):
        mine, theirs = trace.source.weights(index), again.source.weights(index)
        assert (mine is None and theirs is None) or np.array_equal(mine, theirs)


def test_what_pandas_filtered_of_a_trace_file(tmp_path):
    whole = remoe_sim.read_trace("sample:qwen-original")
    remoe_sim.write_trace(whole, tmp_path / "t.parquet")
    frame = pd.DataFrame(pq.read_table(tmp_path / "t.parquet").to_pydict())
    trace = from_frame(frame[frame["request"] < 3], experts=32)
    assert rows_of(trace) == rows_of(whole.select(requests=range(3)))


def test_sizes_and_models():
    trace = from_frame(table(), expert_bytes="3MiB")
    assert trace.model.expert_bytes == (3 * 2**20,) * 2
    with pytest.raises(TraceError, match="name the right model"):
        from_frame({**table(), "il": np.tile([50, 60], 6)}, model="qwen1.5-moe-a2.7b")
    some = from_frame(table(), model="qwen1.5-moe-a2.7b", quant="q4_k_m")  # two layers of a model
    assert some.model.expert_bytes == remoe_sim.model("qwen1.5-moe-a2.7b", "q4_k_m").expert_bytes[:2]


@pytest.mark.parametrize(
    ("frame", "more", "why"),
    [
        ("t.csv", {}, "'t.csv' is a path, not a table; read it with remoe_sim.import_trace"),
        (np.zeros((3, 2, 2), int), {}, "a ndarray is not a table; .* arrays of ids to from_arrays"),
        ({}, {}, "a dict is not a table"),
        ({"a": [1, 2], "b": [1]}, {}, "the columns do not make a table"),
        (table(), {"phase": "both"}, "phase 'both' is not possible"),
        (table(), {"columns": "position=nowhere"}, "there is no column 'nowhere'"),
        ({"a": [1]}, {}, "the table: no column says"),
        (table(), {"experts": 3}, "the table: row .*expert [34] is not below the model's 3 experts"),
        (table(), {"expert_bytes": [1, 2, 3]}, "expert_bytes has 3 sizes for 2 layers; give one, or"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(frame, more, why):
    with pytest.raises(ValueError, match=why):
        from_frame(frame, **more)
